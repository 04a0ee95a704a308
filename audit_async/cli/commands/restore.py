"""`audit-async restore`: logs from a backup, or from a copy that was taken in another way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from audit_async._layout.names import SegmentName
from audit_async._store.log_backup import LogCopier
from audit_async._store.log_directory import LogDirectory
from audit_async._store.log_restore import rebuild
from audit_async._store.writer_lock import WriterLock
from audit_async._trail.log_files import Log
from audit_async.cli.arguments import Json
from audit_async.cli.commands.backup import open_target
from audit_async.cli.each_log import Failures, for_each_log
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Column, Output, byte_size, count_of
from audit_async.errors import LogCorrupted

__all__ = ["register"]


class LogRestored(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored of one log."""

    log: str
    files: int
    bytes: int
    rebuilt: bool  #: the manifest was made again by reading every record
    #: Encrypted archives that no identity opens: byte for byte those of the copy, with the entries of its manifest.
    unread: int
    set_aside: tuple[str, ...]  #: what came after a gap in the copy, below the log's directory


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "restore",
        epilog="Example: audit-async restore /mnt/backup/audit /var/lib/audit. From a copy that rsync has taken: "
        "audit-async restore /mnt/rsync/audit /var/lib/audit --from-copy --identity key.txt",
        short_help="Put logs back from a backup, or from another copy with --from-copy.",
    )(restore)


@with_option_groups
def restore(
    at: ReadableLogs,
    target: Annotated[
        Path,
        typer.Argument(metavar="TARGET", show_default=False, readable=False, help="The base directory to restore to."),
    ],
    *,
    from_copy: Annotated[
        bool,
        typer.Option(
            "--from-copy",
            help="The copy was taken with cp, tar or rsync while the log was written: make the manifest again by "
            "reading every record.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Restore logs from a backup to a directory that does not have them.

    A log that is there already is never overwritten: stop its service and move it away first, it is evidence. With
    --from-copy the unbroken chain of each copy is restored; what comes after a gap is set aside in torn/, and verify
    says that the manifest was rebuilt. An encrypted archive that no --identity opens is restored as it is, if
    the copy's manifest says that it is this file and joins the chain; verify with the identity reads it. A log that
    can't be restored keeps no other from being restored.
    """
    if at.identity and not from_copy:
        raise typer.BadParameter("--identity belongs to --from-copy; a backup is restored without reading any record")
    output = Output(as_json=as_json)

    async def of_one(log: Log) -> LogRestored:
        return _restored(log, target, from_copy=from_copy)

    async def run() -> ExitStatus:
        return _report(output, *await for_each_log(at.reader().logs(), of_one))

    perform(output, run)


def _restored(log: Log, target: Path, *, from_copy: bool) -> LogRestored:
    directory = open_target(log, target)
    try:
        _refuse_overwriting(directory)  # so that a log whose service runs is refused with these words
        lock = WriterLock(directory)
        try:
            _refuse_overwriting(directory)  # another restore, or a service, may have made it meanwhile
            copier = LogCopier(log.directory, directory)
            if not from_copy:
                try:
                    copied = copier.copy()
                except LogCorrupted as error:
                    raise Refused(
                        f"{log.directory} is no whole backup ({error.segment}: {error.reason}). If it was copied in "
                        "another way while the log was written, run restore with --from-copy into an empty directory"
                    ) from error
                return LogRestored(
                    log=log.name, files=copied.files, bytes=copied.bytes, rebuilt=False, unread=0, set_aside=()
                )
            copied = copier.copy_all()
            rebuilt = rebuild(directory, directory.identify(may_create=False).log_id, log.identities)
            return LogRestored(
                log=log.name,
                files=copied.files,
                bytes=copied.bytes,
                rebuilt=True,
                unread=rebuilt.unread,
                set_aside=rebuilt.set_aside,
            )
        finally:
            lock.close()
    finally:
        directory.close()


def _refuse_overwriting(directory: LogDirectory) -> None:
    if any(SegmentName.parse(name) is not None or name.endswith(".json") for name in directory.names()):
        raise Refused(
            f"{directory.path} is there already, and a log is never overwritten; stop its service and move it away"
        )


def _report(output: Output, done: list[LogRestored], failures: Failures) -> ExitStatus:
    if output.as_json:
        output.document({"logs": done, "errors": failures.texts})
        return failures.status(ExitStatus.OK)
    columns = [Column("log"), Column("copied"), Column("bytes"), Column("manifest"), Column("set aside")]
    rows = [
        [
            log.log,
            count_of(log.files, "file"),
            byte_size(log.bytes),
            "rebuilt" if log.rebuilt else "of the backup",
            count_of(len(log.set_aside), "file"),
        ]
        for log in done
    ]
    if rows or not failures.texts:
        output.table(columns, rows)
    for log in done:
        if log.unread:
            text = f"{count_of(log.unread, 'encrypted archive')} restored unread, as the copy's manifest has them"
            output.message(f"audit-async: {log.log}: {text}; audit-async verify --identity FILE reads them", "yellow")
        for name in log.set_aside:
            output.message(f"audit-async: {log.log}: after a gap in the copy, so set aside: {name}", "yellow")
    failures.show(output)
    return failures.status(ExitStatus.OK)
