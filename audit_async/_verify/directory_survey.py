"""What stands in a log's directory, beside its records: log.json, the manifest, checksums, files that don't belong.

Nothing here reads a segment. Modes and owners are not judged: they are for the machine that the trail is read on.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Final, NamedTuple

from audit_async._chain import FORMAT_VERSION
from audit_async._layout.manifest import SealedSegment, decode_manifest
from audit_async._layout.names import ARCHIVE, CHECKSUM, LOG_FILE, MANIFEST_FILE, UNFINISHED, SegmentName
from audit_async._trail.log_files import (
    Log,
    SegmentFile,
    TrailUnreadable,
    list_segments,
    manifest_stamp,
    open_regular,
    other_format,
    read_identity,
    unreadable,
)
from audit_async._trail.running_writer import writer_of
from audit_async._verify.verify_report import Notebook
from audit_async.errors import LogCorrupted

_SEGMENT: Final = ".audit"
_COMPRESSED: Final = ".zst"
#: More than any checksum file has, so that no file is read into memory because of its name.
_LONGEST_CHECKSUM: Final = 4096


class Survey(NamedTuple):
    """A log's directory at one moment."""

    log: Log
    service_id: str  #: of log.json; empty where it can't be read
    segments: list[SegmentFile]  #: oldest first; those without an entry in the manifest last
    manifest: str  #: `present`, `missing` or `damaged`
    sizes: dict[str, int]  #: bytes of each regular file in the directory
    writer: int | None  #: the pid that holds the lock
    stamp: tuple[int, int, int] | None  #: changes when the manifest is replaced

    @property
    def sealed(self) -> list[SealedSegment]:
        """The manifest's entries, oldest first."""
        return [segment.sealed for segment in self.segments if segment.sealed is not None]

    @property
    def unsealed(self) -> list[SegmentFile]:
        """The segments without an entry, oldest first."""
        return [segment for segment in self.segments if segment.sealed is None]


def survey_log(log: Log, notebook: Notebook) -> Survey:
    """Look at a log's directory; raises `TrailUnreadable` where it can't be read."""
    try:
        return _survey_log(log, notebook)
    except OSError as error:
        raise unreadable(log.directory, error) from error


def _survey_log(log: Log, notebook: Notebook) -> Survey:
    writer = writer_of(log)
    service_id, log_id = _check_identity(log, notebook)
    stamp = manifest_stamp(log)
    manifest = "missing" if stamp is None else "present"
    try:
        segments = list_segments(log)
        if stamp is not None:
            with open_regular(log.directory / MANIFEST_FILE) as file:
                decode_manifest(file.read(), log_id)
    except (LogCorrupted, TrailUnreadable, OSError) as error:
        reason, seq = (error.reason, error.seq) if isinstance(error, LogCorrupted) else ("it can't be read", None)
        notebook.find("manifest", reason, segment=MANIFEST_FILE, seq=seq)
        manifest = "damaged"
        segments = _by_name(log)  # which can't be read either where it is the directory that can't
    survey = Survey(log, service_id, segments, manifest, _sizes(log.directory), writer, stamp)
    for segment in segments:
        if segment.sealed is not None:
            _check_state(survey, segment.sealed, notebook)
    _check_names(survey, notebook)
    return survey


def _check_identity(log: Log, notebook: Notebook) -> tuple[str, str | None]:
    """Check log.json; return its service and the log's id, as far as it can be understood."""
    try:
        identity = read_identity(log.directory)
    except FileNotFoundError:
        notebook.find("identity", "the file is missing", segment=LOG_FILE)
        return "", None
    except LogCorrupted as error:
        notebook.find("identity", error.reason, segment=LOG_FILE)
        return "", None
    except OSError as error:
        notebook.find("identity", f"it can't be read: {error.strerror}", segment=LOG_FILE)
        return "", None
    if identity.format_version != FORMAT_VERSION:
        notebook.find("identity", other_format(identity.format_version), segment=LOG_FILE)
    elif identity.service_id != log.service_id:
        notebook.find("identity", "it names another service than the directory it is in", segment=LOG_FILE)
    return identity.service_id, identity.log_id


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


def _check_state(survey: Survey, sealed: SealedSegment, notebook: Notebook) -> None:
    """Check what the manifest says of a segment against the files that are there."""
    name, sizes = sealed.segment, survey.sizes
    archive = survey.log.directory / ARCHIVE / (name + _COMPRESSED)

    def find(reason: str) -> None:
        notebook.find("segment", reason, segment=name, seq=sealed.first_seq)

    if sealed.state == "lost":
        find("it was removed while the log was being written; the manifest has its hashes, not its records")
    elif sealed.state == "damaged":
        find("it was changed while the log was being written, and left as it was found")
    elif sealed.state == "live":
        _check_checksum(survey, sealed, notebook)
    elif sealed.state == "archived" and not archive.exists():
        find(f"its archive {ARCHIVE}/{name}{_COMPRESSED} is missing")
    if sealed.state in {"archived", "deleted"}:
        left = [file for file in (name, name + CHECKSUM) if file in sizes]
        if sealed.state == "deleted" and archive.exists():
            left.append(f"{ARCHIVE}/{archive.name}")
        if left:
            text = f"{', '.join(left)}: left of a segment that is {sealed.state}; the next opening removes it"
            notebook.note("leftover", text, sealed.first_seq)


def _check_checksum(survey: Survey, sealed: SealedSegment, notebook: Notebook) -> None:
    try:
        with open_regular(survey.log.directory / (sealed.segment + CHECKSUM)) as file:
            content = file.read(_LONGEST_CHECKSUM)
    except FileNotFoundError:
        if sealed.segment not in survey.sizes:
            return  # as the segment, which is a finding of its own, or is archived at this moment
        reason = "its checksum file is missing (after a power cut the next opening makes it anew)"
    except (LogCorrupted, OSError) as error:
        reason = (
            f"its checksum file can't be read: {error.reason if isinstance(error, LogCorrupted) else error.strerror}"
        )
    else:
        if content == f"{sealed.sha256}  {sealed.segment}\n".encode():
            return
        reason = "its checksum file is not what the manifest says"
    notebook.find("checksum", reason, segment=sealed.segment + CHECKSUM, seq=sealed.first_seq)


def _check_names(survey: Survey, notebook: Notebook) -> None:
    """Find files that look like parts of the log and are none."""
    known = {segment.name for segment in survey.segments}
    names = set(os.listdir(survey.log.directory))
    for name in sorted(names):
        if _SEGMENT not in name or name.endswith(UNFINISHED) or SegmentName.parse(name) is not None:
            continue
        if SegmentName.parse(name.removesuffix(CHECKSUM)) is None:
            notebook.find("segment", "a file that is no segment of this log", segment=_printable(name))
        elif name.removesuffix(CHECKSUM) not in known | names:
            notebook.find("checksum", "a checksum file without its segment", segment=_printable(name))
    if (survey.log.directory / ARCHIVE).is_symlink():
        notebook.find("segment", "not a directory but a symbolic link", segment=ARCHIVE)
    try:
        archives = sorted(os.listdir(survey.log.directory / ARCHIVE))
    except OSError:
        return  # none, or a finding for each segment that should be in it
    for name in archives:
        if not name.endswith(UNFINISHED) and (
            survey.manifest == "present" and name.removesuffix(_COMPRESSED) not in known
        ):
            notebook.find("segment", "a file that is no archive of this log", segment=f"{ARCHIVE}/{_printable(name)}")


def _printable(name: str) -> str:
    """Return a file name that somebody else has chosen, harmless on any terminal."""
    return name if name.isascii() and name.isprintable() else ascii(name)
