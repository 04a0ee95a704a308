"""What is in a log's directory besides its records: log.json, the manifest, checksums, files that don't belong.

Nothing here reads a segment. Modes and owners are not judged: they are for the machine that the trail is read on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Final

import msgspec

from audit_async._chain import FORMAT_VERSION
from audit_async._layout.log_identity import Identity
from audit_async._layout.manifest import SealedSegment, decode_manifest_file
from audit_async._layout.names import (
    ARCHIVE,
    CHECKSUM,
    COMPRESSED,
    ENCRYPTED,
    LOG_FILE,
    MANIFEST_FILE,
    UNFINISHED,
    SegmentName,
    archived_segment,
)
from audit_async._layout.regular_files import MOST_MANIFEST_BYTES, read_bounded
from audit_async._trail.log_files import (
    Log,
    SegmentFile,
    TrailUnreadable,
    list_segments,
    manifest_stamp,
    other_format,
    read_identity,
    why_unreadable,
)
from audit_async._trail.running_writer import writer_of
from audit_async._verify.findings import Observation, Observations
from audit_async.errors import LogCorrupted

_SEGMENT: Final = ".audit"
_TIME: Final = re.compile(r"[0-9TZ:.-]{20,32}", re.ASCII)


@dataclass(frozen=True)
class Survey:
    """A log's directory at one moment."""

    log: Log
    identity: Identity | None  #: of log.json; None if it can't be read or understood
    segments: list[SegmentFile]  #: oldest first; those without an entry in the manifest last
    manifest: str  #: `present`, `missing`, `damaged` or `unreadable`; `unlisted` if the directory is
    sizes: dict[str, int]  #: bytes of each regular file in the directory
    writer: int | None  #: the pid that holds the lock
    stamp: tuple[int, int, int] | None  #: changes when the manifest is replaced
    converted: tuple[str, ...] = ()  #: checksum files that are right but for a line end of CR LF
    unchanged: frozenset[str] = frozenset()  #: segments whose files are those that were verified before

    @cached_property
    def sealed(self) -> list[SealedSegment]:
        """The manifest's entries, oldest first."""
        return [segment.sealed for segment in self.segments if segment.sealed is not None]

    @cached_property
    def unsealed(self) -> list[SegmentFile]:
        """The segments without an entry, oldest first."""
        return [segment for segment in self.segments if segment.sealed is None]


def survey_log(
    log: Log,
    observed: Observations,
    unchanged: Callable[[Sequence[SealedSegment]], frozenset[str]] = lambda _: frozenset(),
) -> Survey:
    """List a log's directory and judge the files in it; if it can't be read, that is all that is observed.

    Args:
        log: The log.
        observed: Gets what is observed.
        unchanged: Returns the names of those segments whose files are known, and need not be read.
    """
    observed_here = Observations(log=log.name)
    try:
        survey = _survey_log(log, observed_here, unchanged)
    except OSError as error:
        observed.add(Observation.UNREADABLE, reason=why_unreadable(error))
        return Survey(log, None, [], "unlisted", {}, None, None)
    observed.merge(observed_here)
    return survey


def _survey_log(
    log: Log, observed: Observations, unchanged: Callable[[Sequence[SealedSegment]], frozenset[str]]
) -> Survey:
    writer = writer_of(log)
    identity = _check_identity(log, observed)
    log_id = identity.log_id if identity is not None else None
    stamp = manifest_stamp(log)
    manifest = "missing" if stamp is None else "present"
    try:
        segments = list_segments(log)
        if stamp is not None:
            _check_manifest(log, log_id, observed)
    except LogCorrupted as error:
        observed.add(Observation.MANIFEST_BAD, segment=MANIFEST_FILE, seq=error.seq, reason=error.reason)
        manifest = "damaged"
        segments = _by_name(log)
    except (TrailUnreadable, OSError) as error:
        cause = error.__cause__ if isinstance(error, TrailUnreadable) else error
        reason = why_unreadable(cause) if isinstance(cause, OSError) else str(error)
        observed.add(Observation.UNREADABLE, segment=MANIFEST_FILE, reason=reason)
        manifest = "unreadable"
        segments = _by_name(log)  # which raises if it is the directory that can't be read
    survey = Survey(log, identity, segments, manifest, _sizes(log.directory), writer, stamp)
    known = unchanged(survey.sealed)
    converted = [
        entry.segment + CHECKSUM
        for entry in survey.sealed
        if not (entry.state == "live" and entry.segment in known) and _check_state(survey, entry, observed)
    ]
    _check_names(survey, observed)
    return replace(survey, converted=tuple(converted), unchanged=known)


def _check_identity(log: Log, observed: Observations) -> Identity | None:
    """Check log.json; return what it says, None if it can't be understood."""
    try:
        identity = read_identity(log.directory)
    except FileNotFoundError:
        observed.add(Observation.IDENTITY_MISSING, segment=LOG_FILE)
        return None
    except LogCorrupted as error:
        observed.add(Observation.IDENTITY_BAD, segment=LOG_FILE, reason=error.reason)
        return None
    except OSError as error:
        observed.add(Observation.UNREADABLE, segment=LOG_FILE, reason=why_unreadable(error))
        return None
    if identity.format_version != FORMAT_VERSION:
        observed.add(Observation.IDENTITY_BAD, segment=LOG_FILE, reason=other_format(identity.format_version))
    elif identity.service_id != log.service_id:
        observed.add(Observation.IDENTITY_OTHER_SERVICE, segment=LOG_FILE)
    return identity


def _check_manifest(log: Log, log_id: str | None, observed: Observations) -> None:
    """Check that the manifest, whose entries are those of a whole one, is of this log.

    Raises `LogCorrupted`, `OSError`.
    """
    content = read_bounded(log.directory / MANIFEST_FILE, max_bytes=MOST_MANIFEST_BYTES)
    try:
        head = msgspec.json.decode(content, type=_ManifestHead)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # replaced by another one since it was listed
        head = None
    if head is None or (log_id is not None and head.log_id != log_id):
        decode_manifest_file(content, log_id)  # which says what is wrong
    rebuilt = head.rebuilt if head is not None else None
    if rebuilt is not None:
        observed.add(Observation.REBUILT, when=rebuilt if _TIME.fullmatch(rebuilt) else "an unknown time")


class _ManifestHead(msgspec.Struct):
    """What a manifest says besides its entries, which take a hundred times as long to decode."""

    log_id: str
    rebuilt: str | None = None


def _by_name(log: Log) -> list[SegmentFile]:
    """Return the segments whose files are there: all that is known without a manifest."""
    names = sorted(filter(None, map(SegmentName.parse, os.listdir(log.directory))))
    return [SegmentFile(log, str(name), name.first_seq, name.date, None) for name in names]


def _sizes(directory: Path) -> dict[str, int]:
    sizes = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # removed since
                status = entry.stat(follow_symlinks=False)
                if S_ISREG(status.st_mode):
                    sizes[entry.name] = status.st_size
    return sizes


def _is_there(path: Path) -> bool:
    """Return whether a file is there, or may be: of what this process can't see nothing is said."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _check_state(survey: Survey, sealed: SealedSegment, observed: Observations) -> bool:
    """Check what the manifest says of a segment against its files; True if its checksum file was converted."""
    name, sizes = sealed.segment, survey.sizes
    archives = survey.log.directory / ARCHIVE

    if sealed.state == "lost":
        observed.add(Observation.SEGMENT_LOST, segment=name, seq=sealed.first_seq)
    elif sealed.state == "damaged":
        observed.add(Observation.SEGMENT_DAMAGED, segment=name, seq=sealed.first_seq)
    elif sealed.state == "live":
        return _check_checksum(survey, sealed, observed)
    elif sealed.state == "archived" and not _is_there(archives / sealed.archive_file):
        file = f"{ARCHIVE}/{sealed.archive_file}"
        observed.add(Observation.ARCHIVE_MISSING, segment=name, seq=sealed.first_seq, file=file)
    if sealed.state in {"archived", "deleted"}:
        left = [file for file in (name, name + CHECKSUM) if file in sizes]
        for file in (name + COMPRESSED, name + ENCRYPTED):
            is_gone = sealed.state == "deleted" or file != sealed.archive_file
            if is_gone and _is_there(archives / file):
                left.append(f"{ARCHIVE}/{file}")
        if left:
            observed.add(Observation.LEFTOVER, seq=sealed.first_seq, files=", ".join(left), state=sealed.state)
    return False


def _check_checksum(survey: Survey, sealed: SealedSegment, observed: Observations) -> bool:
    file_name = sealed.segment + CHECKSUM
    try:
        content = read_bounded(survey.log.directory / file_name)
    except FileNotFoundError:
        if sealed.segment not in survey.sizes:
            return False  # as the segment, which is a finding of its own, or is archived at this moment
        observed.add(Observation.CHECKSUM_MISSING, seq=sealed.first_seq, name=sealed.segment)
    except LogCorrupted as error:
        observed.add(Observation.CHECKSUM_NOT_A_FILE, segment=file_name, seq=sealed.first_seq, reason=error.reason)
    except OSError as error:
        observed.add(Observation.UNREADABLE, segment=file_name, reason=why_unreadable(error))
    else:
        expected = f"{sealed.sha256}  {sealed.segment}".encode()
        if content == expected + b"\r\n":
            return True
        if content != expected + b"\n":
            observed.add(Observation.CHECKSUM_WRONG, segment=file_name, seq=sealed.first_seq)
    return False


def _check_names(survey: Survey, observed: Observations) -> None:
    """Find files that look like parts of the log and are none."""
    known = {segment.name for segment in survey.segments}
    names = set(os.listdir(survey.log.directory))
    with_checksum = known | names
    for name in sorted(names):
        if _SEGMENT not in name or name.endswith(UNFINISHED) or SegmentName.parse(name) is not None:
            continue
        if SegmentName.parse(name.removesuffix(CHECKSUM)) is None:
            observed.add(Observation.SEGMENT_FOREIGN, segment=_printable(name))
        elif name.removesuffix(CHECKSUM) not in with_checksum:
            observed.add(Observation.CHECKSUM_FOREIGN, segment=_printable(name))
    if (survey.log.directory / ARCHIVE).is_symlink():
        observed.add(Observation.ARCHIVE_DIRECTORY_LINKED, segment=ARCHIVE)
    try:
        archives = sorted(os.listdir(survey.log.directory / ARCHIVE))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        observed.add(Observation.ARCHIVE_DIRECTORY_BAD, segment=ARCHIVE)
        return
    except OSError as error:
        observed.add(Observation.UNREADABLE, segment=ARCHIVE, reason=why_unreadable(error))
        return
    for name in archives:
        if not name.endswith(UNFINISHED) and (survey.manifest == "present" and archived_segment(name) not in known):
            observed.add(Observation.ARCHIVE_FOREIGN, segment=f"{ARCHIVE}/{_printable(name)}")


def _printable(name: str) -> str:
    """Return a file name that anybody may have chosen, harmless on any terminal."""
    return name if name.isascii() and name.isprintable() else ascii(name)
