"""What a sink trusts and shows when it speaks TLS, of the files that its settings name."""

from __future__ import annotations

import ssl

from audit_async.errors import ConfigError

__all__ = ["tls_context"]


def tls_context(settings: object) -> ssl.SSLContext:
    """Return what a sink trusts, and what it shows.

    Args:
        settings: Settings with `name`, `ca_file`, `client_cert` and `client_key`.

    Raises:
        ConfigError: A file can't be used.
    """
    members = ("name", "ca_file", "client_cert", "client_key")
    name, ca_file, certificate, key = (getattr(settings, member) for member in members)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"sink.{name}.ca_file", f"{ca_file} holds no certificates, or can't be read") from error
    try:
        if certificate is not None:
            context.load_cert_chain(certificate, key, password=_no_password)
    except OSError as error:
        raise ConfigError(
            f"sink.{name}.client_cert",
            f"{certificate} and its key can't be used: give both in PEM, without a passphrase",
        ) from error
    return context


def _no_password() -> str:
    """Answer for a key that asks for a passphrase: OpenSSL would ask at the terminal."""
    return ""
