"""The power goes at any moment of a log that seals: whatever the disk kept of it, its records have their keys."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from audit_async import AuditConfig, AuditLogger, Batched, Hybrid, Immediate, Local, RotationPolicy, audit_context
from audit_async._durable import disk
from audit_async.config import FlushMode, Privacy
from audit_async.privacy import NewKey, key_id_text
from audit_async.privacy.sqlite_key_store import SqliteSession
from tests.privacy.key_stores import make_store
from tests.privacy.sealed_logs import key_ids_in, success
from tests.store.chained import memory_directory
from tests.store.power_cut import Recorder, crash_states

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="key stores are kept on Linux")

MODES: dict[str, FlushMode] = {
    "immediate": Immediate(),
    "batched": Batched(size=5, interval=0.01),
    "hybrid": Hybrid(batch_size=5, batch_interval=0.01),
}


def leave_key_store_alone(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    """Put the recorder between the log and the disk, and not between the key store, whose own tests cut its power."""
    real = {name: getattr(disk, name) for name in vars(disk) if callable(getattr(disk, name))}
    recorder.install(patch)
    for name, before in real.items():
        recorded = getattr(disk, name)
        if recorded is before:
            continue

        def call(*args: Any, before: Any = before, recorded: Any = recorded, **kwargs: Any) -> Any:
            fd = kwargs["dir_fd"] if "dir_fd" in kwargs else args[0]
            is_ours = isinstance(fd, int) and os.fstat(fd).st_ino in recorder.inodes
            return (recorded if is_ours else before)(*args, **kwargs)

        patch.setattr(disk, name, call)


async def emit(config: AuditConfig) -> None:
    """Emit about persons that are new, in a context that is, too; small segments, so that they are sealed meanwhile."""
    async with AuditLogger(config) as audit:
        for n in range(12):
            with audit_context(user_id=f"context-{n}"):
                audit.emit(success(f"user-{n}"))
                audit.emit(success(f"user-{n % 3}"))
            if n % 3 == 2:
                await audit.flush()


@pytest.mark.parametrize("mode", MODES)
def test_no_record_is_on_the_disk_without_its_keys(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every state that the disk could be in after each system call, synced or not."""
    stored_at: dict[str, int] = {}
    insert: Any = SqliteSession.insert
    make_store(tmp_path)
    with memory_directory() as base_dir:
        recorder = Recorder(base_dir)

        def insert_and_note(self: SqliteSession, keys: Sequence[NewKey]) -> list[bytes]:
            refused: list[bytes] = insert(self, keys)  # durable when it returns: tests/privacy/test_key_store.py
            for key in keys:
                stored_at.setdefault(key_id_text(key.key_id), len(recorder.calls))
            return refused

        monkeypatch.setattr(SqliteSession, "insert", insert_and_note)
        config = AuditConfig(
            mode=Local(base_dir),
            service_id="orders",
            handle_signals=False,
            flush_mode=MODES[mode],
            rotation=RotationPolicy(max_bytes=16_384),
            privacy=Privacy(key_store=str(tmp_path / "keys"), master_key=f"file:{tmp_path / 'master.key'}"),
        )
        with pytest.MonkeyPatch.context() as patch:
            leave_key_store_alone(recorder, patch)
            asyncio.run(emit(config))
    assert len(stored_at) == 24
    states = 0
    seen: set[str] = set()
    for count, state in crash_states(recorder.calls):
        states += 1
        for _, _, content in state.files:
            ids = key_ids_in(content)
            seen |= ids
            assert all(stored_at[key_id] <= count for key_id in ids), f"after {count} calls"
    assert states > 100
    assert seen == set(stored_at)
