"""The report of one trail with known faults, for each framework, as it was read and found right."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Final

import pytest

from audit_async import AuditConfig, AuditLogger, AuditReader, Local
from audit_async.reports import Report, framework_names, make_report
from tests.reports.faulty_trail import FOREIGN_HEAD, REFUSED, FaultyTrail, leave

GOLDEN: Final = Path(__file__).parent / "golden"
#: Set to write the files again; read the difference before it is committed.
REWRITE: Final = "AUDIT_REWRITE_GOLDEN"


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> FaultyTrail:
    """The trail, for all tests of this module."""
    return asyncio.run(leave(tmp_path_factory.mktemp("faulty")))


def reported(trail: FaultyTrail, framework: str, access_log: Path) -> Report:
    """Return the report on the trail; the access is recorded elsewhere, so that the trail stays as it is."""

    async def make() -> Report:
        config = AuditConfig(mode=Local(access_log), service_id="audit-cli", handle_signals=False)
        async with AuditLogger(config) as audit:
            return await make_report(
                AuditReader(trail.base_dir),
                framework,
                audit=audit,
                accessed_by="carol",
                expected_heads={"orders/00": FOREIGN_HEAD},
                policy=trail.policy,
                processes=1,
            )

    return asyncio.run(make())


def text_of(report: Report) -> str:
    """Return what a report says, without what differs from run to run."""
    lines = [f"{report.framework.name} | {report.framework.version}", f"records {report.records}", ""]
    lines += [f"! {text}" for text in report.concerns]
    for control in report.controls:
        lines += ["", f"{control.id} | {control.title} | {control.records}"]
        lines += [f"  + {text}" for text in control.shows]
        lines += [f"  = {seen.event_type} {seen.records} {seen.failures}" for seen in control.types]
        lines += [f"  > {one.log} {one.event_type} {one.actor} {one.target} {one.outcome}" for one in control.examples]
        lines += [f"  - {text}" for text in control.cannot_show]
    lines += ["", *[f"- {text}" for text in report.cannot_show]]
    text = "\n".join(lines) + "\n"
    text = re.sub(r"\b[0-9a-f]{22,}\b", "ID", text)
    return re.sub(r"\d{4}-\d{2}-\d{2}[T ][0-9:.]+(Z| UTC)?", "TIME", text)


@pytest.mark.parametrize("framework", framework_names())
def test_a_framework_s_report_is_the_golden_one(framework: str, trail: FaultyTrail, tmp_path: Path) -> None:
    """Control by control the report says what the file says, in the order of the framework."""
    said = text_of(reported(trail, framework, tmp_path))
    path = GOLDEN / f"{framework}.txt"
    if os.environ.get(REWRITE):
        path.write_text(said, encoding="utf-8")
    assert said == path.read_text(encoding="utf-8"), f"if that is meant: {REWRITE}=1 pytest {__file__}"


def test_each_known_fault_is_named(trail: FaultyTrail, tmp_path: Path) -> None:
    """The gap, the refused events, the unsigned part, the foreign head, the intent, the erasure and the hold."""
    report = reported(trail, "gdpr", tmp_path)
    assert not report.verification.valid
    concerns = "\n".join(report.concerns)
    assert "billing/00, seq is 4, but 3 is due" in concerns
    assert "orders/00, the record has another hash than the expected head" in concerns
    assert f"{REFUSED} events of the readable part of the period refused" in concerns
    assert "orders/00: whether records that were written after the last checkpoint" in concerns
    assert "1 intended change of the readable part of the period without a recorded outcome" in concerns
    topics = {topic.name: topic for topic in report.topics}
    (intent,) = topics["intents"].entries
    assert intent.event_type == "transaction.intended"
    assert f"{2:032x}" in intent.details + intent.target
    assert "1 legal hold in force" in " ".join(topics["holds"].shows)
    assert [entry.event_type for entry in topics["erasures"].entries] == [
        "audit.erasure_started",
        "audit.subject_erased",
    ]
    held = {log.log: (log.holds_in_force, log.dropped) for log in report.logs}
    assert held == {"billing/00": (0, 0), "orders/00": (1, REFUSED)}


def test_every_example_is_a_record_of_the_trail(trail: FaultyTrail, tmp_path: Path) -> None:
    """Log, sequence number, audit_id and hash of each example are those of a line in the segments."""
    lines = {
        line
        for log in ("orders/00", "billing/00")
        for path in (trail.base_dir / log).glob("*.audit")
        for line in path.read_text().splitlines()
    }
    report = reported(trail, "iso27001", tmp_path)
    examples = [one for control in report.controls for one in control.examples]
    examples += [one for topic in report.topics for one in topic.entries]
    assert len(examples) > 25
    for example in examples:
        named = [line for line in lines if f'"audit_id":"{example.audit_id}"' in line]
        assert len(named) == 1
        assert named[0].startswith(f'{{"seq":{example.seq},')
        assert named[0].endswith(f'"hash":"{example.hash}"}}')


def test_what_is_sealed_stays_sealed(trail: FaultyTrail, tmp_path: Path) -> None:
    """Without the key store nobody is named whom the trail seals, and no sealed text is in the report."""
    report = reported(trail, "soc2", tmp_path)
    whole = str(report.to_dict())
    assert "sealed:1:" not in whole
    assert "bob" not in whole
    assert "[sealed]" in whole
