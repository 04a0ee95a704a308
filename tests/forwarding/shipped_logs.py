"""Hosts with real logs, and bringing them to an engine as a forwarder does, without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audit_async import AuditConfig, AuditLogger, Local
from audit_async._trail.log_files import find_logs
from audit_async.config import RotationPolicy
from audit_async.forwarding import Batch, Head, LogIdentity, Sink
from tests.logs import failure, segment_lines

NO_HASH = "0" * 64


async def write_log(
    base_dir: Path, count: int, *, service: str = "orders", max_bytes: int = 64 << 10, flush_every: int = 50
) -> Path:
    """Write records with a real writer, which continues the log if there is one; return the log's directory."""
    config = AuditConfig(
        mode=Local(base_dir, dir_mode=0o700), service_id=service, instance="00",
        rotation=RotationPolicy(max_bytes=max_bytes),
    )  # fmt: skip
    async with AuditLogger(config) as audit:
        for number in range(count):
            audit.emit(failure(number))
            if number % flush_every == flush_every - 1:
                await audit.flush()
    return base_dir / service / "00"


def identity_of(directory: Path, host: str = "web-1", tenant: str = "acme") -> LogIdentity:
    """Return what engines call a host's log."""
    [log] = find_logs(directory)
    return LogIdentity(tenant=tenant, service=log.service_id, host=host, instance=log.instance, log_id=log.log_id)


def batch_of(lines: Sequence[bytes], first_seq: int) -> Batch:
    """Return consecutive lines as a batch that declares what they are."""
    return Batch(
        first_seq=first_seq,
        last_seq=first_seq + len(lines) - 1,
        prev=_member(lines[0], b'"prev_hash":"'),
        last_hash=_member(lines[-1], b'"hash":"'),
        lines=b"".join(lines),
    )


def _member(line: bytes, name: bytes) -> str:
    at = line.rindex(name) + len(name)
    return line[at : at + 64].decode()


async def ship(
    directory: Path, sink: Sink, *, host: str = "web-1", a_batch: int = 37, until: int | None = None
) -> LogIdentity:
    """Bring what the engine does not have of a host's log to it."""
    log = identity_of(directory, host)
    await sink.describe(log, (directory / "log.json").read_bytes())
    lines = segment_lines(directory)[:until]
    head = await sink.head(log)
    at = 0 if head is None else head.seq + 1
    while at < len(lines):
        batch = batch_of(lines[at : at + a_batch], at)
        await sink.append(log, batch, after=head)
        head = batch.head
        at = batch.last_seq + 1
    return log


def head_of(directory: Path) -> Head:
    """Return the head of a log."""
    lines = segment_lines(directory)
    return batch_of(lines[-1:], len(lines) - 1).head


def files_of(directory: Path) -> dict[str, bytes]:
    """Return the segments of a log, and their checksum files."""
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.audit*"))}
