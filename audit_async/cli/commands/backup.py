"""`audit-async backup`: a copy of logs that is a valid trail, taken while services write them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import structs

from audit_async._layout.collected_file import Collected
from audit_async._layout.names import COLLECTED_NAME, CONFIGURABLE_NAME
from audit_async._store.log_backup import LogCopier
from audit_async._store.log_directory import LogDirectory
from audit_async._store.writer_lock import WriterLock
from audit_async._trail.log_files import Log
from audit_async.cli.arguments import Json
from audit_async.cli.each_log import Failures, for_each_log
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import LogsAt
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Column, Output, byte_size, count_of
from audit_async.errors import LogCorrupted, LogLocked
from audit_async.forwarding.collector_root import prepare_root
from audit_async.forwarding.identities import LogIdentity

__all__ = ["register"]


class LogBackup(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied of one log."""

    log: str
    files: int
    bytes: int
    kept: int  #: files that an earlier backup had copied
    damaged: tuple[str, ...]  #: files that are not what the log's manifest says; copied as they are


Target = Annotated[
    Path,
    typer.Argument(
        metavar="TARGET",
        show_default=False,
        readable=False,
        help="The directory to copy to; it becomes a base directory.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "backup",
        epilog="Example: audit-async backup ./audit /mnt/backup/audit",
        short_help="Copy logs while they are written, so that the copy is a valid trail.",
    )(backup)


@with_option_groups
def backup(at: LogsAt, target: Target, *, as_json: Json = False) -> None:
    """Copy logs so that the copy is a valid trail of this moment, also while services write them.

    Retention of a running service waits. What an earlier backup in TARGET has is not copied again; sealed segments are
    compared with their SHA-256 on the way. What retention has removed from a log is removed from its copy as well,
    unless a hold is in force. A log that can't be copied keeps no other from being copied.

    Other ways to copy a running log (cp, tar, rsync) may give a copy that is refused.
    """
    output = Output(as_json=as_json)

    async def of_one(log: Log) -> LogBackup:
        return copy_log(log, target)

    async def run() -> ExitStatus:
        return _report(output, *await for_each_log(at.reader().logs(), of_one))

    perform(output, run)


def copy_log(log: Log, target: Path) -> LogBackup:
    """Copy a log to its place below `target`; raises `Refused` if that is another log's, or is being written."""
    directory = open_target(log, target)
    try:
        try:
            lock = WriterLock(directory)
        except LogLocked as error:
            raise Refused(f"{directory.path} is being written, so it is no place for a copy: {error}") from error
        try:
            refuse_another_log(directory, log)  # another backup, of a log of the same name, may have made it meanwhile
            copied = LogCopier(log.directory, directory).copy()
        finally:
            lock.close()
    finally:
        directory.close()
    return LogBackup(log=log.name, files=copied.files, bytes=copied.bytes, kept=copied.kept, damaged=copied.damaged)


def open_target(log: Log, target: Path) -> LogDirectory:
    """Open the place of a log's copy below `target`, and make it if it is missing.

    Raises `Refused` if it is the log itself or holds another log, `ConfigError`, `OSError`.
    """
    if log.collected is not None:
        directory = _open_collected(log.collected, target)
    else:
        for name in (log.service_id, log.instance):
            if not CONFIGURABLE_NAME.fullmatch(name):
                raise Refused(f"{log.directory} has no name that a log can have: {name!a}")
        directory = LogDirectory(target, log.service_id, log.instance, allow_insecure_dir=False)
    try:
        if directory.path.samefile(log.directory):
            raise Refused(f"{directory.path} is the log itself; give another directory to copy to")
        refuse_another_log(directory, log)
    except BaseException:
        directory.close()
        raise
    return directory


def refuse_another_log(directory: LogDirectory, log: Log) -> None:
    """Raise `Refused` if a directory holds another log than this one, `LogCorrupted` if that can't be said."""
    try:
        there = directory.identify(may_create=False).log_id
    except LogCorrupted:
        if any(name.endswith((".audit", ".json")) for name in directory.names()):
            raise
    else:
        if there != log.log_id:
            raise Refused(
                f"{directory.path} holds a copy of another log (log_id {there}); give another directory to copy to"
            )


def _open_collected(collected: Collected, target: Path) -> LogDirectory:
    """Open the place of a collector's log: its copy is in a collector's directory as well."""
    prepare_root(target)
    path = target / LogIdentity(**structs.asdict(collected)).path()
    return LogDirectory(path.parent.parent, path.parent.name, path.name, allow_insecure_dir=False, names=COLLECTED_NAME)


def _report(output: Output, done: list[LogBackup], failures: Failures) -> ExitStatus:
    damaged = [f"{log.log}: {name}" for log in done for name in log.damaged]
    if output.as_json:
        output.document({"logs": done, "errors": failures.texts})
    else:
        columns = [Column("log"), Column("copied"), Column("bytes"), Column("had already")]
        rows = [
            [log.log, count_of(log.files, "file"), byte_size(log.bytes), count_of(log.kept, "file")] for log in done
        ]
        if rows or not failures.texts:
            output.table(columns, rows)
    for name in damaged:
        output.message(f"audit-async: {name} is not what the manifest says; it was copied as it is", "red")
    failures.show(output)
    return failures.status(ExitStatus.FINDINGS if damaged else ExitStatus.OK)
