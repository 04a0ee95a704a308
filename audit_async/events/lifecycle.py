"""The log's own life, recorded in its own chain: the `audit.*` events, which only the library emits.

Sizes are in bytes, hashes lower-case hex SHA-256; a `segment` is a file name in the log's directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar

import msgspec

from audit_async.events.base import AuditEvent, require_aware
from audit_async.events.personal import Personal


class HoldInForce(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A legal hold that is in force, repeated so that the newest segment of a log always names it."""

    reason: Annotated[str, Personal("set_by")]
    set_by: Annotated[str, Personal("set_by")]
    since: str  #: RFC 3339, UTC
    id: str = ""  #: 16 hex digits; empty for a hold that a release without ids has set


class AuditLogOpened(AuditEvent, tag="audit.log_opened"):
    """A writer opened the log; `holds` are all legal holds that are in force.

    `privacy` is the version of the format of sealed members, if the session seals; `key_store` is the id of the key
    store, and `erasure_epoch` how many erasures it has seen. `erased_key` is a key that its newest erasure destroyed,
    and `own_erased_key` one of the newest erasure that this log records: a store in which one of them is alive, or
    unknown, came back from a backup. `min_retention_days` and `delete_after_days` are the retention policy that the
    session applies by itself; left out if it applies none.
    """

    library_version: str
    format_version: int
    host: str
    pid: int
    flush_mode: str
    holds: list[HoldInForce] | None = None
    privacy: int | None = None
    key_store: str | None = None
    erasure_epoch: int | None = None
    erased_key: str | None = None
    own_erased_key: str | None = None
    min_retention_days: int | None = None
    delete_after_days: int | None = None


class AuditLogClosed(AuditEvent, tag="audit.log_closed"):
    """The writer closed the log in order; a session without it was not shut down cleanly."""


class AuditLogRecovered(AuditEvent, tag="audit.log_recovered"):
    """What a crash left after the last whole record was set aside, into `torn_file`."""

    torn_bytes: int
    torn_sha256: str
    torn_file: str
    reason: str | None = None


class AuditEventsDropped(AuditEvent, tag="audit.events_dropped"):
    """`count` events were refused, `by_type` says which, between two aware datetimes."""

    count: int
    by_type: dict[str, int]
    first_at: datetime
    last_at: datetime
    reason: str

    def __post_init__(self) -> None:
        AuditEvent.__post_init__(self)
        require_aware(self, "first_at")
        require_aware(self, "last_at")


class AuditSegmentSealed(AuditEvent, tag="audit.segment_sealed"):
    """A segment is complete and will not change any more; `holds` are all legal holds that are in force."""

    segment: str
    first_seq: int
    last_seq: int
    records: int
    bytes: int
    sha256: str
    holds: list[HoldInForce] | None = None
    erasure_epoch: int | None = None  #: of the key store, if the session seals
    erased_key: str | None = None  #: as in `AuditLogOpened`
    own_erased_key: str | None = None  #: likewise


class AuditSegmentArchived(AuditEvent, tag="audit.segment_archived"):
    """A sealed segment was compressed into `archive`, and encrypted to `recipients`; both files' hashes are given."""

    segment: str
    archive: str
    sha256: str
    archive_sha256: str
    recipients: list[str] | None = None  #: the age public keys; left out if it is not encrypted


class AuditSegmentDeleted(AuditEvent, tag="audit.segment_deleted"):
    """A segment's time was over and it was deleted; `hash` is its last record's, to which the next one links."""

    segment: str
    first_seq: int
    last_seq: int
    sha256: str
    hash: str
    reason: str


class AuditSegmentKept(AuditEvent, tag="audit.segment_kept"):
    """A segment that the chain has said to be archived or deleted was not, and stays as it was."""

    segment: str
    step: str  #: `archive` or `delete`
    reason: str


class AuditSegmentDamaged(AuditEvent, tag="audit.segment_damaged"):
    """Somebody or something changed a segment while the log was being written."""

    segment: str
    reason: str
    expected_bytes: int | None = None
    actual_bytes: int | None = None


class AuditHoldSet(AuditEvent, tag="audit.hold_set"):
    """A legal hold began: nothing is archived or deleted. Asked for again, it is recorded again with the same id."""

    reason: Annotated[str, Personal("set_by")]
    set_by: Annotated[str, Personal("set_by")]
    hold_id: str | None = None  #: 16 hex digits; only a lifting that names it ends the hold
    since: str | None = None  #: RFC 3339, UTC


class AuditHoldLifted(AuditEvent, tag="audit.hold_lifted"):
    """A legal hold ended: the one that `hold_id` names, left out for one that was set without an id."""

    reason: Annotated[str, Personal("lifted_by")]
    lifted_by: Annotated[str, Personal("lifted_by")]
    hold_id: str | None = None


class AuditLogAccessed(AuditEvent, tag="audit.log_accessed"):
    """Somebody queried the log; `query` is what was asked, `records` how many were returned."""

    actor: Annotated[str, Personal("actor")]
    query: Annotated[Mapping[str, Any], Personal("actor")]
    records: int | None = None


class AuditExported(AuditEvent, tag="audit.exported"):
    """Records left the trail as a file.

    If `unsealed` is true, sealed members are in the clear in it, which no erasure reaches. `sha256` is the file's.
    """

    actor: Annotated[str, Personal("actor")]
    format: str
    records: int
    sha256: str
    unsealed: bool


class AuditErasureStarted(AuditEvent, tag="audit.erasure_started"):
    """Somebody is being erased: these keys are destroyed next. Several records if there are many, with one id.

    `part` counts them from 1, `parts` is how many there are, and `keys` the number of keys in all of them, given if
    there are several parts. `resumed`: recorded by a later session, since the one before was killed between the parts.
    Who it is about is not recorded. `request_id` is the request that it executes. With `before`, only keys of the UTC
    days before that one are destroyed, and `kept_keys` are younger.
    """

    erasure_id: str
    epoch: int
    key_ids: list[str]
    part: int
    parts: int
    reason: Annotated[str, Personal("requested_by")]
    requested_by: Annotated[str, Personal("requested_by")]
    approved_by: Annotated[str | None, Personal("approved_by")] = None
    forced: bool | None = None  #: a legal hold was in force
    keys: int | None = None
    resumed: bool | None = None
    request_id: str | None = None
    before: str | None = None  #: YYYY-MM-DD
    kept_keys: int | None = None


class AuditSubjectErased(AuditEvent, tag="audit.subject_erased"):
    """The keys of an erasure are destroyed, `keys` of them; `resumed` if a later session completed it.

    `incomplete`: not all its parts were recorded, or none, so not all its keys are known and destroyed; erase again.
    `waiting_for` is how many processes had not said in time that they hold none of them in memory any more.
    """

    erasure_id: str
    epoch: int
    keys: int
    waiting_for: int | None = None
    resumed: bool | None = None
    incomplete: bool | None = None


class AuditErasureRequested(AuditEvent, tag="audit.erasure_requested"):
    """Somebody asks for an erasure, which waits: it is not executed before `not_before`, and can be cancelled.

    `needs_approval`: nor before somebody else has approved it. `keys` is how many keys the person has now. Who it is
    about is not recorded. `resumed`: recorded by a later session, since the one before was killed meanwhile.
    """

    request_id: str
    epoch: int
    keys: int
    not_before: datetime
    needs_approval: bool
    reason: Annotated[str, Personal("requested_by")]
    requested_by: Annotated[str, Personal("requested_by")]
    resumed: bool | None = None

    def __post_init__(self) -> None:
        AuditEvent.__post_init__(self)
        require_aware(self, "not_before")


class AuditErasureApproved(AuditEvent, tag="audit.erasure_approved"):
    """Somebody has approved the erasure that was requested as `request_id`; `resumed` as there."""

    request_id: str
    approved_by: Annotated[str, Personal("approved_by")]
    resumed: bool | None = None


class AuditErasureCancelled(AuditEvent, tag="audit.erasure_cancelled"):
    """The erasure that was requested as `request_id` is not executed; `resumed` as there."""

    request_id: str
    epoch: int
    reason: Annotated[str, Personal("cancelled_by")]
    cancelled_by: Annotated[str, Personal("cancelled_by")]
    resumed: bool | None = None


class AuditErasureRulesChanged(AuditEvent, tag="audit.erasure_rules_changed"):
    """What erasures have to wait for is changed for everybody who uses the key store; these are the new rules.

    Without `changed_by` it was the configuration of this log that asked, and they are stricter than before. Recorded
    before they are in force; and with `done` once they are, if somebody has changed them.
    """

    delay_s: int
    not_before_days: int
    two_person: bool
    reason: Annotated[str | None, Personal("changed_by")] = None
    changed_by: Annotated[str | None, Personal("changed_by")] = None
    done: bool | None = None


class AuditErasedInFlight(AuditEvent, tag="audit.erased_in_flight"):
    """`records` of this session were not durable yet when a key that they are sealed under was destroyed.

    `key_ids` are those that were destroyed before they were stored. With `session_before` it was a session before this
    one, which found them only while it was being closed.
    """

    epoch: int
    records: int
    key_ids: list[str] | None = None
    session_before: bool | None = None


class AuditKeysForgotten(AuditEvent, tag="audit.keys_forgotten"):
    """The keys of all UTC days before `before` are to be destroyed by age, whoever they are about.

    With `days` and `keys`, how many of each there were, they are destroyed.
    """

    before: str  #: YYYY-MM-DD
    days: int | None = None
    keys: int | None = None


class AuditKeyStoreRestored(AuditEvent, tag="audit.key_store_restored"):
    """The key store was older than this log: `keys` that had been destroyed were alive, and were destroyed again.

    `missing` is the number of erasures that no log which could be read records: until the logs that do are opened, the
    key store opens nothing. `lost_requests` is the number of erasures that these logs say are waiting, and the store
    does not know; ask for them again.
    """

    key_store: str
    epoch: int  #: that it had
    expected_epoch: int  #: that the log states
    keys: int
    missing: int | None = None
    lost_requests: int | None = None


class AuditErasureNoticed(AuditEvent, tag="audit.erasure_noticed"):
    """Other logs have erased somebody: the key store has seen `epoch` erasures; `erased_key` as in `AuditLogOpened`."""

    epoch: int
    erased_key: str | None = None


class AuditVerificationFailed(AuditEvent, tag="audit.verification_failed"):
    """The log's own verification has found that something is not as it was written; the log is written as before."""

    critical: ClassVar[bool] = True

    findings: int
    kinds: list[str]  #: of the findings, each once
    segments: list[str]  #: file names of the log in which something was found, the first ten
    first_seq: int | None = None
    everything_read: bool


class AuditAlertRaised(AuditEvent, tag="audit.alert_raised"):
    """A rule of the deliverer's has found something in a log that somebody should look at.

    `kind` is `match` (so many records within the rule's window), `silence` (a log has had no such record for too long)
    or `overflow` (more groups came than the rule counts apart). `group` has the members by which the rule counts apart,
    `seq` and `audit_id` are of the record that reached the threshold, and `suppressed` is how many records counted
    while the rule was quiet after its last alert. `alert_id` is the same if the same alert is recorded twice.
    """

    critical: ClassVar[bool] = True

    alert_id: str  #: 16 hex digits
    rule: str
    kind: str
    severity: str
    reason: str  #: why somebody should look, as the rule says it
    log: str  #: the service and the instance
    log_id: str
    count: int
    first_at: datetime
    last_at: datetime
    window_s: int | None = None
    group: Annotated[dict[str, str] | None, Personal()] = None
    seq: int | None = None
    audit_id: str | None = None
    suppressed: int | None = None

    def __post_init__(self) -> None:
        AuditEvent.__post_init__(self)
        require_aware(self, "first_at")
        require_aware(self, "last_at")


class AuditCheckpoint(AuditEvent, tag="audit.checkpoint"):
    """The log has signed that its first `size` records have the Merkle root `root`; `note` is what was signed."""

    size: int
    root: str  #: hex
    note: str  #: a signed note (https://c2sp.org/signed-note)


class AuditSigningKeysChanged(AuditEvent, tag="audit.signing_keys_changed"):
    """The log signs with other keys than before; each is a verifier key (a C2SP vkey)."""

    added: list[str]
    retired: list[str]


class AuditSigningRefused(AuditEvent, tag="audit.signing_refused"):
    """The log signs no more checkpoints, because one would contradict what was signed before."""

    reason: str


class AuditForwardingProblem(AuditEvent, tag="audit.forwarding_problem"):
    """A log is not shipped on, or the engine had lost some of it; `reason` says what was found.

    `log` is the service and the instance, and `kind` what it is: `fork`, `cut`, `engine_went_back`, `engine_lost_log`,
    `engine_refused`, `record_too_large` or `unreadable`. `engine_seq` and `engine_hash` are of the last record that the
    engine has, left out if it has none or that is not known.
    """

    critical: ClassVar[bool] = True

    log: str
    log_id: str
    kind: str
    reason: str
    engine_seq: int | None = None
    engine_hash: str | None = None


class AuditLogReplaced(AuditEvent, tag="audit.log_replaced"):
    """A log that the engine refuses was put aside, and a new one takes its place, because somebody asked for it.

    `engine_seq` and `engine_hash` are of the last record that the engine has of the old one, and `local_seq` and
    `local_hash` of the last one that its writer had acknowledged on this host; each is left out if there is none.
    """

    critical: ClassVar[bool] = True

    log: str  #: the service and the instance
    old_log_id: str
    directory: str  #: the name that the old log's directory has now
    reason: Annotated[str, Personal("requested_by")]
    requested_by: Annotated[str, Personal("requested_by")]
    engine_seq: int | None = None
    engine_hash: str | None = None
    local_seq: int | None = None
    local_hash: str | None = None


class AuditCollectionFinding(AuditEvent, tag="audit.collection_finding"):
    """A collector has found that a host's log, or what the engine has of it, is not as it should be.

    `log` is the log's path at the collector, `kind` is one such as `fork`, `gap` or `log_replaced`, and `seq` is the
    record that it is about, left out if it is about none.
    """

    critical: ClassVar[bool] = True

    log: str
    kind: str
    reason: str
    seq: int | None = None


class AuditFindingAcknowledged(AuditEvent, tag="audit.finding_acknowledged"):
    """Somebody has looked at what a collector found, and says what it was."""

    log: str
    kind: str
    reason: Annotated[str, Personal("acknowledged_by")]
    acknowledged_by: Annotated[str, Personal("acknowledged_by")]
    seq: int | None = None


class AuditDelivered(AuditEvent, tag="audit.delivered"):
    """A receiver has everything of a log up to a record, or was not to get it; recorded at most once an hour.

    `records` is how many were delivered since the last such event. `selected` if the sink gets only some records,
    `unsealed` if sealed members are opened for it, and `redacted` the members that it does not get.
    """

    sink: str
    log: str  #: the service and the instance
    log_id: str
    seq: int
    hash: str
    records: int
    set_aside: int | None = None  #: how many the receiver refused in all, left out if none
    selected: bool | None = None
    unsealed: bool | None = None
    redacted: list[str] | None = None


class AuditDeliveryProblem(AuditEvent, tag="audit.delivery_problem"):
    """Records are not delivered, or a receiver does not have what it was sent; `reason` says what was found.

    `kind` is `set_aside` (the receiver refuses the record `seq`), `unauthorized`, `misconfigured`, `refusing` (it
    refuses everything), `unreadable`, `state_unusable`, or `count_differs` (it has another number of records).
    """

    critical: ClassVar[bool] = True

    sink: str
    kind: str
    reason: str
    log: str | None = None
    log_id: str | None = None
    seq: int | None = None
    hash: str | None = None


class AuditDeliveryReplayed(AuditEvent, tag="audit.delivery_replayed"):
    """The records of a log from `from_seq` on are delivered to a sink once more, because somebody asked for it.

    `before_seq` is the last record that the sink had before; left out if it had none.
    """

    sink: str
    log: str
    log_id: str
    from_seq: int
    before_seq: int | None = None
    requested_by: Annotated[str | None, Personal("requested_by")] = None
