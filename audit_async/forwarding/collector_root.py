"""The root directory of a collector, and the small files in it: who collects there, what was seen, what was found.

    <root>/
        collector.json      that this is a collector's root; made once
        collector.lock      flock'd by the one process that collects here; holds its pid
        status.json         what the collector has of each log, renewed every few seconds
        findings.jsonl      what doesn't fit, and when it was seen: a line each, only ever added to
        .findings/          the log `audit-collect`, which records each finding and each acknowledgement
        acknowledged.json   which findings an operator has looked at; only `audit-async hosts ack` writes it
        <tenant>/<host>/<service>/<instance>.<log_id>/

Each other file but the lock is replaced as a whole, so readers need no lock. None of them is evidence: the logs are.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from audit_async._durable import disk
from audit_async._durable.lock_waits import one_at_a_time
from audit_async._durable.whole_files import append_lines, replace_file, sync_names
from audit_async._layout.names import COLLECTOR_FILE
from audit_async._layout.regular_files import MOST_MANIFEST_BYTES, read_bounded
from audit_async.errors import AuditError, ConfigError, LogCorrupted

__all__ = [
    "COLLECTOR_SERVICE",
    "FINDINGS_LOG",
    "Acknowledgement",
    "CollectedStatus",
    "CollectorRunning",
    "CollectorStatus",
    "Finding",
    "FindingKind",
    "acknowledge",
    "append_finding",
    "locked_root",
    "open_findings",
    "prepare_root",
    "read_findings",
    "read_status",
    "require_root",
    "write_status",
]

#: The service in whose log a collector, and whoever acknowledges what it found, record that.
COLLECTOR_SERVICE: Final = "audit-collect"
#: The base directory of that log, below the root.
FINDINGS_LOG: Final = ".findings"

_LOCK: Final = "collector.lock"
_STATUS: Final = "status.json"
_FINDINGS: Final = "findings.jsonl"
_ACKNOWLEDGED: Final = "acknowledged.json"
#: How long another process is waited for that changes a file of the root: it is no longer than one write.
_WAIT_S: Final = 10.0

#: - `bad_batch`: records that are not those that are due, or not what the batch declares
#: - `fork`: the engine has another history than what was collected
#: - `gap`: records between what was collected and what the engine still has are gone
#: - `engine_went_back`: the engine has less than what was collected
#: - `collector_went_back`: this directory has less than this collector has confirmed
#: - `log_replaced`: the host has begun a new log in the place of one that was there
#: - `log_replaced_often`: it has done so for the second time within a day: is somebody rewriting its history?
#: - `too_many_findings`: more was found of the host on this day, which is not kept
#: - `bad_description`: the host's log.json is not that of the log
#: - `differing_segment`: a segment's file at the host was not what its chain holds
#: - `damaged_copy`: what was collected was changed here, or can't be stored
#: - `checkpoint_refused`: a checkpoint in the chain contradicts its records, or what was cosigned before
#: - `refused`: the engine refuses this log to the collector
FindingKind = Literal[
    "bad_batch", "fork", "gap", "engine_went_back", "collector_went_back", "log_replaced", "log_replaced_often",
    "bad_description", "differing_segment", "damaged_copy", "checkpoint_refused", "refused", "too_many_findings",
]  # fmt: skip

T = TypeVar("T")


class CollectorRunning(AuditError):
    """Another process collects into the directory; the message names its pid."""


class Finding(Struct, frozen=True, kw_only=True):
    """Something about one log that does not fit; it stays until an operator has acknowledged it."""

    log: str  #: `<tenant>/<host>/<service>/<instance>.<log_id>`, the path below the root
    kind: FindingKind
    seq: int  #: the record that it is about; -1 if it is about none
    reason: str
    seen_at: datetime  #: for the first time

    @property
    def place(self) -> str:
        """Where the log is: its path without its id, which another log in its place shares."""
        return self.log.rpartition(".")[0]

    @property
    def tenant(self) -> str:
        """The tenant whose log it is."""
        return unquote(self.log.split("/")[0])

    @property
    def host(self) -> str:
        """The host that it is about."""
        return unquote(self.log.split("/")[1])

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it the same finding the next time it is seen."""
        return self.log, self.kind, self.seq


class Acknowledgement(Struct, frozen=True, kw_only=True):
    """An operator has looked at a finding."""

    log: str
    kind: str
    seq: int
    by: str
    at: datetime
    reason: str = ""


class CollectedStatus(Struct, frozen=True, kw_only=True):
    """What a collector has of one log, and what the engine has."""

    log: str  #: as `Finding.log`
    tenant: str
    host: str
    service: str
    instance: str
    log_id: str
    seq: int  #: of the last record that is durable here; -1 if there is none
    hash: str
    engine_seq: int  #: of the engine's last record when it was last asked; -1 if it has none
    last_record_at: str  #: when the host made the last record, RFC 3339; empty if there is none
    received_at: datetime | None  #: when records last came; None if never
    confirmed_seq: int = -1  #: of the last record that was confirmed to the host; -1 if there is none
    heard_at: datetime | None = None  #: when its host last showed itself at the engine; None if that is not known


class CollectorStatus(Struct, frozen=True, kw_only=True):
    """What a collector knew at a moment."""

    collector: str  #: the name that it signs with; empty if it signs nothing
    tenant: str
    updated_at: datetime
    error: str = ""  #: why the last round did not come to its end; empty if it did
    logs: tuple[CollectedStatus, ...] = ()


def prepare_root(root: Path) -> None:
    """Make a collector's root, durably; nothing happens a second time.

    Raises:
        ConfigError: the directory has something in it that is no collector's.
        OSError: it can't be made.
    """
    disk.make_directories(str(root))
    if (root / COLLECTOR_FILE).is_file():
        return
    with _changing(root, COLLECTOR_FILE):
        if (root / COLLECTOR_FILE).is_file():  # made meanwhile
            return
        others = [name for name in os.listdir(root) if not name.startswith(".") and name != _LOCK]
        if others:
            raise ConfigError(
                "root", f"{root} is not empty, and no collector's directory: {others[0]!a} is there; name another one"
            )
        _replace(root, COLLECTOR_FILE, b'{"format_version":1}\n')
        sync_names(root.parent)


def require_root(root: Path) -> None:
    """Raise `ConfigError` if a directory is no collector's root."""
    if not (root / COLLECTOR_FILE).is_file():
        raise ConfigError("root", f"{root} is no collector's directory: it has no file {COLLECTOR_FILE}")


@contextmanager
def locked_root(root: Path) -> Iterator[None]:
    """Have the root for this process alone.

    Raises:
        CollectorRunning: another process has it.
    """
    fd = disk.open_or_create_file(str(root / _LOCK), dir_fd=None)
    try:
        try:
            disk.lock(fd)
        except BlockingIOError:
            pid = disk.read_at(fd, 32, 0).strip()
            by = f"process {pid.decode()}" if pid.isdigit() else "another process"
            raise CollectorRunning(f"{by} collects into {root}; a directory has one collector") from None
        disk.truncate(fd, 0)
        disk.write_at(fd, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        disk.close_lock(fd)


def read_status(root: Path) -> CollectorStatus | None:
    """Return what the collector last wrote, None if it has not run yet. Raises `LogCorrupted`, `OSError`."""
    return _read(root, _STATUS, CollectorStatus)


def write_status(root: Path, status: CollectorStatus) -> None:
    """Replace the status, which is a cache: after a power cut it may be an earlier one."""
    _replace(root, _STATUS, msgspec.json.encode(status) + b"\n", durable=False)


def read_findings(root: Path) -> list[Finding]:
    """Return everything that was found, the acknowledged included. Raises `LogCorrupted`, `OSError`."""
    try:
        content = read_bounded(root / _FINDINGS, max_bytes=MOST_MANIFEST_BYTES)
    except FileNotFoundError:
        return []
    return _decoded(root, _FINDINGS, content[: content.rfind(b"\n") + 1], list[Finding], by_line=True)


def append_finding(root: Path, finding: Finding) -> None:
    """Add a finding to the file, durably; only the one process that collects does. Raises `OSError`."""
    append_lines(root / _FINDINGS, msgspec.json.encode(finding) + b"\n")


def open_findings(root: Path) -> list[Finding]:
    """Return the findings that no operator has acknowledged. Raises `LogCorrupted`, `OSError`."""
    known = {(one.log, one.kind, one.seq) for one in _acknowledged(root)}
    return [finding for finding in read_findings(root) if finding.key not in known]


def acknowledge(root: Path, findings: Iterable[Finding], *, by: str, reason: str) -> list[Acknowledgement]:
    """Note, durably, that an operator has looked at findings; return what was noted.

    Args:
        root: the collector's root.
        findings: what was looked at.
        by: who did.
        reason: what it was.

    Raises:
        LogCorrupted: what was noted before can't be read.
        OSError: nothing was noted: the system refuses, or another process has been noting something for too long.
    """
    now = datetime.now(UTC)
    new = [Acknowledgement(log=one.log, kind=one.kind, seq=one.seq, by=by, at=now, reason=reason) for one in findings]
    if new:
        with _changing(root, _ACKNOWLEDGED):  # or the note of another operator would be lost
            everything = [*_acknowledged(root), *new]
            _replace(root, _ACKNOWLEDGED, msgspec.json.format(msgspec.json.encode(everything), indent=1) + b"\n")
    return new


def _acknowledged(root: Path) -> list[Acknowledgement]:
    return _read(root, _ACKNOWLEDGED, list[Acknowledgement]) or []


def _read(root: Path, name: str, kind: type[T]) -> T | None:
    try:
        content = read_bounded(root / name, max_bytes=MOST_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    return _decoded(root, name, content, kind)


def _decoded(root: Path, name: str, content: bytes, kind: type[T], *, by_line: bool = False) -> T:
    decoder = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(b"[" + content.rstrip().replace(b"\n", b",") + b"]" if by_line else content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupted(name, None, None, f"the file in {root} is not what the collector writes") from error


@contextmanager
def _changing(root: Path, name: str) -> Iterator[None]:
    """Read and replace a file that several processes change, one at a time; raises `OSError`."""
    with one_at_a_time(root, _WAIT_S) as is_alone:
        if not is_alone:
            reason = f"another process has been changing it for {_WAIT_S:g} s; look whether it was stopped"
            raise OSError(errno.EAGAIN, reason, str(root / name))
        yield


def _replace(root: Path, name: str, content: bytes, *, durable: bool = True) -> None:
    replace_file(root / name, content, unfinished=root / f".{name}.unfinished", durable=durable)
