"""`audit-async bucket`: sealed segments in an S3 bucket that locks them, and logs made of them again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from audit_async._layout.age_files import Identities
from audit_async._trail.log_files import Log, find_logs
from audit_async.cli.archive_bucket import BUCKET_HELP, open_archive
from audit_async.cli.arguments import Directory, IdentityFiles, Json, parse_duration
from audit_async.cli.each_log import Failures, for_each_log
from audit_async.cli.place import load_config
from audit_async.cli.run import ExitStatus, Refused, describe, perform
from audit_async.cli.setting_table import show_settings
from audit_async.cli.terminal import Cell, Column, Output, byte_size, count_of
from audit_async.errors import AuditError

if TYPE_CHECKING:  # they need boto3
    from audit_async.forwarding.worm_archive import LogStatus, WormArchive
    from audit_async.forwarding.worm_holds import HeldLog
    from audit_async.forwarding.worm_push import PushedLog
    from audit_async.forwarding.worm_restore import RestoredLog
    from audit_async.forwarding.worm_retention import LengthenedLog

__all__ = ["register"]

BucketUrl = Annotated[
    str,
    typer.Option(
        "--bucket", metavar="URL", envvar="AUDIT_BUCKET_URL", show_default=False, show_envvar=True,
        help=BUCKET_HELP,
    ),
]  # fmt: skip
RetentionDays = Annotated[
    int | None,
    typer.Option(
        "--retention-days",
        min=1,
        max=36_500,
        show_default=False,
        help="How long what is stored now stays locked; nobody can shorten it. By default retention.min_retention_days "
        "of --config.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", readable=False, help="The service's configuration."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        no_args_is_help=True, help="Keep sealed segments in an S3 bucket that locks them (WORM), and restore from it."
    )
    app.add_typer(group, name="bucket")
    group.command(
        "init",
        epilog="Example: audit-async bucket init --bucket 's3://audit-worm?region=eu-central-1'",
        short_help="Make a bucket with Object Lock and versioning.",
    )(init)
    group.command(
        "check",
        epilog="Example: audit-async bucket check --bucket s3://audit-worm/web-1",
        short_help="Look at a bucket's settings, and try whether it really locks.",
    )(check)
    group.command(
        "push",
        epilog="Example: audit-async bucket push /var/lib/audit --bucket s3://audit-worm/web-1 --config audit.toml "
        "--every 1h",
        short_help="Store the sealed segments that the bucket does not have.",
    )(push)
    group.command(
        "list",
        epilog="Example: audit-async bucket list /var/lib/audit --bucket s3://audit-worm/web-1 --max-lag 26h",
        short_help="Show what is in the bucket, or what it lacks of a directory's logs.",
    )(list_)
    group.command(
        "lengthen",
        epilog="Example: audit-async bucket lengthen /var/lib/audit --bucket s3://audit-worm/web-1 --config audit.toml",
        short_help="Lock what is stored for longer, as the configuration has it now.",
    )(lengthen)
    group.command(
        "hold",
        epilog="Example: audit-async bucket hold /var/lib/audit --bucket s3://audit-worm/web-1 --config audit.toml",
        short_help="Put what is stored of logs on hold on legal hold.",
    )(hold)
    group.command(
        "release",
        epilog="Example: audit-async bucket release /var/lib/audit/orders/00 --bucket s3://audit-worm/web-1 "
        "--config audit.toml --as 'R. Roe' --reason 'case 4711 closed'",
        short_help="End the legal hold of what is stored of logs.",
    )(release)
    group.command(
        "restore",
        epilog="Example: audit-async bucket restore /srv/restored --bucket s3://audit-worm/web-1 --identity key.txt",
        short_help="Make log directories of what is in the bucket.",
    )(restore)


def init(*, bucket: BucketUrl, as_json: Json = False) -> None:
    """Make a bucket with Object Lock and versioning. One that is there is checked, and refused if it does not lock.

    Every object gets its own time and compliance mode when it is stored, so the bucket needs no default rule.
    """
    output = Output(as_json=as_json)

    async def run(archive: WormArchive) -> ExitStatus:
        done = await archive.init()
        if as_json:
            output.document({"done": done})
        else:
            for line in done:
                output.line(Cell("done", "green"), f"  {line}")
        return ExitStatus.OK

    _perform(output, bucket, run)


def check(*, bucket: BucketUrl, as_json: Json = False) -> None:
    """Look at the bucket's settings, store a canary, and try to delete it; each wrong thing is named (status 1).

    The deletion, and shortening its time, have to be refused. Run it once with credentials that may delete: only then
    a refusal shows that it is the lock that refuses. The canary, 70 bytes, stays locked for an hour.
    """
    output = Output(as_json=as_json)

    async def run(archive: WormArchive) -> ExitStatus:
        return show_settings(output, await archive.check())

    _perform(output, bucket, run)


def push(
    directory: Directory,
    *,
    bucket: BucketUrl,
    retention_days: RetentionDays = None,
    config_file: ConfigFile = None,
    keep_plain_personal_data: Annotated[
        bool,
        typer.Option(
            "--keep-plain-personal-data",
            help="Store segments with personal data in the clear as well. Until their time is over nobody can erase "
            "it, whatever the law says.",
        ),
    ] = False,
    every: Annotated[
        str | None,
        typer.Option("--every", metavar="TIME", help="Do it again and again, such as 15m or 1h; end it with a signal."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Store the sealed segments of all logs that the bucket does not have, and each log's head.

    DIRECTORY is a host's base directory or a collector's root; only reading is needed, also while services write. What
    was stored is looked at again: first version, SHA-256, compliance mode, time. It can be stopped at any moment and
    run again. A segment stays out if it holds personal data that is neither sealed (privacy) nor encrypted
    (retention.archive_recipients), unless --keep-plain-personal-data is given.

    Exit status 1 if something stays out or is not as it has to be, 3 if the bucket or a log can't be reached. With
    --every it goes on after an error, and --json writes one line a turn.
    """
    output = Output(as_json=as_json)
    days = _days(retention_days, config_file)
    pause_s = None if every is None else max(1.0, parse_duration(every, "--every").total_seconds())

    async def run(archive: WormArchive) -> ExitStatus:
        async def of_one(log: Log) -> PushedLog:
            return await archive.push(
                log.directory, retention_days=days, keep_plain_personal_data=keep_plain_personal_data
            )

        while True:
            try:
                done, failures = await for_each_log(_logs(directory), of_one)
                status = _show_pushed(output, done, failures, in_lines=pause_s is not None)
            except (AuditError, OSError) as error:
                if pause_s is None:
                    raise
                output.message(f"audit-async: {describe(error)}", "red")
            if pause_s is None:
                return status
            output.flush()
            await anyio.sleep(pause_s)

    _perform(output, bucket, run)


def list_(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIRECTORY]", show_default=False, readable=False, help="Logs that the bucket is compared with."
        ),
    ] = None,
    *,
    bucket: BucketUrl,
    max_lag: Annotated[
        str | None,
        typer.Option("--max-lag", metavar="TIME", help="Status 1 if a sealed segment is out of the bucket for longer."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is in the bucket; with a DIRECTORY which sealed segments of its logs are missing, and since when.

    The names of the objects are compared, their content is not read: `bucket restore` into an empty directory is the
    proof. Later versions, delete markers and foreign objects are findings (status 1).
    """
    output = Output(as_json=as_json)
    if max_lag is not None and directory is None:
        raise typer.BadParameter("--max-lag belongs to a DIRECTORY, which the bucket is compared with")
    most_s = None if max_lag is None else parse_duration(max_lag, "--max-lag").total_seconds()

    async def run(archive: WormArchive) -> ExitStatus:
        if directory is None:
            return await _show_stored(output, archive)

        async def of_one(log: Log) -> LogStatus:
            return await archive.status(log.directory)

        return _show_status(output, *await for_each_log(_logs(directory), of_one), most_s)

    _perform(output, bucket, run)


def lengthen(
    directory: Directory,
    *,
    bucket: BucketUrl,
    retention_days: RetentionDays = None,
    config_file: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Lock what is stored of each log until so many days after it was stored; what is locked for longer stays so.

    For a retention.min_retention_days that was raised. It can't be taken back: nobody can shorten a lock.
    """
    output = Output(as_json=as_json)
    days = _days(retention_days, config_file)

    async def run(archive: WormArchive) -> ExitStatus:
        async def of_one(log: Log) -> LengthenedLog:
            return await archive.lengthen(log.directory, retention_days=days)

        done, failures = await for_each_log(_logs(directory), of_one)
        changed = [(log.log, "", log.lengthened, log.unchanged) for log in done]
        return _show_changed(output, done, changed, failures)

    _perform(output, bucket, run)


def hold(
    directory: Directory,
    *,
    bucket: BucketUrl,
    retention_days: RetentionDays = None,
    config_file: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Put everything that is stored of each log with a hold in force on legal hold; other logs are left alone.

    Run it after each push while the hold is in force, since what is stored later is not on hold by itself. It needs
    credentials of its own (s3:PutObjectLegalHold), which the one that pushes must not have.
    """
    output = Output(as_json=as_json)
    days = _days(retention_days, config_file)

    async def run(archive: WormArchive) -> ExitStatus:
        async def of_one(log: Log) -> HeldLog:
            return await archive.hold(log.directory, retention_days=days)

        return _show_held(output, *await for_each_log(_logs(directory), of_one))

    _perform(output, bucket, run)


def release(
    directory: Directory,
    *,
    bucket: BucketUrl,
    by: Annotated[str, typer.Option("--as", metavar="NAME", help="Who does it; stored in the bucket.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; stored in the bucket.")],
    retention_days: RetentionDays = None,
    config_file: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """End the legal hold of everything that is stored of the logs; refused for a log with a hold in force.

    Lift that one first, with `audit-async hold lift`. Nothing is deleted: what is stored stays locked until its time
    is over. Who released it and why is stored first, locked as well.
    """
    output = Output(as_json=as_json)
    days = _days(retention_days, config_file)

    async def run(archive: WormArchive) -> ExitStatus:
        async def of_one(log: Log) -> HeldLog:
            return await archive.release(log.directory, by=by, reason=reason, retention_days=days)

        return _show_held(output, *await for_each_log(_logs(directory), of_one))

    _perform(output, bucket, run)


def restore(
    target: Annotated[
        Path,
        typer.Argument(metavar="TARGET", show_default=False, readable=False, help="The base directory to restore to."),
    ],
    *,
    bucket: BucketUrl,
    log_ids: Annotated[
        list[str] | None,
        typer.Option("--log-id", metavar="ID", help="Only this log, as `bucket list` shows it. May be repeated."),
    ] = None,
    identity: IdentityFiles = None,
    as_json: Json = False,
) -> None:
    """Make log directories of what is in the bucket: the first version of everything, verified record by record.

    A log that is in TARGET already is never overwritten. Encrypted segments that no --identity opens are restored as
    they are, but for the newest of a log, which has to be readable. What the bucket's heads name and the restored log
    lacks is a finding (status 1), and so are later versions and delete markers. What was not sealed at the last push
    is not in the bucket. `audit-async verify TARGET` then says that the manifest was rebuilt.
    """
    output = Output(as_json=as_json)
    identities = Identities.from_files(*identity) if identity else None

    async def run(archive: WormArchive) -> ExitStatus:
        try:
            done = await archive.restore(target, log_ids=log_ids, identities=identities)
        except FileExistsError as error:
            raise Refused(str(error)) from error
        return _show_restored(output, done)

    _perform(output, bucket, run)


# -- what they share ---------------------------------------------------------------------------------------------------


def _perform(output: Output, url: str, command: Callable[[WormArchive], Awaitable[ExitStatus]]) -> None:
    """Run a command on a bucket, and close that."""

    async def run() -> ExitStatus:
        async with open_archive(url) as archive:
            return await command(archive)

    perform(output, run)


def _days(days: int | None, config_file: Path | None) -> int:
    """Return how long what is stored stays locked: as it is given, or as the configuration promises."""
    if days is not None:
        return days
    if config_file is None:
        raise typer.BadParameter(
            "give --retention-days, or a --config with retention.min_retention_days: what is locked can't be unlocked "
            "earlier, so nothing is assumed"
        )
    return load_config(config_file).retention.min_retention_days


def _logs(directory: Path) -> list[Log]:
    """Return the logs at or below a host's base directory or a collector's root."""
    from audit_async.forwarding.worm_push import directories_of_logs  # noqa: PLC0415 - needs boto3

    return [log for found in directories_of_logs(directory) for log in find_logs(found)]


def _show_pushed(output: Output, done: list[PushedLog], failures: Failures, *, in_lines: bool) -> ExitStatus:
    if output.as_json:
        (output.json_row if in_lines else output.document)({"logs": done, "errors": failures.texts})
    else:
        columns = [Column("log"), Column("stored"), Column("bytes"), Column("there"), Column("stored up to")]
        output.table(
            columns,
            [
                (
                    log.log,
                    count_of(log.stored, "segment"),
                    byte_size(log.bytes),
                    count_of(log.there, "segment"),
                    f"record {log.head.seq}" if log.head is not None else "nothing",
                )
                for log in done
            ],
        )
        for log in done:
            _show_findings(output, log.log, log.findings)
            if log.unsealed:
                output.message(
                    f"audit-async: {log.log}: {count_of(len(log.unsealed), 'segment')} with personal data in the clear "
                    f"not stored, the first is {log.unsealed[0]}; seal it (privacy) or encrypt archives as soon as "
                    "they are sealed (retention.archive_recipients, archive_after_days=0), or say "
                    "--keep-plain-personal-data",
                    "yellow",
                )
            if not log.receipts:
                output.message(
                    f"audit-async: {log.log}: no receipts were written, since only the owner of the log's directory "
                    "can; a collector does not count this bucket",
                    "yellow",
                )
    failures.show(output)
    return failures.status(ExitStatus.OK if all(log.is_complete for log in done) else ExitStatus.FINDINGS)


async def _show_stored(output: Output, archive: WormArchive) -> ExitStatus:
    logs = await archive.logs()
    if output.as_json:
        output.document({"logs": logs})
    else:
        columns = [Column("log"), Column("log_id", whole=True), Column("segments", right=True), Column("bytes"),
                   Column("stored up to")]  # fmt: skip
        output.table(
            columns,
            [
                (
                    log.place or "unknown",
                    log.log_id,
                    f"{log.segments:,}",
                    byte_size(log.bytes),
                    f"record {log.head.seq}" if log.head is not None else "unknown",
                )
                for log in logs
            ],
        )
        for log in logs:
            _show_findings(output, log.place or log.log_id, log.findings)
    return ExitStatus.FINDINGS if any(log.findings for log in logs) else ExitStatus.OK


def _show_status(output: Output, done: list[LogStatus], failures: Failures, most_s: float | None) -> ExitStatus:
    late = [log for log in done if most_s is not None and log.lag_s > most_s]
    if output.as_json:
        output.document({"logs": done, "errors": failures.texts})
    else:
        columns = [Column("log"), Column("sealed", right=True), Column("missing", right=True), Column("lag"),
                   Column("oldest missing")]  # fmt: skip
        output.table(
            columns,
            [
                (
                    log.log,
                    f"{log.segments:,}",
                    f"{len(log.missing):,}",
                    f"{log.lag_s / 3600:.1f} h" if log.missing else "none",
                    log.missing[0] if log.missing else "",
                )
                for log in done
            ],
        )
        for log in done:
            _show_findings(output, log.log, log.findings)
    failures.show(output)
    return failures.status(ExitStatus.FINDINGS if late or any(log.findings for log in done) else ExitStatus.OK)


def _show_held(output: Output, done: list[HeldLog], failures: Failures) -> ExitStatus:
    changed = [(log.log, log.holds[0].since if log.holds else "none", log.changed, log.unchanged) for log in done]
    return _show_changed(output, done, changed, failures)


def _show_changed(
    output: Output, done: Sequence[object], changed: Sequence[tuple[str, str, int, int]], failures: Failures
) -> ExitStatus:
    """Write of how many objects of each log the lock was changed; the second column is the hold, if there is one."""
    if output.as_json:
        output.document({"logs": done, "errors": failures.texts})
    else:
        has_holds = any(since for _, since, _, _ in changed)
        columns = [
            Column("log"),
            *([Column("hold since")] if has_holds else []),
            Column("changed"),
            Column("as it was"),
        ]
        output.table(
            columns,
            [
                (log, *([since] if has_holds else []), count_of(number, "object"), count_of(others, "object"))
                for log, since, number, others in changed
            ],
        )
    failures.show(output)
    return failures.status(ExitStatus.OK)


def _show_restored(output: Output, done: list[RestoredLog]) -> ExitStatus:
    if output.as_json:
        output.document({"logs": done})
    else:
        columns = [Column("log"), Column("segments"), Column("bytes"), Column("up to")]
        output.table(
            columns,
            [
                (log.log, count_of(log.segments, "segment"), byte_size(log.bytes), f"record {log.head.seq}")
                for log in done
            ],
        )
        for log in done:
            _show_findings(output, log.log, log.findings)
            if log.unread:
                output.message(
                    f"audit-async: {log.log}: {count_of(log.unread, 'encrypted segment')} restored unread; "
                    "audit-async verify --identity FILE reads them",
                    "yellow",
                )
    return ExitStatus.FINDINGS if any(log.findings for log in done) else ExitStatus.OK


def _show_findings(output: Output, log: str, findings: Sequence[str]) -> None:
    for text in findings:
        output.message(f"audit-async: {log}: {text}", "red")
