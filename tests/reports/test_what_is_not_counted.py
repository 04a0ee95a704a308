"""A report says what of the period it could not count, and never that nothing happened there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from audit_async import AuditConfig, AuditLogger, AuditReader, Local
from audit_async.events import Record
from audit_async.reader import Identities, TrailUnreadable, VerifyReport
from audit_async.reports import Report
from tests.age_keys import key_file
from tests.cli.made_trails import failure, make_trail
from tests.logs import failure as failed_log_in
from tests.reports.reporting import reported, written
from tests.trail.lived import LivedLog, rewrite_manifest
from tests.verify.test_encrypted_trails import RECORDS, make

pytestmark = pytest.mark.anyio

READABLE = "the readable part of the period"
#: When the records of `make_trail` begin.
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def says_that_something_is_missing(report: Report) -> bool:
    """Return whether each control that counts records says that not all were counted, and of which part it speaks."""
    said = [
        any(READABLE in text for text in control.shows) and any("not counted" in text for text in control.cannot_show)
        for control in report.controls
        if control.event_types
    ]
    assert len(set(said)) == 1
    topics = {topic.name: topic for topic in report.topics}
    assert said[0] == any(READABLE in text for text in topics["sessions"].shows) == bool(report.not_counted)
    assert said[0] == any("not counted" in text for text in report.cannot_show)
    return said[0]


async def test_what_is_encrypted_is_not_counted_without_the_identity(tmp_path: Path) -> None:
    """The archives are named, with their number of records; with the identity all is counted and nothing is named."""
    await make(tmp_path / "audit")
    closed = await reported(AuditReader(tmp_path / "audit"), tmp_path, "hipaa")
    assert not closed.verification.valid
    assert not closed.verification.findings
    (missing,) = closed.not_counted
    assert ".zst.age: 4 segments with 40 records, from seq 0 to 39, are encrypted" in missing
    assert says_that_something_is_missing(closed)
    identities = Identities.from_files(key_file(tmp_path))
    opened = await reported(AuditReader(tmp_path / "audit", identities=identities), tmp_path, "hipaa")
    assert opened.verification.valid
    assert not says_that_something_is_missing(opened)
    log_ins = next(control for control in opened.controls if control.id == "164.308(a)(5)(ii)(C)")
    assert log_ins.records == RECORDS + 1


async def test_what_retention_has_deleted_is_not_counted(tmp_path: Path) -> None:
    """It is named if it may be of the period; if the log's oldest record is older than that, it is not."""
    log = LivedLog(tmp_path / "audit").session().retain(archived=2, deleted=3)
    report, files = await written(log.base_dir, tmp_path)
    assert report.verification.valid
    (missing,) = report.not_counted
    assert missing.startswith("Deleted: orders/00: 27 records up to seq 26 in 3 segments were deleted by retention; ")
    assert missing.endswith("its oldest record is now of 2026-11-22 12:00:00 UTC.")
    assert says_that_something_is_missing(report)
    page = Path(files.page).read_text()
    assert "What is not counted in this report" in page
    assert "nothing in what was read" in page
    assert "nothing recorded" not in page
    later = await reported(AuditReader(log.base_dir), tmp_path, since=NOON + timedelta(seconds=1))
    assert later.not_counted == ()


@pytest.mark.parametrize("kind", ["record", "segment"])
async def test_damage_half_way_is_not_counted(kind: str, tmp_path: Path) -> None:
    """A segment of which only half is there, and one that is gone: the rest is counted, and called the rest."""
    log = LivedLog(tmp_path / "audit").session()
    segment = log.segments[1]
    segment.chmod(0o600)
    content = segment.read_bytes()
    segment.write_bytes(content[: len(content) // 2])
    if kind == "segment":
        segment.unlink()
    report = await reported(AuditReader(log.base_dir), tmp_path)
    (missing,) = report.not_counted
    assert missing == f"Records that are damaged or missing, or not those that were written: 1 finding ({kind} 1)."
    assert says_that_something_is_missing(report)
    assert 0 < report.records == report.verification.records < log.chain.head.seq


class Interrupted(AuditReader):
    """A reader whose disk fails after a record."""

    async def query(self, *arguments: object, **options: object) -> AsyncIterator[Record]:  # type: ignore[override]
        """Yield one record, then fail."""
        async with aclosing(super().query(*arguments, **options)) as records:  # type: ignore[arg-type]
            async for record in records:
                yield record
                raise TrailUnreadable("orders/00: input/output error")


async def test_a_reading_that_ends_early_is_said(tmp_path: Path) -> None:
    """The trail was verified, and then its disk fails: what was counted until then is not called all."""
    make_trail(tmp_path / "audit", [failure("alice")] * 3)
    report = await reported(Interrupted(tmp_path / "audit"), tmp_path)
    assert report.records == 1
    assert not report.verification.valid
    assert report.not_counted == ("Reading of the period's records ended early: orders/00: input/output error",)
    assert says_that_something_is_missing(report)


class Growing(AuditReader):
    """A reader of a log that is written on after it was verified."""

    async def verify(self, *arguments: object, **options: object) -> VerifyReport:
        """Verify, then let the service record something."""
        verified = await super().verify(*arguments, **options)  # type: ignore[arg-type]
        config = AuditConfig(mode=Local(self.base_dir), service_id="billing", handle_signals=False)
        async with AuditLogger(config) as audit:
            audit.emit(failed_log_in(1))
        return verified


async def test_what_was_not_verified_is_not_counted(tmp_path: Path) -> None:
    """Records that a service adds meanwhile are the next report's, in logs that were there and in new ones."""
    make_trail(tmp_path / "audit", [failure("alice")] * 3)
    report = await reported(Growing(tmp_path / "audit"), tmp_path)
    assert report.records == report.verification.records == 3
    assert any("3 records beyond what was verified" in text for text in report.cannot_show)
    assert not says_that_something_is_missing(report)


async def test_a_record_after_a_break_at_the_end_is_not_called_new(tmp_path: Path) -> None:
    """Whether it was written since or the one before it was removed is not known of a record without a link."""
    make_trail(tmp_path / "audit", [failure("alice")] * 6)
    (segment,) = (tmp_path / "audit" / "orders" / "00").glob("*.audit")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*lines[:4], lines[5]]))
    report = await reported(AuditReader(tmp_path / "audit"), tmp_path)
    assert report.records == report.verification.records == 4
    (said,) = [text for text in report.cannot_show if "1 record beyond what was verified" in text]
    assert "or after a break in the chain" in said
    assert says_that_something_is_missing(report)


async def test_no_type_is_hidden_by_many_others(tmp_path: Path) -> None:
    """However many types somebody makes up before: records are counted for each control that asks for their type."""
    made_up = [json.dumps({"event_type": f"made.up_{n}"}).encode() for n in range(520)]
    late = [b'{"event_type":"security.late_%d"}' % n for n in range(3)]
    make_trail(tmp_path / "audit", [*made_up, *late, failure("mallory")])
    report = await reported(AuditReader(tmp_path / "audit"), tmp_path)
    counted = {control.id: control.records for control in report.controls}
    assert (counted["CC6.1"], counted["CC7.2"], counted["CC7.3"]) == (1, 4, 3)
    events = next(control for control in report.controls if control.id == "CC7.3")
    assert events.shows[0] == "3 records of at least 1 event type in the period."
    assert events.examples[0].event_type == "security.late_2"
    everything = await reported(AuditReader(tmp_path / "audit"), tmp_path, "hipaa")
    assert next(control for control in everything.controls if control.id == "164.312(b)").records == 524


async def test_the_age_of_what_was_deleted_is_known_or_said_not_to_be(tmp_path: Path) -> None:
    """Without the manifest nothing is claimed of the age."""
    log = LivedLog(tmp_path / "audit").session().retain(deleted=2)
    known = await reported(AuditReader(log.base_dir), tmp_path, "hipaa")
    assert known.retention.assessment[1:4] == (
        "2 segments deleted in the readable part of the period.",
        "The youngest record in them was 0 days old when it was deleted.",
        "Records were deleted EARLIER than the 2,192 days of 164.316(b)(2)(i).",
    )
    (log.directory / "manifest.json").unlink()
    report = await reported(AuditReader(log.base_dir), tmp_path, "hipaa")
    assert report.retention.deleted_segments == 2
    assert report.retention.youngest_deleted_days is None
    assert any(
        text.startswith("How old the records of 2 segments were can't be said") for text in report.retention.assessment
    )


async def test_a_log_that_can_not_be_read_at_all_hides_no_other(tmp_path: Path) -> None:
    """Its manifest is damaged, so none of its records is counted, and this is said; those of other logs are counted."""
    log = LivedLog(tmp_path / "audit").session()
    rewrite_manifest(log, lambda entries: entries.pop(1))
    make_trail(tmp_path / "audit", [failure("alice")] * 3, instance="01")
    report = await reported(AuditReader(tmp_path / "audit"), tmp_path)
    assert not report.verification.valid
    assert report.records == 3
    assert report.not_counted[0].startswith("No record of orders/00 can be read: orders/00/manifest.json")
    assert says_that_something_is_missing(report)
    alone = await reported(AuditReader(tmp_path / "audit", instance="00"), tmp_path)
    assert alone.records == 0
    assert says_that_something_is_missing(alone)


async def test_the_period_begins_with_since_and_ends_before_until(tmp_path: Path) -> None:
    """To the microsecond, in whatever zone, and the report repeats it exactly."""
    make_trail(tmp_path / "audit", [failure(name) for name in "abcd"], step_ns=500_000_000)
    zone = timezone(timedelta(hours=5, minutes=45))
    since, until = NOON + timedelta(seconds=0.5), NOON + timedelta(seconds=1.5)
    report, files = await written(
        tmp_path / "audit", tmp_path, since=since.astimezone(zone), until=until.astimezone(zone)
    )
    assert report.records == 2
    assert (report.first_record, report.last_record) == (
        "2026-11-22T12:00:00.500000Z",
        "2026-11-22T12:00:01.000000Z",
    )
    assert (report.period.since, report.period.until) == ("2026-11-22T12:00:00.500000Z", "2026-11-22T12:00:01.500000Z")
    page = Path(files.page).read_text()
    assert "2026-11-22 12:00:00.500000 UTC to 2026-11-22 12:00:01.500000 UTC (not included)" in page
    without = await reported(
        AuditReader(tmp_path / "audit"),
        tmp_path,
        since=since + timedelta(microseconds=1),
        until=until + timedelta(microseconds=1),
    )
    assert without.records == 2
    assert without.first_record == "2026-11-22T12:00:01.000000Z"


async def test_a_period_that_the_trail_does_not_cover_is_said(tmp_path: Path) -> None:
    """It begins before the oldest record, or is not over when the report is made."""
    make_trail(tmp_path / "audit", [failure("alice")])
    reader = AuditReader(tmp_path / "audit")
    long = await reported(reader, tmp_path, since=NOON - timedelta(days=1), until=datetime(9999, 1, 1, tzinfo=UTC))
    assert any(text.startswith("Anything from before 2026-11-22T12:00:00") for text in long.cannot_show)
    assert any("the period was not over" in text for text in long.cannot_show)
    short = await reported(reader, tmp_path, since=NOON, until=NOON + timedelta(days=1))
    assert not any("Anything from before" in text or "was not over" in text for text in short.cannot_show)


async def test_a_hold_that_can_not_be_read_is_not_called_none(tmp_path: Path) -> None:
    """The log whose holds can't be read is counted as such, and needs attention."""
    make_trail(tmp_path / "audit", [failure("alice")])
    (tmp_path / "audit" / "orders" / "00" / "hold.json").write_text("{")
    report = await reported(AuditReader(tmp_path / "audit"), tmp_path, "hipaa")
    holds = next(topic for topic in report.topics if topic.name == "holds")
    assert "Whether a legal hold is in force in 1 log can't be read." in holds.concerns
