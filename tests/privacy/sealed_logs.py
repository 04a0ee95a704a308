"""Logs that seal, for tests: their configuration, what they record, and what opens it again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from audit_async import ActorInfo, AuditConfig, AuthMethod
from audit_async.config import Privacy
from audit_async.events import AuthSuccess
from audit_async.privacy import KeyStore
from audit_async.privacy.opening_sealed import OpenedRecord, Opener
from audit_async.privacy.sealed_text import parse_sealed
from tests.logs import ConfigFor, log_directory, segment_lines
from tests.privacy.key_stores import make_store, open_store

SEALED_ID = re.compile(rb'"sealed:1:([A-Za-z0-9_-]{22}):')


def sealing(
    config_for: ConfigFor, tmp_path: Path, *, privacy: dict[str, Any] | None = None, **settings: Any
) -> AuditConfig:
    """Return the configuration of a log that seals, with a key store of its own unless there is one."""
    path = tmp_path / "keys"
    if not path.exists():
        make_store(tmp_path)
    own = {"key_store": str(path), "master_key": f"file:{tmp_path / 'master.key'}"}
    return config_for(privacy=Privacy(**(own | (privacy or {}))), **settings)


def success(user_id: str = "alice", **members: Any) -> AuthSuccess:
    """Return an event with three personal members."""
    actor = {"user_id": user_id, "ip": "203.0.113.9", "display_name": "Alice Liddell"} | members
    return AuthSuccess(actor=ActorInfo(**actor), method=AuthMethod.MFA, path="/login")


def recorded(config: AuditConfig, *, event_type: str = "", instance: str = "00") -> list[dict[str, Any]]:
    """Return the records of a log that a caller has emitted, or those of one type, as they are."""
    records = [json.loads(line) for line in segment_lines(log_directory(config, instance))]
    if event_type:
        return [record for record in records if record["event"]["event_type"] == event_type]
    return [record for record in records if not record["event"]["event_type"].startswith("audit.")]


def opened(config: AuditConfig, tmp_path: Path, *, event_type: str = "", instance: str = "00") -> list[OpenedRecord]:
    """Return the same records with what the key store opens of them."""
    log_id = json.loads((log_directory(config, instance) / "log.json").read_bytes())["log_id"]
    store = open_store(tmp_path / "keys")
    try:
        opener = Opener(store)
        return [
            opener.open(log_id, record["event"], record.get("context", {}))
            for record in recorded(config, event_type=event_type, instance=instance)
        ]
    finally:
        store.close()


def key_ids_in(data: bytes) -> set[str]:
    """Return the ids of all keys that recorded bytes are sealed under."""
    return {key_id.decode() for key_id in SEALED_ID.findall(data)}


def all_key_ids(config: AuditConfig) -> set[str]:
    """Return the ids of all keys that a log is sealed under."""
    return key_ids_in(b"".join(segment_lines(log_directory(config))))


def nonces_in(lines: list[bytes]) -> list[tuple[str, bytes]]:
    """Return the key id and the nonce of each sealed text in recorded lines."""
    sealed = [
        parse_sealed(text.decode()) for line in lines for text in line.split(b'"') if text.startswith(b"sealed:1:")
    ]
    return [(parts.key_id, parts.nonce) for parts in sealed if parts is not None]


def stored_key_ids(store: KeyStore, ids: set[str]) -> set[str]:
    """Return which of these keys a store has, and not as destroyed."""
    from audit_async.privacy import key_id_bytes  # noqa: PLC0415 - after the extra is there

    found = store.keys([key_id_bytes(text) for text in ids])
    return {text for text in ids if isinstance(found.get(key_id_bytes(text)), bytes)}
