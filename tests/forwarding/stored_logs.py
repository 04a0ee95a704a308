"""Logs with several sealed segments, written by the library's own writer, and what is compared of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from audit_async import ActorInfo, AuditConfig, AuditLogger, Local, RotationPolicy
from audit_async._layout.age_files import Identities
from audit_async._layout.archive_reading import open_segment_for_reading
from audit_async._layout.manifest import read_manifest
from audit_async._layout.names import SegmentName
from audit_async.config import Privacy
from audit_async.events import AuthSuccess
from audit_async.forwarding import WormArchive
from audit_async.forwarding.worm_push import PushedLog
from tests.privacy.key_stores import make_store

DAYS = 30


def config_of(base_dir: Path, **settings: Any) -> AuditConfig:
    """Return the configuration of a log of small segments."""
    given: dict[str, Any] = {"rotation": RotationPolicy(max_bytes=4096), "handle_signals": False} | settings
    return AuditConfig(mode=Local(base_dir), service_id="orders", **given)


def sealing(tmp_path: Path) -> Privacy:
    """Return settings that seal what is personal."""
    if not (tmp_path / "keys").exists():
        make_store(tmp_path)
    return Privacy(key_store=tmp_path / "keys", master_key=f"file:{tmp_path / 'master.key'}")


async def write_log(base_dir: Path, count: int = 40, **settings: Any) -> Path:
    """Write records to a log, also to one that is there; return its directory."""
    async with AuditLogger(config_of(base_dir, **settings)) as audit:
        for number in range(count):
            await audit.emit_durable(
                AuthSuccess(actor=ActorInfo(user_id="alice"), method="password", path=f"/{number}")  # type: ignore[arg-type]
            )
        assert audit.directory is not None
        return Path(audit.directory)


def sealed_in(directory: Path) -> list[str]:
    """Return the names of the sealed segments of which the records are on disk."""
    return [entry.segment for entry in read_manifest(directory) if entry.state not in {"deleted", "lost"}]


def digests(directory: Path, identities: Identities | None = None) -> dict[str, str]:
    """Return the SHA-256 of each segment's records, after decompression and decryption."""
    found = {}
    entries = {entry.segment: entry for entry in read_manifest(directory)}
    for name in sorted({*entries, *(path.name for path in directory.glob("*.audit"))}):
        if SegmentName.parse(name) is None:
            continue
        if name in entries:
            with open_segment_for_reading(directory, entries[name], identities) as file:
                found[name] = hashlib.sha256(file.read()).hexdigest()
        else:
            found[name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    return found


async def push(archive: WormArchive, directory: Path, **settings: Any) -> PushedLog:
    """Push a log as these tests do: locked for 30 days, in the clear."""
    given: dict[str, Any] = {"retention_days": DAYS, "keep_plain_personal_data": True} | settings
    return await archive.push(directory, **given)
