"""What `doctor` looks at in each log: modes, lock, leftovers, the last session, and what a crash would cost now."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from audit_async._chain import FORMAT_VERSION
from audit_async._layout.access_modes import Access as ConfiguredAccess
from audit_async._layout.confirmed_file import confirmed_seq
from audit_async._layout.hold_file import read_hold
from audit_async._layout.holds_in_force import find_holds
from audit_async._layout.lock_file import pid_in
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import (
    ARCHIVE,
    INDEX,
    INDEX_ENDING,
    LOCK_FILE,
    LOG_FILE,
    MANIFEST_FILE,
    TORN,
    UNFINISHED,
)
from audit_async._layout.regular_files import read_bounded
from audit_async._store.retention_plan import overdue_unshipped, plan_retention
from audit_async._trail.log_files import Log, SegmentFile, list_segments, read_identity, why_unreadable
from audit_async._trail.running_writer import writer_of
from audit_async.cli.crash_risk import at_risk
from audit_async.cli.diagnosis.host_checks import directory_sync, insecure
from audit_async.cli.diagnosis.last_session import LastSession, last_session
from audit_async.cli.diagnosis.outcomes import Check, attempt, fail, ok, refused, warn
from audit_async.cli.terminal import byte_size
from audit_async.cli.writing import base_directory
from audit_async.config import AuditConfig, FlushMode, Local
from audit_async.errors import AuditError, LogCorrupted

__all__ = ["examine"]

SEGMENT_ENDING: Final = ".audit"
#: An emit's time stamp and this process's clock are of one host; more than this is no rounding.
_FUTURE: Final = timedelta(seconds=5)
#: What is said of a log without an end: nothing shows from here what processes elsewhere have open.
_UNLESS_WRITTEN: Final = "unless a process in another container or on another host is writing the log"


def examine(log: Log, settings: AuditConfig | None) -> list[Check]:
    """Return the checks of one log. Nothing is waited for, whatever is in a file's place."""
    try:
        writer = writer_of(log)
    except OSError as error:
        return [refused(log.name, "lock", error)]
    checks = [
        *attempt(log.name, "log.json", lambda: _identity(log)),
        *attempt(log.name, "permissions", lambda: _modes(log, settings)),
        *attempt(log.name, "access", lambda: _access(log, settings)),
        *attempt(log.name, "directory sync", lambda: _directory_sync(log)),
        *attempt(log.name, "lock", lambda: _lock(log, writer)),
    ]
    try:
        segments = list_segments(log)
    except (AuditError, OSError) as error:
        return [*checks, refused(log.name, "records", error)]
    return [
        *checks,
        *attempt(log.name, "segments", lambda: _segments(log, segments, writer)),
        *attempt(log.name, "leftovers", lambda: _leftovers(log, writer)),
        *_index(log),
        *attempt(log.name, "hold", lambda: _hold_and_retention(log, segments, settings)),
        *attempt(log.name, "records", lambda: _records(log, last_session(log, segments), settings, writer)),
    ]


def _records(log: Log, session: LastSession, settings: AuditConfig | None, writer: int | None) -> Iterator[Check]:
    yield from _last_record(log, session)
    yield from _crash(log, session, settings, writer)


def _directory_sync(log: Log) -> Iterator[Check]:
    """Look whether the log's directory can be synced, if it is on another file system than the base directory."""
    if os.stat(log.directory).st_dev != os.stat(base_directory(log)).st_dev:
        yield directory_sync(log.name, log.directory)


def _identity(log: Log) -> list[Check]:
    try:
        identity = read_identity(log.directory)
    except FileNotFoundError:
        return [fail(log.name, "log.json", "the file is missing; run verify")]
    if identity.format_version != FORMAT_VERSION:
        text = (
            f"format version {identity.format_version}, and this release knows version {FORMAT_VERSION}; install a "
            "newer audit-async"
        )
        return [fail(log.name, "log.json", text)]
    if identity.service_id != log.service_id:
        return [fail(log.name, "log.json", f"the log of {identity.service_id!a} is in this place")]
    return [ok(log.name, "log.json", f"format version {FORMAT_VERSION}, created {identity.created[:10]}")]


def _modes(log: Log, settings: AuditConfig | None) -> list[Check]:
    """Look at the directories and every file: owner, mode, links."""
    owner = os.stat(log.directory).st_uid
    wrong = [reason for path in (log.directory.parent, log.directory) if (reason := insecure(path)) is not None]
    with os.scandir(log.directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # it was being made, or was removed
                continue
            if stat.S_ISLNK(status.st_mode):
                wrong.append(f"{entry.name} is a symbolic link")
            elif status.st_uid != owner:
                wrong.append(f"{entry.name} belongs to user {status.st_uid}, the log to user {owner}")
            elif status.st_mode & 0o022:
                wrong.append(f"{entry.name} has mode {stat.S_IMODE(status.st_mode):04o}: others can write to it")
    if wrong:
        return [fail(log.name, "permissions", text) for text in wrong]
    status = os.stat(log.directory)
    configured = settings.mode.dir_mode if settings is not None and isinstance(settings.mode, Local) else "0700"
    if stat.S_IMODE(status.st_mode) & 0o055 & ~int(str(configured), 8):
        text = f"other users can read the trail; run: chmod 0700 {log.directory}, or say so in dir_mode and --config"
        return [warn(log.name, "permissions", text)]
    if status.st_mode & 0o055:
        who = "everybody" if status.st_mode & 0o005 else f"group {status.st_gid}"
        return [ok(log.name, "permissions", f"readable by {who}, as configured; writable by user {owner} only")]
    return [ok(log.name, "permissions", f"closed to all but user {owner}")]


def _access(log: Log, settings: AuditConfig | None) -> Iterator[Check]:
    """Compare modes and group with what the configuration says about who may read the log."""
    if settings is None or not isinstance(settings.mode, Local):
        return
    access = ConfiguredAccess.of(settings.mode)
    names = [name for name in os.listdir(log.directory) if name.endswith(SEGMENT_ENDING)]
    wrong: list[str] = []
    for name in ("", LOG_FILE, MANIFEST_FILE, *sorted(names)):
        path = log.directory / name
        with suppress(FileNotFoundError):  # archived in this moment, or no segment is sealed yet
            status = os.stat(path, follow_symlinks=False)
            mode = stat.S_IMODE(status.st_mode)
            setting, wanted = ("file_mode", access.file_mode) if name else ("dir_mode", access.directory_mode)
            if mode & 0o055 != wanted & 0o055:
                wrong.append(f"{path} has mode {mode:04o}, and {setting} is {wanted:04o}")
            elif access.gid is not None and status.st_gid != access.gid:
                wrong.append(f"{path} belongs to group {status.st_gid}, and mode.group is {access.gid}")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        yield warn(log.name, "access", f"{wrong[0]}{more}; it is set when the service next opens the log")


def _lock(log: Log, writer: int | None) -> Iterator[Check]:
    if writer is not None:
        yield ok(log.name, "lock", f"held by process {writer}")
        return
    try:
        content = read_bounded(log.directory / LOCK_FILE)
    except FileNotFoundError:
        yield warn(log.name, "lock", "there is none: the log was never opened for writing here, or was copied")
        return
    pid = pid_in(content)
    if pid is None and content.strip():
        yield fail(log.name, "lock", "the file holds no process number: it is not what the library writes")
        return
    last = f"; last taken by process {pid}" if pid is not None else ""
    yield ok(log.name, "lock", f"held by no process that can be seen from here{last}")


def _segments(log: Log, segments: list[SegmentFile], writer: int | None) -> Iterator[Check]:
    for segment in segments:
        entry = segment.sealed
        if entry is None:
            continue
        if entry.state in {"damaged", "lost"}:
            yield fail(log.name, "segments", f"{segment.name} is {entry.state}; it was reported in the chain")
        elif (wrong := _wrong_with(log, segment.name, entry)) is not None and _is_listed(log, entry):
            yield fail(log.name, "segments", wrong)
        path = log.directory / (f"{ARCHIVE}/{entry.archive_file}" if entry.state == "archived" else segment.name)
        if path.exists() and not os.access(path, os.R_OK):
            yield refused(log.name, "segments", PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)))
    unsealed = [segment for segment in segments if segment.sealed is None]
    if len(unsealed) > 1 and writer is None:
        yield warn(log.name, "segments", f"{len(unsealed)} are not sealed yet; opening the log seals all but the last")
    states = [segment.sealed.state for segment in segments if segment.sealed is not None]
    counted = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)] + [f"{len(unsealed)} open"]
    total = 0
    for segment in segments:
        with suppress(FileNotFoundError):  # archived or deleted, now or long ago
            total += os.stat(log.directory / segment.name).st_size
    yield ok(log.name, "segments", f"{', '.join(counted)}; {byte_size(total)}")


def _wrong_with(log: Log, name: str, entry: SealedSegment) -> str | None:
    """Return what is wrong with a sealed segment's file; None if it is there and has the size that was sealed."""
    if entry.state == "live":
        try:
            size = os.stat(log.directory / name).st_size
        except FileNotFoundError:
            return f"{name} is missing; run verify"
        return None if size == entry.bytes else f"{name} does not have the {entry.bytes} bytes that were sealed"
    if entry.state == "archived" and not (log.directory / ARCHIVE / entry.archive_file).exists():
        return f"{ARCHIVE}/{entry.archive_file} is missing; run verify"
    return None


def _is_listed(log: Log, entry: SealedSegment) -> bool:
    """Return whether the manifest still says this of a segment: retention may have archived or deleted it since."""
    return any(segment.sealed == entry for segment in list_segments(log))


def _leftovers(log: Log, writer: int | None) -> Iterator[Check]:
    """Look for what crashes have left."""
    torn = _files_in(log.directory / TORN)
    if torn:
        size = sum(path.stat().st_size for path in torn)
        text = f"{len(torn)} files, {byte_size(size)}, were put aside by recovery; they are evidence, keep them"
        yield warn(log.name, "torn records", text)
    unfinished = [
        path
        for path in (*_files_in(log.directory), *_files_in(log.directory / ARCHIVE))
        if path.name.endswith(UNFINISHED)
    ]
    if unfinished and writer is None:
        text = f"{len(unfinished)} files, such as {unfinished[0].name}, were left by a crash; opening the log tidies up"
        yield warn(log.name, "leftovers", text)


def _index(log: Log) -> Iterator[Check]:
    """Look at the cache in the log's directory, if there is one."""
    try:
        with os.scandir(log.directory / INDEX) as entries:
            found = [entry for entry in entries if entry.name.endswith(INDEX_ENDING)]
    except FileNotFoundError:
        return
    except OSError as error:
        yield warn(log.name, "index", f"{INDEX}/ can't be read: {why_unreadable(error)}; queries work without it")
        return
    sizes = []
    for entry in found:
        with suppress(FileNotFoundError):  # deleted with its segment
            sizes.append(entry.stat(follow_symlinks=False).st_size)
    if not sizes:
        return
    size = f"{byte_size(sum(sizes))} for {len(sizes)} segments"
    yield ok(log.name, "index", f"{size}; a cache that may be deleted at any time, and no evidence")


def _files_in(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _hold_and_retention(log: Log, segments: list[SegmentFile], settings: AuditConfig | None) -> Iterator[Check]:
    reported = False
    try:
        read_hold(log.directory)
    except (LogCorrupted, OSError) as error:  # the chain decides; the file is damaged all the same
        reported = True
        yield refused(log.name, "hold", error)
    try:
        hold = next(iter(find_holds(log.directory)), None)
    except (LogCorrupted, OSError) as error:
        if not reported:
            yield refused(log.name, "hold", error)
        return
    if hold is not None:
        yield warn(log.name, "hold", f"in force since {hold.since}: nothing is archived or deleted ({hold.reason})")
    elif settings is not None:
        sealed = [segment.sealed for segment in segments if segment.sealed is not None]
        policy, now = settings.retention, datetime.now(UTC)
        confirmed = confirmed_seq(log.directory, log.log_id, copies=policy.min_copies, now=now)
        if overdue := overdue_unshipped(sealed, policy, now, None, confirmed_seq=confirmed):
            yield warn(
                log.name,
                "shipping",
                f"{len(overdue)} segments are due and stay, from {overdue[0].segment.segment} on: collectors have "
                f"confirmed {'nothing' if confirmed < 0 else f'up to record {confirmed}'} in {policy.min_copies} "
                "places; see: audit-async forward --status",
            )
        due = plan_retention(sealed, policy, now, None, confirmed_seq=confirmed)
        if due:
            yield warn(log.name, "retention", f"{len(due)} segments are due; see: audit-async retention")
        else:
            yield ok(log.name, "retention", "nothing is due")


def _last_record(log: Log, session: LastSession) -> Iterator[Check]:
    if session.last is None:
        yield fail(log.name, "records", "there is none")
        return
    at = session.last.timestamp
    ahead = at - datetime.now(UTC)
    if ahead > _FUTURE:
        text = f"the last record is of {at.isoformat()}, {ahead} from now: the clock was wrong then, or is now"
        yield fail(log.name, "clock", text)
    else:
        yield ok(log.name, "clock", f"the last record, seq {session.last.seq}, is of {at:%Y-%m-%d %H:%M:%S} UTC")


def _crash(log: Log, session: LastSession, settings: AuditConfig | None, writer: int | None) -> Iterator[Check]:
    if writer is None:
        if session.torn_bytes and not session.torn_by_crash:
            text = (
                f"after the last record come {session.torn_bytes} bytes that are no records and that no crash "
                "leaves: opening the log refuses; run verify"
            )
            yield fail(log.name, "last session", text)
        elif session.torn_bytes:
            text = f"a crash left {session.torn_bytes} bytes of a line; opening the log puts them aside and records it"
            yield warn(log.name, "last session", f"{text}, {_UNLESS_WRITTEN}")
        elif session.closed:
            yield ok(log.name, "last session", "closed in order; nothing is open, so a crash loses nothing now")
        else:
            text = f"did not end in order: whatever was not durable then is lost, {_UNLESS_WRITTEN}"
            yield warn(log.name, "last session", text)
        return
    mode = settings.flush_mode if settings is not None else None
    source = "as configured"
    if mode is None and session.flush_mode is not None:
        mode, source = _parsed_mode(session.flush_mode), "as the log says"
    if mode is None:
        yield warn(log.name, "a crash now", "what it would lose is not known; give --config")
    else:
        yield ok(log.name, "a crash now", f"would lose {at_risk(mode)} ({source}); more while the disk refuses")


def _parsed_mode(text: str) -> FlushMode | None:
    """Return the flush mode that `audit.log_opened` has as text, such as `batched(size=100, interval=1.0)`."""
    name, _, arguments = text.rstrip(")").partition("(")
    members = dict(pair.partition("=")[::2] for pair in arguments.split(", ") if pair)
    try:
        mode: FlushMode = msgspec.convert({"type": name.lower(), **members}, FlushMode, strict=False)
    except (msgspec.ValidationError, AuditError):
        return None
    return mode
