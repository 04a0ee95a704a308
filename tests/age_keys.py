"""age keys for tests, new in each process; importing this skips a module's tests if pyrage is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async.reader import Identities

pyrage = pytest.importorskip("pyrage", reason="encrypted archives need the extra age")

IDENTITY = str(pyrage.x25519.Identity.generate())
RECIPIENT = str(pyrage.x25519.Identity.from_str(IDENTITY).to_public())
OTHER_IDENTITY = str(pyrage.x25519.Identity.generate())
OTHER_RECIPIENT = str(pyrage.x25519.Identity.from_str(OTHER_IDENTITY).to_public())
IDENTITIES = Identities([IDENTITY])


def encrypted(content: bytes, recipient: str = RECIPIENT) -> bytes:
    """Return an age file, as anybody can make it who knows the public key."""
    made: bytes = pyrage.encrypt(content, [pyrage.x25519.Recipient.from_str(recipient)])
    return made


def key_file(directory: Path, identity: str = IDENTITY) -> Path:
    """Return an identity file as age-keygen writes it."""
    path = directory / "key.txt"
    path.write_text(f"# created: 2026-11-28T20:00:00Z\n# public key: {RECIPIENT}\n{identity}\n")
    return path
