"""What the evidence means for each control and topic, in sentences: what is shown, and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from audit_async._sanitize.readable_text import count_of
from audit_async._verify.verify_report import VerifyReport
from audit_async.events import Record
from audit_async.reports.framework import Control, Framework
from audit_async.reports.period_coverage import name_of_period
from audit_async.reports.report_document import ControlReport, RetentionFacts, TopicReport, VerificationFacts
from audit_async.reports.topics import TOPICS, Topic
from audit_async.reports.trail_evidence import Evidence, TypeEvidence, example_of, reason_of

__all__ = ["Findings", "concerns_of", "control_reports", "general_limits", "topic_reports"]

#: Event types that are listed for a control, and examples that are shown.
_MOST_TYPES: Final = 12
_MOST_EXAMPLES: Final = 4
#: Records that are listed for a topic, and of each of its types that says nothing went wrong.
_MOST_ENTRIES: Final = 40
_MOST_ROUTINE: Final = 4

#: Notes of the verification that an auditor has to see, by the topic they are of.
_TOPIC_OF_NOTE: Final = {
    "dropped": "refusals",
    "unclean_end": "sessions",
    "recovered": "sessions",
    "torn_tail": "sessions",
    "void_copies": "sessions",
    "clock": "clock",
    "deleted": "retention",
    "encrypted": "integrity",
    "damaged": "integrity",
    "rebuilt": "integrity",
    "incomplete": "integrity",
    "truncation_unseen": "signatures",
    "signed": "signatures",
    "not_signed": "signatures",
    "behind_checkpoint": "signatures",
    "publication_behind": "signatures",
    "log_absent": "signatures",
    "hold_unrecorded": "holds",
    "hold_lifted": "holds",
}
#: Of them, those that something is amiss with.
_AMISS: Final = frozenset(
    {
        "dropped", "unclean_end", "recovered", "torn_tail", "void_copies", "clock", "damaged", "rebuilt", "incomplete",
        "encrypted", "behind_checkpoint", "publication_behind", "log_absent", "hold_unrecorded",
    }
)  # fmt: skip
_TOPIC_OF_FINDING: Final = {"hold": "holds", "checkpoint": "signatures", "history": "signatures"}
#: Words of the assessment of retention that say that something is wrong.
_SHORTER: Final = "is SHORTER than"
_EARLIER: Final = "EARLIER than"
#: Findings by which records are missing, or not those that were written.
_GAPS: Final = frozenset({"sequence", "segment", "head", "history"})


class Findings(NamedTuple):
    """What was found besides the records of the period."""

    verified: VerifyReport  #: all of it, while `verification` has what is listed
    verification: VerificationFacts
    retention: RetentionFacts
    intents: tuple[Sequence[Record], int]  #: unfinished ones: the first of them, and how many
    holds: tuple[int | None, ...]  #: in force, log by log; None for a log whose holds can't be read
    not_counted: tuple[str, ...]  #: what may belong to the period and is not in the evidence

    @property
    def period(self) -> str:
        """What was counted, as sentences call it."""
        return name_of_period(self.not_counted)


def control_reports(framework: Framework, evidence: Evidence, found: Findings) -> tuple[ControlReport, ...]:
    """Return what the trail shows for each control of a framework."""
    topics = {topic.name: topic for topic in topic_reports(evidence, found)}
    return tuple(_control_report(control, evidence, topics, found) for control in framework.controls)


def _control_report(
    control: Control, evidence: Evidence, topics: dict[str, TopicReport], found: Findings
) -> ControlReport:
    seen = evidence.types_like(control.events)
    records = sum(one.records for one in seen)
    shows = list[str]()
    if control.events:
        shows.append(_counted(seen, records, found.period))
    for name in control.topics:
        # What is amiss is enough for one control; the rest is in the topic.
        shows += [f"{topics[name].title}: {text}" for text in topics[name].concerns or topics[name].shows]
    cannot_show = [control.cannot_show]
    if control.events and not records:
        cannot_show.append("Whether nothing happened, or it was not recorded: an absent record is no evidence.")
    if control.events and found.not_counted:
        cannot_show.append("What was recorded in the part of the period that is not counted; see At a glance.")
    return ControlReport(
        id=control.id,
        title=control.title,
        asks=control.asks,
        event_types=control.events,
        topics=control.topics,
        records=records,
        shows=tuple(shows),
        cannot_show=tuple(cannot_show),
        types=tuple(one.count() for one in seen[:_MOST_TYPES]),
        more_types=max(0, len(seen) - _MOST_TYPES),
        examples=tuple(example_of(record) for record in _examples(seen)),
    )


def _counted(seen: Sequence[TypeEvidence], records: int, period: str) -> str:
    if not records:
        return f"No record of these types is in {period}."
    failures = sum(one.failures for one in seen)
    failed = f"; {failures:,} of them say that it failed or was refused" if failures else ""
    least = "at least " if any(one.patterns for one in seen) else ""
    return f"{count_of(records, 'record')} of {least}{count_of(len(seen), 'event type')} in {period}{failed}."


def _examples(seen: Sequence[TypeEvidence]) -> list[Record]:
    """Return records to show: the newest of each of the most frequent types, then more of these."""
    newest = [one.kept[-1] for one in seen[:_MOST_EXAMPLES]]
    more = [record for one in seen[:_MOST_EXAMPLES] for record in one.kept[:-1]]
    return (newest + more)[:_MOST_EXAMPLES]


def topic_reports(evidence: Evidence, found: Findings) -> tuple[TopicReport, ...]:
    """Return what the trail shows about itself, topic by topic."""
    return tuple(_topic_report(name, evidence, found) for name in TOPICS)


def _topic_report(name: str, evidence: Evidence, found: Findings) -> TopicReport:
    topic = TOPICS[name]
    seen = evidence.types_like(topic.event_types)
    records = sum(one.records for one in seen)
    shown = [one.kept if one.event_type in topic.fault_types else one.kept[-_MOST_ROUTINE:] for one in seen]
    kept = sorted([record for records_ in shown for record in records_], key=lambda record: record.timestamp)
    if name == "intents":
        kept, records = list(found.intents[0]), found.intents[1]
    entries = kept[-_MOST_ENTRIES:]
    facts = _facts(name, evidence, found)
    if topic.event_types:
        counts = ", ".join(f"{count_of(one.records, 'record')} of {one.event_type}" for one in seen)
        none = f"no record of {', '.join(topic.event_types)}"
        facts.append(_Fact(f"In {found.period}: {counts or none}."))
        facts += _faults(topic, evidence, found)
    return TopicReport(
        name=name,
        title=topic.title,
        records=records,
        shows=tuple(fact.text for fact in facts),
        concerns=tuple(fact.text for fact in facts if fact.is_amiss),
        cannot_show=topic.cannot_show,
        types=tuple(one.count() for one in seen),
        entries=tuple(example_of(record) for record in entries),
        more_entries=records - len(entries),
    )


def _faults(topic: Topic, evidence: Evidence, found: Findings) -> list[_Fact]:
    """Return what went wrong by the topic's records, with what the newest record of each type says."""
    facts = list[_Fact]()
    for one in evidence.types_like(topic.fault_types):
        newest = one.kept[-1]
        count = count_of(one.records, "record")
        text = f"{count} of {one.event_type} in {found.period}; the newest, {newest.log} seq {newest.seq}"
        facts.append(_Fact(f"{text}{reason_of(newest)}.", is_amiss=True))
    return facts


class _Fact(NamedTuple):
    """A sentence, and whether what it says needs an auditor's attention."""

    text: str
    is_amiss: bool = False


def _facts(name: str, evidence: Evidence, found: Findings) -> list[_Fact]:
    """Return what is known of a topic besides its records."""
    facts = list[_Fact]()
    verified = found.verification
    if name == "integrity":
        facts.append(_Fact(_verdict(found), not verified.valid))
        for kind in sorted(_GAPS & {one.kind for one in found.verified.findings}):
            of_kind = [one for one in found.verified.findings if one.kind == kind]
            count, first = count_of(len(of_kind), f"{kind} finding"), of_kind[0]
            text = f"Records are missing, or not those that were written ({count}): {first.log}, {first.reason}."
            facts.append(_Fact(text, is_amiss=True))
    elif name == "signatures":
        checked = "Signatures were checked under the keys that were given"
        unchecked = "No signature was checked, because no key was given"
        signed = checked if verified.signatures_checked else unchecked
        facts.append(_Fact(f"{signed}. Heads that were kept elsewhere and compared: {verified.expected_heads:,}."))
    elif name == "retention":
        facts += [_Fact(text, _SHORTER in text or _EARLIER in text) for text in found.retention.assessment]
    elif name == "refusals" and evidence.refused:
        events = count_of(evidence.refused, "event")
        facts.append(_Fact(f"{events} of {found.period} refused or lost; what they said is not here.", is_amiss=True))
    elif name == "holds":
        facts += _hold_facts(found.holds)
    elif name == "intents":
        number = found.intents[1]
        text = f"{count_of(number, 'intended change')} of {found.period} without a recorded outcome."
        facts.append(_Fact(text, number > 0))
    findings = Counter(one.kind for one in found.verified.findings if _TOPIC_OF_FINDING.get(one.kind) == name)
    facts += [
        _Fact(f"{count_of(number, 'finding')} of the kind {kind}.", is_amiss=True) for kind, number in findings.items()
    ]
    notes = [note for note in found.verified.notes if _TOPIC_OF_NOTE.get(note.kind) == name]
    for kind, number in Counter(note.kind for note in notes).items():
        shown = next(note for note in notes if note.kind == kind)
        more = f" (and {count_of(number - 1, 'more note')} of this kind)" if number > 1 else ""
        facts.append(_Fact(f"{shown.log}: {shown.text}{more}.", kind in _AMISS))
    if name == "clock" and not notes:
        read = "that can be read " if found.not_counted else ""
        facts.append(_Fact(f"No timestamp {read}is more than a second before that of the record before it."))
    return facts


def _hold_facts(holds: Sequence[int | None]) -> list[_Fact]:
    known = [number for number in holds if number is not None]
    facts = [_Fact(f"{count_of(sum(known), 'legal hold')} in force when the report was made.")]
    if len(known) < len(holds):
        unknown = count_of(len(holds) - len(known), "log")
        facts.append(_Fact(f"Whether a legal hold is in force in {unknown} can't be read.", is_amiss=True))
    return facts


def _verdict(found: Findings) -> str:
    verified = found.verification
    if verified.valid:
        return f"{count_of(verified.records, 'record')} verified: every hash and every link holds."
    number = len(verified.findings) + verified.more_findings
    kinds = Counter(finding.kind for finding in found.verified.findings)
    named = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    unreadable = len(verified.unreadable) + verified.more_unreadable
    pieces = f"{count_of(unreadable, 'piece')} of the trail can't be read"
    if not number:
        return f"NOT verified: {pieces}; of the rest {count_of(verified.records, 'record')} hold."
    unread = f"; {pieces}" if unreadable else ""
    return f"NOT valid: {count_of(number, 'finding')} ({named}){unread}; {count_of(verified.records, 'record')} hold."


def concerns_of(evidence: Evidence, found: Findings) -> tuple[str, ...]:
    """Return what an auditor should look at first, each in a sentence; nothing if there is nothing."""
    return tuple(f"{topic.title}: {text}" for topic in topic_reports(evidence, found) for text in topic.concerns)


def general_limits(evidence: Evidence, found: Findings) -> tuple[str, ...]:
    """Return what this report can't show, whatever the control."""
    limits = [
        "What was not recorded: a service that does not report an event leaves no trace of it here.",
        "Whether what was recorded is true: a record shows what a service stated at that time.",
        "The right time: timestamps are those of the hosts' own clocks.",
        "Whether a control is met: this report is evidence, and no audit opinion and no legal advice.",
    ]
    unseen = {note.log for note in found.verified.notes if note.kind == "truncation_unseen"}
    if unseen:
        limits.append(
            f"Whether the newest records of {count_of(len(unseen), 'log')} of {len(found.verified.logs):,} were cut "
            "off, or the whole log was rewritten: no head that was kept elsewhere was given, and no signature was "
            "checked (--expected-head, --vkey, --policy)."
        )
    if found.not_counted:
        limits.append("What was recorded in the part of the period that is not counted; see At a glance.")
    if evidence.unverified:
        limits.append(
            f"What is in {count_of(evidence.unverified, 'record')} beyond what was verified, which are left out: "
            "written since the verification began, or after a break in the chain at the log's end."
        )
    if evidence.refused:
        limits.append(f"What {count_of(evidence.refused, 'event')} said that the logs had to refuse.")
    return tuple(limits)
