"""Everything that a verification can say: kinds, severities and wording in one table, and the list of what it said.

A new finding or note is a new member of `Observation` and one call of `Observations.add`. No other module of this room
words one, and each of them, in this process and in the workers, is carried in the same shapes. Nothing in a report is
text of an event.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, NamedTuple, cast

import msgspec

#: Findings that are kept of one log, and as many pieces that can't be read; the rest is counted.
MOST_FINDINGS: Final = 1000
#: Notes of one kind that are kept of one log.
MOST_NOTES: Final = 100

#: - `record`: a line was changed, or is no record of this log
#: - `sequence`: records were removed, inserted, repeated or moved
#: - `link`: `prev_hash` is not the hash of the record before
#: - `audit_id`: one that was given before
#: - `segment`: a file is missing, foreign, misnamed, or not what was sealed
#: - `checksum`: a `.sha256` file is not what the manifest says
#: - `manifest`, `identity`: manifest.json or log.json is damaged, or not what the chain says and the records are of
#: - `hold`: hold.json is missing, damaged or changed, though the chain records a legal hold
#: - `head`: the chain does not hold the record of an expected head: its end was cut off, or it was rewritten
#: - `key`: records are sealed under keys that the key store lacks, or it is older than the log, or another log's
#: - `checkpoint`, `history`: a signed checkpoint does not hold, or the records are not those that were signed
FindingKind = Literal[
    "record", "sequence", "link", "audit_id", "segment", "checksum", "manifest", "identity", "hold", "head",
    "checkpoint", "history", "key",
]  # fmt: skip

#: - `unclean_end`: a session has no `audit.log_closed`
#: - `in_use`: a writer has the log
#: - `dropped`: events were refused because the buffer was full, and counted
#: - `recovered`: a crash left a torn tail, which was set aside
#: - `torn_tail`: a crash left one that the next opening will set aside
#: - `void_copies`: copies of later records, left by a failed fsync, which the next opening will set aside
#: - `leftover`: a file of a segment that is archived or deleted, which the next opening removes
#: - `damaged`: the writer saw that a segment was changed or removed under it
#: - `clock`: a record's timestamp is more than a second before that of the record before it
#: - `encrypted`: records in encrypted archives, which were skipped as asked
#: - `keys_not_looked_at`: records in archives that could not be read, whose keys may be missing
#: - `deleted`: records that retention deleted; their hashes are in the manifest
#: - `incomplete`: a manifest that is older than the segments, or a sealed segment without its checksum file, as in a
#:   copy that was taken while the log was written; the next opening completes it
#: - `rebuilt`: the manifest was made again from a copy (`audit-async restore --from-copy`): it knows nothing of its own
#: - `copy`: another log here has the same log_id and the same records, as far as it goes
#: - `hold_unrecorded`, `hold_lifted`: hold.json states a legal hold that the chain does not have yet, or has lifted
#: - `not_here`: the log has no record in the part that was to be verified
#: - `head_not_covered`: the expected head is not in the part that was verified
#: - `verified_before`: records that an earlier verification has read, and this one did not
#: - `full_pass`: why everything was read, though much of it was verified before
#: - `truncation_unseen`: what no chain can show without an expected head or signatures
#: - `signed`, `not_signed`: how far the records are those that a key has signed; there is no key for the log
#: - `behind_checkpoint`: records after the last checkpoint, which only the chain protects
#: - `publication_behind`, `log_absent`: an old checkpoint is published; none of a log that there is a key for
#: - `more`: findings or notes that were counted and not kept
NoteKind = Literal[
    "unclean_end", "in_use", "dropped", "recovered", "torn_tail", "void_copies", "leftover", "damaged", "clock",
    "deleted", "incomplete", "rebuilt", "copy", "hold_unrecorded", "hold_lifted", "not_here", "head_not_covered",
    "verified_before", "full_pass", "truncation_unseen", "signed", "not_signed", "encrypted", "keys_not_looked_at",
    "behind_checkpoint", "publication_behind", "log_absent", "more",
]  # fmt: skip


class Severity(Enum):
    """What an observation means for the trail."""

    FINDING = "finding"  #: something is not as it was written: the trail is not valid
    UNREADABLE = "unreadable"  #: something can't be read: nothing is claimed of it, and the trail is not called valid
    NOTE = "note"  #: what an auditor must know though the chain holds


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was written. Positions are those of the uncompressed segment."""

    log: str  #: `orders/00`
    kind: FindingKind
    reason: str
    segment: str | None = None  #: file name, relative to the log's directory
    line: int | None = None  #: from 1
    seq: int | None = None  #: that was due there
    byte_offset: int | None = None  #: of the line's first byte, from 0


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a trail that this process can't read, so that nothing is known of it."""

    log: str
    file: str  #: relative to the log's directory; `.` for the directory itself
    reason: str  #: and what to do


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What an auditor must know though the chain holds."""

    log: str
    kind: NoteKind
    text: str
    seq: int | None = None


class _Rule(NamedTuple):
    severity: Severity
    kind: FindingKind | NoteKind | None  #: None for what can't be read
    text: str  #: a format of the place (`segment`, `seq`, ...) and of the values that are given with it


def _finding(kind: FindingKind, text: str) -> _Rule:
    return _Rule(Severity.FINDING, kind, text)


def _unreadable(text: str) -> _Rule:
    return _Rule(Severity.UNREADABLE, None, text)


def _note(kind: NoteKind, text: str) -> _Rule:
    return _Rule(Severity.NOTE, kind, text)


class Observation(Enum):
    """What can be observed of a log: the one table of kinds, severities and wording."""

    # Lines. `reason` is what `_chain` says of a line: see `BadRecord`.
    BAD_RECORD = _finding("record", "{reason}")
    BAD_RECORDS = _finding("record", "{reason}; nor are the {count} lines after it")
    BAD_LINK = _finding("link", "{reason}")
    BAD_SEQUENCE = _finding("sequence", "{reason}")
    RECORDS_MISSING = _finding("sequence", "records from seq {seq} to {until} are missing before this segment")
    AUDIT_ID_REPEATED = _finding("audit_id", "its audit_id was given to a record before")
    AUDIT_ID_REPEATED_LATER = _finding("audit_id", "an audit_id in it was given to a record before")
    OTHER_SERVICE = _finding("identity", "it is not of the service that log.json names")

    # Segments.
    NO_SEGMENT = _finding(
        "segment", "the log holds no segment: what it held, up to record {until} at least, was removed"
    )
    NO_RECORD = _finding(
        "segment",
        "the log holds no segment: its first opening failed before it recorded anything (the service says why), or "
        "what it held was removed",
    )
    SEGMENT_MISSING = _finding("segment", "the segment is missing")
    SEGMENT_AFTER_MISSING = _finding("segment", "the segment that follows this one is missing or empty")
    SEGMENT_LOST = _finding(
        "segment", "it was removed while the log was being written; the manifest has its hashes, not its records"
    )
    SEGMENT_DAMAGED = _finding("segment", "it was changed while the log was being written, and left as it was found")
    SEGMENT_CONVERTED = _finding(
        "segment",
        "lines end in CR LF in {files} files, of which this is the first: they were converted; the lines are judged as "
        "they were before",
    )
    SEGMENT_NOT_A_FILE = _finding("segment", "{reason}")
    SEGMENT_FOREIGN = _finding("segment", "a file that is no segment of this log")
    SEGMENT_IN_THE_PAST = _finding("segment", "it begins with seq {first_seq}, but the chain is past {last_seq}")
    SEGMENT_OTHER_SEQ = _finding("segment", "it is named for seq {seq}, but begins with {first_seq}")
    SEGMENT_OTHER_DATE = _finding("segment", "it is named for another date than that of its first record")
    SEGMENT_EMPTY = _finding("segment", "it is empty")
    SEGMENT_CUT = _finding(
        "segment", "it ends with seq {last_seq}, but was sealed with {sealed_seq}: records were cut off"
    )
    SEGMENT_EXTENDED = _finding(
        "segment", "it ends with seq {last_seq}, but was sealed with {sealed_seq}: records were added"
    )
    ZEROS_AFTER_RECORDS = _finding(
        "segment", "after its records are {count} zero bytes, and no copy of a later record that would explain them"
    )
    BYTES_AFTER_RECORDS = _finding(
        "segment", "after its records are bytes that are no copies of the segments that follow"
    )

    # Archives and checksums.
    ARCHIVE_MISSING = _finding("segment", "its archive {file} is missing")
    ARCHIVE_DAMAGED = _finding("segment", "its archive can't be decompressed")
    ARCHIVE_REPLACED = _finding("segment", "its encrypted archive is not the file that the manifest has")
    ARCHIVE_NOT_RECORDED = _finding("segment", "its archive is not the file that the chain records")
    ARCHIVE_FOREIGN = _finding("segment", "a file that is no archive of this log")
    ARCHIVE_DIRECTORY_LINKED = _finding("segment", "not a directory but a symbolic link")
    ARCHIVE_DIRECTORY_BAD = _finding("segment", "not a directory")
    CHECKSUM_NOT_A_FILE = _finding("checksum", "{reason}")
    CHECKSUM_WRONG = _finding("checksum", "its checksum file is not what the manifest says")
    CHECKSUM_OTHER = _finding("checksum", "its checksum file is not that of the segment, which has no entry")
    CHECKSUM_FOREIGN = _finding("checksum", "a checksum file without its segment")

    # The manifest and log.json.
    MANIFEST_BAD = _finding("manifest", "{reason}")
    MANIFEST_ENTRY_MISSING = _finding("manifest", "it has no entry for a segment that the chain records as sealed")
    MANIFEST_SEAL_WRONG = _finding("manifest", "its entry is not what the chain records of the sealed segment")
    MANIFEST_DELETION_WRONG = _finding("manifest", "its entry is not what the chain records of the deleted segment")
    MANIFEST_DELETION_UNRECORDED = _finding(
        "manifest", "the manifest says that it was deleted, but the chain does not record it"
    )
    MANIFEST_HASH_WRONG = _finding("manifest", "the hash of its last record is not the one that was sealed")
    MANIFEST_DIGEST_WRONG = _finding(
        "manifest", "its size or SHA-256 is not the one in the manifest, though each of its records holds"
    )
    MANIFEST_TIMES_WRONG = _finding("manifest", "its times are not those in the manifest")
    IDENTITY_MISSING = _finding("identity", "the file is missing")
    IDENTITY_BAD = _finding("identity", "{reason}")
    IDENTITY_OTHER_INSTANCE = _finding(
        "identity",
        "it names the instance {instance}, which is not the directory it is in: instances were renamed or exchanged",
    )
    IDENTITY_DIVERGES = _finding(
        "identity",
        "its log_id is that of {other}, too, and their records at seq {seq} differ: both were written after one was "
        "copied from the other, or one was rewritten",
    )
    IDENTITY_OTHER_SERVICE = _finding("identity", "it names another service than the directory it is in")

    # Legal holds.
    HOLD_MISSING = _finding("hold", "it is missing, though the chain records a legal hold since {since} and no lifting")
    HOLD_REPLACED = _finding(
        "hold", "it states another legal hold than the one that the chain records since {since}, without a lifting"
    )
    HOLD_CHANGED = _finding("hold", "it is not what the chain records of the legal hold")
    HOLD_BAD = _finding("hold", "{reason}; a legal hold is in force until the chain records that it was lifted")

    # Heads that were kept elsewhere.
    HEAD_OTHER_HASH = _finding("head", "the record has another hash than the expected head: it was rewritten")
    HEAD_RECORD_BAD = _finding("head", "no record that holds is in the place of the expected head")
    HEAD_MISSING = _finding("head", "the chain ends {where}: newest records are missing")
    HEAD_OF_NO_LOG = _finding("head", "there is no such log, though a head of it is expected")

    # What was verified before.
    BEFORE_OTHER_LOG = _finding(
        "identity", "its log_id is not that of the log that was verified before, at {when}: the log was replaced"
    )
    BEFORE_OTHER_ENTRIES = _finding(
        "manifest", "it does not begin with the entries that were verified before, at {when}"
    )
    BEFORE_NO_LOG = _finding("head", "there is no such log, though it was verified before, at {when}")
    DELETION_UNRECORDED = _finding(
        "manifest",
        "the manifest says that it was deleted since the verification before, but the chain does not record it",
    )

    # Signatures. `reason` is what `audit_async.tlog` says of a signed note.
    CHECKPOINT_MISSING = _finding(
        "checkpoint",
        "no checkpoint is published, though there is a key for this log: it was removed, or is published elsewhere "
        "(say where), or the key is another log's",
    )
    CHECKPOINT_REFUSED = _finding("checkpoint", "the published checkpoint is not accepted: {reason}")
    CHECKPOINT_RECORD_REFUSED = _finding("checkpoint", "the checkpoint in record {seq} is not accepted: {reason}")
    CHECKPOINT_RECORD_OTHER = _finding(
        "checkpoint", "the checkpoint in record {seq} is not the one that the record's members state"
    )
    CHECKPOINT_NOT_COMPARED = _finding("checkpoint", "what was signed can't be compared with the records: {reason}")
    CHECKPOINT_TILES_DAMAGED = _finding(
        "checkpoint",
        "what was signed can't be compared: records were deleted, and their published hashes are damaged ({reason})",
    )
    CHECKPOINT_UNREADABLE = _unreadable(
        "what was signed can't be compared with the records from seq {seq} on: {reason}"
    )
    CHECKPOINT_RECORD_UNDECIDED = _unreadable(
        "the checkpoint in record {seq} is not accepted ({reason}), but a segment that can't be read may record the "
        "key that signed it"
    )
    CHECKPOINT_SHARED = _finding(
        "checkpoint", "{other} publishes checkpoints of {origin}, too: one of them is a copy of the other"
    )
    CHECKPOINT_OF_NO_LOG = _finding("checkpoint", "there is no such log here, though {place} is of it")
    HISTORY_FORKED = _finding("history", "{reason}")
    HISTORY_SHORTER = _finding(
        "history",
        "the log has {seq} records, and {place} is for {size}: records at its end are gone, or the log came back from "
        "an older backup",
    )
    HISTORY_OTHER_ROOT = _finding(
        "history", "the records up to {size} are not those that were signed: {place} has another root{since}"
    )
    HISTORY_OTHER_ENTRY = _finding(
        "history", "the manifest's hash of its last record, {seq}, is not the one that is published and signed"
    )
    HISTORY_FROM_THE_FUTURE = _finding(
        "history", "the checkpoint in record {seq} is for {size} records, which were not there yet"
    )
    HISTORY_WENT_BACK = _finding(
        "history", "the checkpoint in record {seq} is for {size} records, and one before it for more"
    )

    # Keys of sealed members.
    KEY_MISSING = _finding(
        "key",
        "[key missing] {keys} keys that {records} records are sealed under are not in the key store {store}, and were "
        "not destroyed there: it is older than the log, or damaged; this is the first of these records",
    )
    KEY_STORE_OLDER = _finding(
        "key",
        "the log states {stated} erasures and requests, and the key store {store} knows {known}: it came back from a "
        "backup, so persons who were erased are legible; start the service of this log, which destroys the keys again",
    )
    KEY_STORE_OTHER = _finding("key", "it seals with the key store {other}, and {store} is another one")
    KEYS_NOT_LOOKED_AT = _note(
        "keys_not_looked_at",
        "{segments} segments could not be read, of which {name} is the first: the keys that their records need were "
        "not looked up",
    )

    # What can't be read. `reason` is what the system says, and what to do.
    UNREADABLE = _unreadable("{reason}")
    ENCRYPTED = _unreadable(
        "{segments} segments with {records} records, from seq {seq} to {until}, are encrypted, and no identity that "
        "opens them was given: each is the file that the manifest has, and its hashes join the chain, but no record in "
        "it was verified; give --identity"
    )
    ENCRYPTED_SKIPPED = _note(
        "encrypted",
        "{segments} segments with {records} records, from seq {seq} to {until}, are encrypted and were skipped: each "
        "is the file that the manifest has, and its hashes join the chain, but no record in it was verified",
    )

    # How the log was written.
    UNCLEAN_END = _note(
        "unclean_end", "the session that begins here has no audit.log_closed: it was not shut down in order"
    )
    NO_END = _note(
        "unclean_end",
        "the session that begins here has no audit.log_closed: it was not shut down in order, or a process that can't "
        "be seen from here, in another container or on another host, is writing the log",
    )
    IN_USE = _note("in_use", "process {pid} is writing the log: its newest records are still to come")
    DROPPED = _note("dropped", "{count} events were refused because the buffer was full")
    RECOVERED = _note("recovered", "after a crash {count} bytes were set aside ({reason})")
    SEGMENT_CHANGED = _note("damaged", "{name} was changed under the writer: {reason}")
    CLOCK_SET_BACK = _note("clock", "the clock was set back by {seconds:.3f} s before this record")
    TORN_TAIL = _note(
        "torn_tail",
        "{name} ends torn at byte {at} ({reason}); the next opening repairs it, unless a process that can't be seen "
        "from here is writing it at this moment",
    )
    VOID_COPIES = _note(
        "void_copies", "{name} ends with copies of later records, from byte {at} on: a sync failed there"
    )
    LEFTOVER = _note("leftover", "{files}: left of a segment that is {state}; the next opening removes it")
    DELETED = _note("deleted", "{records} records up to seq {until} in {segments} segments were deleted by retention")

    MANIFEST_OLDER = _note(
        "incomplete",
        "the manifest is missing or older than the segments: {count} that the chain records as sealed have no entry, "
        "and are what was sealed; the next opening completes it",
    )
    REBUILT = _note(
        "rebuilt",
        "the manifest was made again at {when} by reading the records of a copy: what the copy lacked it does not know",
    )
    CHECKSUM_MISSING = _note("incomplete", "{name} has no checksum file; the next opening makes it")
    COPY = _note("copy", "{other} has the same log_id and the same records up to seq {seq}: one is a copy of the other")
    COPY_NOT_COMPARED = _note(
        "copy", "{other} has the same log_id; their records can't be compared: those at seq {seq} are not in both"
    )

    HOLD_UNRECORDED = _note(
        "hold_unrecorded",
        "hold.json states a legal hold that the chain does not have yet; the writer or the next opening records it",
    )
    HOLD_LIFTED = _note("hold_lifted", "hold.json states a legal hold that was lifted; the next opening removes it")

    # What this verification covers.
    NOT_HERE = _note("not_here", "no record of {asked} is in the log; {verified} was verified")
    VERIFIED_BEFORE = _note(
        "verified_before",
        "records up to seq {seq} were verified before, at {when}, and not read again: a change of old bytes that left "
        "the files' times as they were is not seen before everything is read, as at {full} the last time; "
        "{changed} segments were read again because their files have changed",
    )
    FULL_PASS = _note("full_pass", "everything was read: {why}")
    HEAD_NOT_COVERED = _note("head_not_covered", "the expected head is not in the part that was verified")
    TRUNCATION_UNSEEN = _note(
        "truncation_unseen",
        "no expected head was given: whether newest records were cut off, or the whole chain was rewritten, can't be "
        "seen without one or a signature; keep the head of this report elsewhere",
    )
    SIGNED = _note("signed", "the hashes of {size} records are those that {signer} has signed{witnesses}")
    SIGNED_IN_PART = _note(
        "signed",
        "the hashes of {size} records are those that {signer} has signed{witnesses}, except that {unread} of them "
        "can't be read here: of these the published hashes and the manifest's were compared, not the records, nor the "
        "checkpoints that they record",
    )
    NOT_SIGNED = _note(
        "not_signed", "the policy has no key for this log: whether it is the one that was signed was not checked"
    )
    AFTER_CHECKPOINT = _note(
        "behind_checkpoint",
        "whether records that were written after the last checkpoint, from seq {seq} on, were cut off or rewritten "
        "can't be seen; {records} are there, protected by the chain alone",
    )
    PUBLICATION_OLD = _note(
        "publication_behind",
        "the published checkpoint is for {size} records, and one for {newest} was signed: it is an old copy",
    )
    LOG_ABSENT = _note(
        "log_absent", "the policy has a key for a log of this name, and no log here publishes a checkpoint of it"
    )
    MORE_LIFECYCLE = _note("more", "{name}: {count} more audit.* records were not examined")
    MORE_NOTES = _note("more", "{count} more notes of the kind {kind!r} were counted and not kept")
    MORE_FINDINGS = _note("more", "{count} more findings were counted and not kept")
    MORE_UNREADABLE = _note("more", "{count} more files can't be read")

    @property
    def severity(self) -> Severity:
        """What it means for the trail."""
        return self.value.severity

    def text(self, **values: object) -> str:
        """Return its wording."""
        return self.value.text.format_map(values)


class Observations(msgspec.Struct, kw_only=True):
    """What was observed of one log, or of one segment by a worker; it keeps no more than a reader can use."""

    log: str
    found: int = 0  #: findings, also those that were not kept
    findings: list[Finding] = []
    unreadable: list[Unreadable] = []
    more_unreadable: int = 0  #: that were not kept
    notes: list[Note] = []
    notes_by_kind: dict[str, int] = {}  #: also those that were not kept

    def add(
        self,
        what: Observation,
        *,
        segment: str | None = None,
        line: int | None = None,
        seq: int | None = None,
        byte_offset: int | None = None,
        **values: object,
    ) -> None:
        """Add a finding or a note; `values`, and the place, fill in its wording."""
        rule = what.value
        text = what.text(segment=segment, line=line, seq=seq, byte_offset=byte_offset, **values)
        if rule.severity is Severity.NOTE:
            kind = cast("NoteKind", rule.kind)
            self._add_note(Note(log=self.log, kind=kind, text=text, seq=seq))
            return
        if rule.severity is Severity.UNREADABLE:
            self._add_unreadable(Unreadable(log=self.log, file=segment or ".", reason=text))
            return
        self.found += 1
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(
                Finding(
                    log=self.log,
                    kind=cast("FindingKind", rule.kind),
                    reason=text,
                    segment=segment,
                    line=line,
                    seq=seq,
                    byte_offset=byte_offset,
                )
            )

    def _add_unreadable(self, piece: Unreadable) -> None:
        if len(self.unreadable) < MOST_FINDINGS:
            self.unreadable.append(piece)
        else:
            self.more_unreadable += 1

    def _add_note(self, note: Note) -> None:
        count = self.notes_by_kind.get(note.kind, 0)
        self.notes_by_kind[note.kind] = count + 1
        if count < MOST_NOTES:
            self.notes.append(note)

    def has_finding_of(self, segment: str) -> bool:
        """Return whether something was found of a file."""
        return any(finding.segment == segment for finding in self.findings)

    def merge(self, other: Observations) -> None:
        """Add what somebody else observed of the same log."""
        self.found += other.found
        self.findings += other.findings[: MOST_FINDINGS - len(self.findings)]
        for piece in other.unreadable:
            self._add_unreadable(piece)
        self.more_unreadable += other.more_unreadable
        for note in other.notes:
            self._add_note(note)
        for kind, count in other.notes_by_kind.items():
            kept = sum(note.kind == kind for note in other.notes)
            self.notes_by_kind[kind] = self.notes_by_kind.get(kind, 0) + count - kept

    def complete(self) -> Observations:
        """Return all of it, with notes that say how much was counted and not kept."""
        whole = msgspec.structs.replace(self, notes=[*self.notes], notes_by_kind={})
        for kind, count in self.notes_by_kind.items():
            if count > MOST_NOTES:
                whole.add(Observation.MORE_NOTES, count=count - MOST_NOTES, kind=kind)
        if self.found > len(self.findings):
            whole.add(Observation.MORE_FINDINGS, count=self.found - len(self.findings))
        if self.more_unreadable:
            whole.add(Observation.MORE_UNREADABLE, count=self.more_unreadable)
        return whole
