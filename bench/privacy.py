"""What sealing costs: an `emit` with personal members against one without, and persons who are new, durable.

Time is the CPU's. Hashing a record with SHA-256 is measured in the same rounds, and the ratio to it depends less on the
machine and on what else it does than the microseconds.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from hashlib import sha256
from itertools import count
from pathlib import Path
from time import process_time, thread_time
from typing import Final

from audit_async import ActorInfo, AuditConfig, AuditEvent, AuditLogger, AuthMethod, Batched
from audit_async.config import Privacy
from audit_async.events import AuthSuccess, SealVerified
from audit_async.privacy import create_key_store, new_master_key
from bench.frame import Row, config, effort, in_turn, median, ratios, row_of, show, work_directory

_EVENTS: Final = effort(3000, 100)
_NEW: Final = effort(20_000, 500)
_RECORD: Final = b"x" * 900  # bytes of a record with three sealed members, about


def run() -> None:
    """Measure and print."""
    with work_directory() as directory:
        show("privacy: one emit, CPU time of its thread", _emits(directory))
        show("privacy: persons who are new, until they are durable with their keys", _new_persons(directory))


def _sealing(directory: Path) -> AuditConfig:
    """Return the configuration of a log that seals, with a new key store."""
    key = directory / "master.key"
    key.touch(0o600)
    key.write_bytes(new_master_key())
    create_key_store(directory / "keys", f"file:{key}")
    privacy = Privacy(key_store=str(directory / "keys"), master_key=f"file:{key}")
    return _config(directory, privacy=privacy)


def _config(directory: Path, **settings: object) -> AuditConfig:
    flush_mode = Batched(size=100_000, interval=60.0)
    return config(directory / "audit", flush_mode, buffer_events=1_000_000, buffer_bytes=1 << 30, **settings)


def _success(user_id: str, ip: str | None = None, display_name: str | None = None) -> AuthSuccess:
    actor = ActorInfo(user_id=user_id, ip=ip, display_name=display_name)
    return AuthSuccess(actor=actor, method=AuthMethod.PASSWORD, path="/login")


def _emits(directory: Path) -> list[Row]:
    nobody = SealVerified(shard_id="llama-3-70b/7", worker_id="worker-12")
    three = _success("alice", ip="203.0.113.9", display_name="Alice Liddell")
    subjects: dict[str, tuple[bool, AuditEvent]] = {
        "plain, in a log that does not seal": (False, nobody),
        "plain, in a log that seals": (True, nobody),
        "1 sealed member": (True, _success("alice")),
        "3 sealed members": (True, three),
        "3 personal members, in a log that does not seal": (False, three),
    }
    numbers = count()

    def emit_us(seals: bool, event: AuditEvent) -> Callable[[], float]:
        return lambda: asyncio.run(_emit(directory / str(next(numbers)), seals=seals, event=event))

    measured = in_turn(
        {"SHA-256 of a record": _hash_us, **{name: emit_us(*subject) for name, subject in subjects.items()}},
        rounds=effort(7, 1),
    )
    hashing = measured["SHA-256 of a record"]
    return [
        row_of(
            name,
            samples,
            "us",
            "" if samples is hashing else f"{median(ratios(samples, hashing)):.1f} times the SHA-256 of a record",
            digits=2,
        )
        for name, samples in measured.items()
    ]


def _hash_us() -> float:
    began = thread_time()
    for _ in range(_EVENTS):
        sha256(_RECORD).hexdigest()
    return (thread_time() - began) / _EVENTS * 1e6


async def _emit(directory: Path, *, seals: bool, event: AuditEvent) -> float:
    directory.mkdir()  # noqa: ASYNC240 - nothing else runs
    async with AuditLogger(_sealing(directory) if seals else _config(directory)) as audit:
        audit.emit(event)
        await audit.flush()
        emit = audit.emit
        began = thread_time()
        for _ in range(_EVENTS):
            emit(event)
        took_s = thread_time() - began
    shutil.rmtree(directory)
    return took_s / _EVENTS * 1e6


def _new_persons(directory: Path) -> list[Row]:
    numbers = count()

    def per_s() -> float:
        return asyncio.run(_see_new(directory / f"new {next(numbers)}"))

    measured = in_turn({"new persons a CPU second": per_s}, rounds=effort(3, 1))
    return [row_of(name, samples, "/s") for name, samples in measured.items()]


async def _see_new(directory: Path) -> float:
    """Return how many persons who are new a second of CPU time takes, of all threads."""
    directory.mkdir()  # noqa: ASYNC240 - nothing else runs
    async with AuditLogger(_sealing(directory)) as audit:
        await audit.flush()
        began = process_time()
        for n in range(_NEW):
            audit.emit(_success(f"user-{n}"))
            if n % 2000 == 1999:
                await audit.flush()
        await audit.flush()
        took_s = process_time() - began
    shutil.rmtree(directory)
    return _NEW / took_s
