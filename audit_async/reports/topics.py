"""Topics: what a trail shows about itself, whatever the framework, and the lifecycle events that speak of each."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["TOPICS", "TOPIC_OF_TYPE", "VERIFIED_TOPICS", "Topic"]


class Topic(NamedTuple):
    """Something that can be said of a trail."""

    title: str
    shows: str  #: what its records show
    cannot_show: str  #: what they leave open
    event_types: tuple[str, ...] = ()
    #: Those of them whose records say that something went wrong, or that somebody should look.
    fault_types: tuple[str, ...] = ()


TOPICS: Final[dict[str, Topic]] = {
    "integrity": Topic(
        "Integrity of the records",
        "Each record is hashed together with the hash of the record before, and the verification read all of them.",
        "That a service recorded everything, and the truth: only that what was recorded is unchanged.",
        ("audit.verification_failed", "audit.segment_damaged"),
        ("audit.verification_failed", "audit.segment_damaged"),
    ),
    "signatures": Topic(
        "Signed checkpoints",
        "A checkpoint states, under a key of the log, which records there are up to it.",
        "Records after the newest checkpoint are protected by the chain alone until they are signed.",
        ("audit.checkpoint", "audit.signing_keys_changed", "audit.signing_refused"),
        ("audit.signing_refused",),
    ),
    "refusals": Topic(
        "Events that are not in the trail",
        "Events that a log had to refuse or discard were counted, and the count was recorded.",
        "What those events said. They can't be recovered from the trail.",
        ("audit.events_dropped", "audit.erased_in_flight"),
    ),
    "sessions": Topic(
        "Start and end of recording",
        "Each opening and each orderly closing of a log is a record in it.",
        "What happened on the host while no log was open.",
        ("audit.log_opened", "audit.log_closed", "audit.log_recovered"),
    ),
    "clock": Topic(
        "The clock",
        "Timestamps that go back by more than a second are found by the verification.",
        "That the host's clock was right: timestamps are the host's own, and no time source is recorded.",
    ),
    "reads": Topic(
        "Access to the trail",
        "Whoever read the trail through this library under a name is recorded, with what was asked and how much was "
        "returned.",
        "Reading of the files by other programs, or by this library's commands without a name.",
        ("audit.log_accessed",),
    ),
    "exports": Topic(
        "Records that left the trail",
        "Exports that were made under a name and recorded: by whom, in which format, with the SHA-256 of the file.",
        "What became of an exported file, and copies that were made with other programs.",
        ("audit.exported",),
    ),
    "holds": Topic(
        "Legal holds",
        "Each legal hold and its lifting is a record; while one is in force nothing is archived or deleted.",
        "Whether a hold was set in time, and for all logs that it should cover.",
        ("audit.hold_set", "audit.hold_lifted"),
    ),
    "retention": Topic(
        "Retention",
        "Each segment that is complete is a record, and so is its archiving and deletion, before it happens.",
        "For how long other copies are kept, and that the configured period is the right one.",
        ("audit.segment_sealed", "audit.segment_archived", "audit.segment_deleted", "audit.segment_kept"),
    ),
    "erasures": Topic(
        "Erasure of personal data",
        "Each erasure is recorded when it starts and when the keys are destroyed; who was erased is not recorded.",
        "That copies outside of the trail, and of the key store, were erased as well.",
        (
            "audit.erasure_requested",
            "audit.erasure_approved",
            "audit.erasure_cancelled",
            "audit.erasure_started",
            "audit.subject_erased",
            "audit.erasure_noticed",
            "audit.erasure_rules_changed",
            "audit.keys_forgotten",
            "audit.key_store_restored",
        ),
        ("audit.key_store_restored",),
    ),
    "forwarding": Topic(
        "Copies on other machines",
        "What a forwarder or collector found of a log that is shipped to other machines, and who looked at it.",
        "That a copy elsewhere is complete, unless that copy is verified too.",
        ("audit.forwarding_problem", "audit.log_replaced", "audit.collection_finding", "audit.finding_acknowledged"),
        ("audit.forwarding_problem", "audit.log_replaced", "audit.collection_finding"),
    ),
    "deliveries": Topic(
        "Deliveries to other systems",
        "What was delivered to a monitoring system and what could not be; alerts that were raised.",
        "That the other system kept what it got, or that anybody looked at it.",
        ("audit.delivered", "audit.delivery_problem", "audit.delivery_replayed", "audit.alert_raised"),
        ("audit.delivery_problem", "audit.alert_raised"),
    ),
    "intents": Topic(
        "Intended changes without an outcome",
        "A change that was recorded before its commit, and of which no record says what became of it.",
        "Whether the change was made: the database has to be asked.",
    ),
}

TOPIC_OF_TYPE: Final = {type_: name for name, topic in TOPICS.items() for type_ in topic.event_types}

#: Topics that the verification speaks of, whether there are records or not.
VERIFIED_TOPICS: Final = frozenset({"integrity", "clock", "retention"})
