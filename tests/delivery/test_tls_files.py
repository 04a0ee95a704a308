"""The files of TLS that a sink can't use: which setting is wrong is said, and no terminal is asked for a passphrase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from audit_async.delivery import SyslogSettings
from audit_async.delivery.tls_files import tls_context
from audit_async.errors import ConfigError
from tests.delivery.certificates import Certificates


def lock(key: Path) -> None:
    """Encrypt a key with a passphrase."""
    private = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cret")))


def exchange(key: Path) -> None:
    """Put the key of another certificate in its place."""
    key.write_bytes(Certificates(key.parent).issue("another").key.read_bytes())


@pytest.mark.parametrize("spoil", [lock, exchange, Path.unlink, lambda key: key.write_text("no key")])
def test_a_key_that_can_t_be_used_is_a_mistake_in_the_settings(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """The certificate and its key are named, and what they have to be."""
    certificates = Certificates(tmp_path)
    issued = certificates.issue("web-1")
    settings = SyslogSettings(
        name="siem", url="tls://localhost:6514", ca_file=str(certificates.ca_file),
        client_cert=str(issued.certificate), client_key=str(issued.key),
    )  # fmt: skip
    tls_context(settings)
    spoil(issued.key)
    with pytest.raises(ConfigError, match=r"sink\.siem\.client_cert: .*web-1\.pem.*without a passphrase"):
        tls_context(settings)


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_an_authority_that_can_t_be_read_is_a_mistake_in_the_settings(tmp_path: Path, content: str | None) -> None:
    """Never is nobody, or everybody, trusted instead."""
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with pytest.raises(ConfigError, match=r"sink\.siem\.ca_file: .*ca\.pem holds no certificates"):
        tls_context(SyslogSettings(name="siem", url="tls://localhost:6514", ca_file=str(ca_file)))
