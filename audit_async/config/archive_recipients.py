"""The age recipients that archives are encrypted to: checked when a configuration is made, and read again when used.

A recipient is a public key, so it may be in any message. Needs pyrage, the extra `age`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from audit_async.errors import ConfigError

_FIELD = "retention.archive_recipients"
_ALLOWED = 'each is a native age recipient ("age1...") or an SSH public key ("ssh-ed25519 ..." or "ssh-rsa ...")'


def parse_recipients(recipients: tuple[str, ...]) -> list[Any]:
    """Return what pyrage makes of recipients; raises `ConfigError` for one that is none, and if pyrage is missing."""
    if not recipients:
        return []
    try:
        pyrage = import_pyrage()
    except ImportError as error:
        raise ConfigError(
            _FIELD, 'encrypting archives needs pyrage; install the extra "age": pip install "audit-async[age]"'
        ) from error
    return [_parse(pyrage, text.strip()) for text in recipients]


def import_pyrage() -> ModuleType:
    """Return the module pyrage; raises `ImportError` if it is not installed."""
    import pyrage  # noqa: PLC0415 - only needed by those who encrypt or read encrypted archives

    module: ModuleType = pyrage
    return module


def _parse(pyrage: ModuleType, text: str) -> Any:  # noqa: ANN401 - pyrage has no types
    if text.upper().startswith("AGE-SECRET-KEY-"):
        # Not repeated in the message: it is a private key, and does not belong on this host at all.
        raise ConfigError(
            _FIELD, "one is a private key (an identity); give its public key, which `age-keygen -y` prints"
        )
    kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
    try:
        return kind.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise ConfigError(_FIELD, f"{text[:100]!a} is no recipient ({error}); {_ALLOWED}") from error
