"""Erasures that wait: requested by one person, perhaps approved by another, executed later, or cancelled.

A key store has rules for what an erasure has to wait for (`ErasureRules`). They are in the store and not in a
configuration, so that no command can do without them; a log makes them stricter, and only an explicit, recorded change
makes them less strict.

Each step of a request is first noted in the store, then recorded in the chain of the log that was asked, then
confirmed in the store (`confirm`). Until then nobody executes the request, and the log's next opening records it
(`unconfirmed`). So no step takes effect without a record.

The store knows a request by the pseudonym of its subject, and who asked, and why, by a text that is sealed under a key
of the store. All of it is deleted once the erasure has ended or was cancelled.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

import msgspec

from audit_async.config.erasure_rules import ErasureRules
from audit_async.privacy.key_store import Erasure
from audit_async.privacy.subjects import Subject

__all__ = ["BegunRequest", "ErasureRequest", "ErasureRequests", "Step", "Unconfirmed", "folded_name"]

#: What is done to a request.
Step = Literal["requested", "approved", "cancelled"]


class ErasureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An erasure that waits; whom it is about is not in it.

    - `request_id`: names it in records, and for `approve_erasure` and `cancel_erasure`.
    - `requested_at`: when it was requested.
    - `not_before`: it is not executed before.
    - `needs_approval`: it is not executed before somebody approves it.
    - `is_approved`: somebody has.
    - `is_executing`: a log has begun to execute it; it can't be cancelled any more.
    - `requested_by`, `reason`, `approved_by`: as they were given; `[the subject]` instead of the person's own name.
    """

    request_id: str
    requested_at: datetime
    not_before: datetime
    needs_approval: bool
    is_approved: bool
    is_executing: bool
    requested_by: str
    reason: str
    approved_by: str | None = None


class Unconfirmed(NamedTuple):
    """A step that the store has noted and no chain has recorded, or not for certain."""

    step: Step
    epoch: int
    keys: int  #: how many the person had when it was requested
    by: str  #: who did the step
    reason: str  #: that was given for it
    request: ErasureRequest


class BegunRequest(NamedTuple):
    """A request whose execution has begun: the erasure, and what its record says of who asked for it."""

    erasure: Erasure
    request: ErasureRequest
    before: datetime | None  #: only keys of the UTC days before this one are destroyed; None if all are
    kept_keys: int  #: how many are not, since they are too young


class ErasureRequests(Protocol):
    """The requests and rules of one key store. Every call blocks, and may raise `KeyStoreUnavailable`."""

    def rules(self) -> ErasureRules:
        """Return the rules in force."""

    def set_rules(self, rules: ErasureRules) -> None:
        """Put these rules in force, stricter or less strict ones; the caller records that."""

    def request(self, subject: Subject, request_id: str, *, requested_by: str, reason: str, log_id: str) -> Unconfirmed:
        """Request an erasure; to be recorded, then confirmed.

        Args:
            subject: Who is to be erased.
            request_id: Unique for ever.
            requested_by: Who asks for it.
            reason: Why.
            log_id: The log that records it.

        Raises:
            ErasureRefused: The subject is `UNATTRIBUTED`.
        """

    def approve(self, subject: Subject, request_id: str, *, approved_by: str, log_id: str) -> Unconfirmed:
        """Approve a request; to be recorded, then confirmed.

        Raises:
            ErasureRefused: There is no such request of this subject, it is approved already, or it is the requester who
                approves and a second person has to.
        """

    def cancel(self, request_id: str, *, cancelled_by: str, reason: str, log_id: str) -> Unconfirmed:
        """Cancel a request, which is never executed from then on; to be recorded, then confirmed.

        Raises:
            ErasureRefused: There is no such request, or its execution has begun.
        """

    def confirm(self, request_id: str, step: Step) -> None:
        """Note that a step is durable in a chain. Safe to repeat."""

    def unconfirmed(self, log_id: str) -> list[Unconfirmed]:
        """Return the steps that were asked of this log and are not confirmed."""

    def waiting(self) -> list[ErasureRequest]:
        """Return the requests that have not ended, the oldest first."""

    def due(self) -> list[str]:
        """Return the ids of the requests that can be executed now; cheap if there are none."""

    def begin(self, request_id: str, erasure_id: str) -> BegunRequest | None:
        """Begin to execute a request as `KeyStore.begin_erasure` does; `end_erasure` ends both.

        Returns:
            None if it was ended, was cancelled, or is being executed by somebody else.

        Raises:
            ErasureRefused: It has to wait, for its time, for its approval, or for a legal hold.
        """

    def release(self, erasure_id: str) -> None:
        """Let the request of an erasure wait again: it was begun, and died before anything was recorded."""

    def withdraw(self, request_ids: list[str]) -> None:
        """Delete requests that a chain says were cancelled, or executed: the store is from a backup."""


def folded_name(name: str) -> str:
    """Return a name as it is compared: without case, spaces, Unicode forms, and characters that are not seen.

    Two texts that differ only in these are the same name, so the second is nobody else's.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(char for char in folded if unicodedata.category(char)[0] not in "CZ" and not char.isspace())
