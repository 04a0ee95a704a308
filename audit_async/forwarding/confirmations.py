"""What a collector says it has of a log, signed: what hosts may delete only after, and resume from.

A confirmation is a signed note (https://c2sp.org/signed-note) under the collector's name and Ed25519 key:

    audit-async/confirmation/v1
    log 6f1d…                                      the log_id
    record 184219                                  the last record that is on the collector's stable storage
    hash 0a91…                                     its hash, 64 hex digits
    copies 1                                       in how many places the collector vouches for, itself included
    bucket 180021 s3://audit-worm                  up to which record a bucket has the same log, locked; none or more
    issued 2026-11-29T03:15:00Z
    expires 2026-12-06T03:15:00Z

An engine keeps one value per log. If a tenant has several collectors, that value holds the note of each, one after the
other, and each collector replaces its own (`merged_confirmations`). A note expires, so that a collector that is gone,
or whose directory was replaced by an older copy of it, doesn't let hosts delete for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from audit_async._layout.confirmed_file import ConfirmedCopy, copied_up_to
from audit_async.errors import AuditError, ConfigError
from audit_async.tlog.failures import InvalidSignature, Malformed
from audit_async.tlog.notes import Note, VerifierKey, parse_note, verify_note

if TYPE_CHECKING:
    from audit_async.tlog.signing_keys import Signer

__all__ = [
    "MOST_BUCKETS",
    "VALID_FOR",
    "BucketCopy",
    "Confirmation",
    "ConfirmationExpired",
    "ConfirmationInvalid",
    "UnknownCollector",
    "check_confirmation",
    "check_confirmations",
    "confirmed_at_least",
    "merged_confirmations",
    "sign_confirmation",
    "without_collector",
]

#: How long a confirmation holds; collectors renew theirs long before.
VALID_FOR: Final = timedelta(days=7)
#: More buckets than any log is in.
MOST_BUCKETS: Final = 8
#: How far a collector's clock may be ahead of ours.
_CLOCK_SKEW: Final = timedelta(minutes=10)
#: More collectors than any tenant has; more notes are not read.
_MAX_NOTES: Final = 16
#: An engine takes no longer value.
_MAX_BYTES: Final = 65_536

_WHAT: Final = "confirmation"
_FIRST_LINE: Final = "audit-async/confirmation/v1"
_BUCKET: Final = r"bucket (?:0|[1-9][0-9]{0,18}) [!-~]{1,512}\n"
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_TEXT: Final = re.compile(
    re.escape(_FIRST_LINE) + r"\nlog (?P<log_id>[^\n]{1,128})\nrecord (?P<seq>0|[1-9][0-9]{0,18})\n"
    r"hash (?P<hash>[0-9a-f]{64})\ncopies (?P<copies>[1-9][0-9]{0,2})\n"
    rf"(?P<buckets>(?:{_BUCKET}){{0,{MOST_BUCKETS}}})"
    r"issued (?P<issued>[-0-9T:]{19}Z)\nexpires (?P<expires>[-0-9T:]{19}Z)\n"
)


class ConfirmationInvalid(AuditError):
    """A confirmation does not hold: damaged, forged, of another log, or from the future."""


class UnknownCollector(ConfirmationInvalid):
    """A confirmation is signed by no collector whose key is known here."""


class ConfirmationExpired(ConfirmationInvalid):
    """A confirmation was valid once; the collector has not renewed it."""


class BucketCopy(Struct, frozen=True, kw_only=True):
    """A bucket has a log up to a record, locked for at least as long as the confirmation holds."""

    bucket: str  #: without a prefix, since it is one place
    seq: int  #: its hash is not in the note, since engines let a log begin after any record whose hash is

    def line(self) -> str:
        """Return the line of the signed text."""
        return f"bucket {self.seq} {self.bucket}\n"

    def fits(self) -> bool:
        """Return whether the line can be in a confirmation."""
        return re.fullmatch(_BUCKET, self.line()) is not None


class Confirmation(Struct, frozen=True, kw_only=True):
    """A collector has a log up to a record, on its stable storage, every hash and link checked."""

    log_id: str
    seq: int
    hash: str  #: 64 lower-case hex digits
    collector: str  #: the name that its key signs under
    copies: int  #: in how many places the collector vouches for, itself included
    issued_at: datetime
    expires_at: datetime
    buckets: tuple[BucketCopy, ...] = ()  #: what the collector has found there; further places

    @classmethod
    def of(
        cls, log_id: str, seq: int, hash: str, *, collector: str, copies: int = 1,  # noqa: A002
        buckets: tuple[BucketCopy, ...] = (),
    ) -> Confirmation:  # fmt: skip
        """Return a confirmation that begins to hold now, and does for `VALID_FOR`."""
        now = datetime.now(UTC).replace(microsecond=0)
        return cls(
            log_id=log_id, seq=seq, hash=hash, collector=collector, copies=copies,
            issued_at=now, expires_at=now + VALID_FOR, buckets=buckets,
        )  # fmt: skip

    def places(self) -> tuple[ConfirmedCopy, ...]:
        """Return each place that has the log, and up to which record: the collector's own, then the buckets."""
        own = ConfirmedCopy(
            collector=self.collector, seq=self.seq, hash=self.hash, copies=self.copies, expires_at=self.expires_at
        )
        return own, *(
            ConfirmedCopy(collector=one.bucket, seq=one.seq, copies=1, expires_at=self.expires_at)
            for one in self.buckets
        )

    def text(self) -> str:
        """Return the text that is signed."""
        return (
            f"{_FIRST_LINE}\nlog {self.log_id}\nrecord {self.seq}\nhash {self.hash}\ncopies {self.copies}\n"
            f"{''.join(one.line() for one in self.buckets)}"
            f"issued {self.issued_at:{_TIME}}\nexpires {self.expires_at:{_TIME}}\n"
        )


async def sign_confirmation(confirmation: Confirmation, signer: Signer) -> bytes:
    """Return the signed note.

    Args:
        confirmation: what is said; its `collector` is the signer's name.
        signer: the collector's key, from `tlog.load_signer(source, origin=NAME)`.

    Raises:
        ConfigError: `collector` is not the signer's name, or the text can't be one of a confirmation.
        SigningFailed: the signer fails, or returns something that is no signature by its key.
    """
    from audit_async.tlog.signing_keys import signed_note  # noqa: PLC0415 - needs the extra tlog

    text = confirmation.text()
    if confirmation.collector != signer.key.name or _TEXT.fullmatch(text) is None:
        raise ConfigError("confirmation", f"{confirmation!r} is none of {signer.key.name}")
    return (await signed_note(text, [signer])).encode()


def check_confirmations(
    data: bytes, vkeys: Iterable[VerifierKey | str], *, log_id: str, now: datetime | None = None
) -> tuple[Confirmation, ...]:
    """Return what known collectors say of a log, the highest record first; notes of others are left out.

    Args:
        data: what the engine keeps for the log.
        vkeys: the keys of the collectors that are trusted, as `audit-async keys show` prints them.
        log_id: the log that is meant.
        now: the time that the confirmations must hold at; this moment if left out.

    Raises:
        UnknownCollector: no note is by a known collector.
        ConfirmationExpired: all that are by a known collector have expired.
        ConfirmationInvalid: a signature in the name of a known key is wrong, or a note is damaged or of another log.
    """
    keys = [VerifierKey.parse(key) if isinstance(key, str) else key for key in vkeys]
    moment = datetime.now(UTC) if now is None else now
    held, expired = [], None
    for note in _notes(data):
        confirmation = _verified(note, keys)
        if confirmation is None:
            continue
        if confirmation.log_id != log_id:
            raise ConfirmationInvalid(f"the confirmation is of log {confirmation.log_id!a}, not of {log_id!a}")
        if confirmation.issued_at > moment + _CLOCK_SKEW:
            raise ConfirmationInvalid(
                f"collector {confirmation.collector} says it confirmed the log at {confirmation.issued_at:{_TIME}}, "
                "which is still to come; check the clocks of both machines"
            )
        if confirmation.expires_at <= moment:
            expired = confirmation
        else:
            held.append(confirmation)
    if held:
        return tuple(sorted(held, key=lambda one: (-one.seq, one.collector)))
    if expired is not None:
        raise ConfirmationExpired(
            f"the confirmation by collector {expired.collector} expired at {expired.expires_at:{_TIME}}; "
            "is the collector still running?"
        )
    raise UnknownCollector("the log is confirmed by no collector whose key is known here; compare the verifier keys")


def check_confirmation(
    data: bytes, vkeys: Iterable[VerifierKey | str], *, log_id: str, now: datetime | None = None
) -> Confirmation:
    """Return what the collector that has most of the log says. See `check_confirmations`."""
    return check_confirmations(data, vkeys, log_id=log_id, now=now)[0]


def confirmed_at_least(confirmations: Iterable[Confirmation], copies: int) -> int | None:
    """Return up to which record there are at least so many copies, None if there are fewer of everything.

    Args:
        confirmations: what known collectors say of one log, each of which agrees with the chain.
        copies: in how many places a record has to be.
    """
    one = copied_up_to((place for confirmation in confirmations for place in confirmation.places()), copies)
    return None if one is None else one.seq


def merged_confirmations(stored: bytes | None, new: bytes) -> bytes:
    """Return what an engine keeps next: the new note, and what it had from other collectors.

    Nothing of it is verified, except for its form: hosts verify it. What is damaged or expired is dropped.

    Args:
        stored: what the engine has, None if nothing.
        new: this collector's note.
    """
    [own] = _notes(new)
    names = {signature.name for signature in own.signatures}
    kept = [own.encode()]
    try:
        notes = _notes(stored or b"")
    except ConfirmationInvalid:
        notes = []
    for note in notes:
        others = {signature.name for signature in note.signatures}
        room = len(kept) < _MAX_NOTES and sum(map(len, kept)) + len(note.encode()) <= _MAX_BYTES
        if room and not others & names and _parsed(note, "").expires_at > datetime.now(UTC):
            kept.append(note.encode())
            names |= others
    return b"".join(kept)


def without_collector(stored: bytes, name: str) -> bytes:
    """Return what an engine keeps next if a collector withdraws what it has confirmed: what it had from others."""
    return b"".join(note.encode() for note in _notes(stored) if name not in {one.name for one in note.signatures})


def _notes(data: bytes) -> list[Note]:
    """Return the notes, nothing of them verified."""
    beginning = f"{_FIRST_LINE}\n".encode()
    if not data:
        return []
    if len(data) > _MAX_BYTES:
        raise ConfirmationInvalid(f"a confirmation has {len(data):,} bytes, and none has more than {_MAX_BYTES:,}")
    before, *parts = re.split(rb"^" + re.escape(beginning), data, flags=re.MULTILINE)
    if before or len(parts) > _MAX_NOTES:
        raise ConfirmationInvalid("this is no confirmation, or a damaged one")
    try:
        notes = [parse_note(beginning + part, what=_WHAT) for part in parts]
    except Malformed as error:
        raise ConfirmationInvalid(str(error)) from None
    for note in notes:
        _parsed(note, "")
    return notes


def _verified(note: Note, keys: Sequence[VerifierKey]) -> Confirmation | None:
    """Return what a note says, None if no known key has signed it."""
    known = {(key.name, key.key_id) for key in keys}
    if not any((signature.name, signature.key_id) in known for signature in note.signatures):
        return None
    try:
        [signature, *_] = verify_note(note, keys)
    except InvalidSignature as error:
        raise ConfirmationInvalid(str(error)) from None
    return _parsed(note, signature.key.name)


def _parsed(note: Note, collector: str) -> Confirmation:
    found = _TEXT.fullmatch(note.text)
    if found is None:
        raise ConfirmationInvalid("the text of a confirmation is not as it has to be")
    buckets = _buckets_in(found["buckets"])
    if any(one.seq > int(found["seq"]) for one in buckets):
        raise ConfirmationInvalid("a confirmation says that a bucket has more of the log than the collector")
    try:
        issued, expires = (datetime.strptime(found[name], _TIME).replace(tzinfo=UTC) for name in ("issued", "expires"))
    except ValueError:
        raise ConfirmationInvalid("a time in a confirmation is none") from None
    return Confirmation(
        log_id=found["log_id"], seq=int(found["seq"]), hash=found["hash"], collector=collector,
        copies=int(found["copies"]), issued_at=issued, expires_at=expires, buckets=buckets,
    )  # fmt: skip


def _buckets_in(lines: str) -> tuple[BucketCopy, ...]:
    parts = (line.split(" ") for line in lines.splitlines())
    return tuple(BucketCopy(bucket=bucket, seq=int(seq)) for _, seq, bucket in parts)
