"""What `doctor` looks at in a bucket: whether it locks, and what it lacks of the logs."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from audit_async._trail.log_files import Log
from audit_async.cli.archive_bucket import open_archive
from audit_async.cli.diagnosis.outcomes import Check, fail, ok, refused, warn
from audit_async.cli.terminal import count_of
from audit_async.errors import AuditError

__all__ = ["examine"]

_BUCKET: Final = "bucket"
#: A segment is sealed once a day at the latest, and pushed within a day.
_LATE: Final = timedelta(days=2)
_VERDICTS: Final = {"ok": ok, "note": warn, "wrong": fail}


async def examine(logs: list[Log], url: str) -> list[Check]:
    """Return the checks of a bucket; a canary of 70 bytes stays in it, locked for an hour. Raises `ConfigError`."""
    async with open_archive(url) as archive:
        try:
            checks = [
                _VERDICTS[one.verdict](
                    _BUCKET,
                    one.name,
                    one.found if one.verdict == "ok" else f"{one.found}, should be {one.wanted}; {one.fix}",
                )
                for one in await archive.check()
            ]
        except AuditError as error:
            return [Check(subject=_BUCKET, name="lock", status="fail", text=str(error), unreadable=True)]
        for log in logs:
            try:
                status = await archive.status(log.directory)
            except (AuditError, OSError) as error:
                checks.append(refused(log.name, _BUCKET, error))
                continue
            checks += [fail(log.name, _BUCKET, text) for text in status.findings]
            if status.missing:
                say = fail if status.lag_s > _LATE.total_seconds() else warn
                text = (
                    f"{count_of(len(status.missing), 'sealed segment')} not in the bucket, the oldest for "
                    f"{status.lag_s / 3600:.1f} h; run: audit-async bucket push"
                )
                checks.append(say(log.name, _BUCKET, text))
            else:
                checks.append(ok(log.name, _BUCKET, f"{count_of(status.segments, 'sealed segment')} in the bucket"))
    return checks
