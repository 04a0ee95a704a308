"""The erasure requests of a key store of one host; what the calls promise is said in `erasure_requests`."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_async.config.erasure_rules import ErasureRules
from audit_async.privacy import request_table
from audit_async.privacy.data_keys import date_of, day_of, today
from audit_async.privacy.erasure_requests import BegunRequest, ErasureRequest, Step, Unconfirmed, folded_name
from audit_async.privacy.key_store import Erasure
from audit_async.privacy.main_file import MainFile
from audit_async.privacy.request_table import ANY_APPROVAL, NO_APPROVAL, SECOND_PERSON, RequestRow
from audit_async.privacy.store_failures import ErasureRefused, KeyStoreDamaged
from audit_async.privacy.subjects import UNATTRIBUTED, Subject

__all__ = ["THE_SUBJECT", "SqliteErasureRequests"]

#: Said instead of the name of the person who is to be erased.
THE_SUBJECT: Final = "[the subject]"

_NONCE_BYTES: Final = 12
_MARK_BYTES: Final = 16
_DAY_MS: Final = 86_400_000


class _Texts(msgspec.Struct, frozen=True):
    """What is sealed in a row: names, and reasons."""

    requested_by: str
    reason: str
    approved_by: str | None = None
    step_by: str = ""
    step_reason: str = ""


class SqliteErasureRequests:
    """The requests of one `SqliteKeyStore`."""

    def __init__(
        self,
        main: MainFile,
        key: bytes,
        *,
        pseudonym: Callable[[Subject], bytes],
        used: Callable[[], AbstractContextManager[None]],
        changed: Callable[[], AbstractContextManager[None]],
        find: Callable[[bytes], list[bytes]],
        refuse_if_held: Callable[[str], None],
    ) -> None:
        """Keep the requests in a main file.

        Args:
            main: The file.
            key: The store's key of the pseudonyms; other keys are derived from it.
            pseudonym: Returns what the store knows a subject by.
            used: Keeps the other threads out.
            changed: Keeps the other threads and processes out.
            find: Returns the keys of a pseudonym.
            refuse_if_held: Raises `ErasureRefused` if a legal hold is in force.
        """
        self._main: Final = main
        self._mark_key: Final = hmac.digest(key, b"audit-async names 1", "sha256")
        self._cipher: Final = AESGCM(hmac.digest(key, b"audit-async erasure requests 1", "sha256"))
        self._pseudonym: Final = pseudonym
        self._used: Final = used
        self._changed: Final = changed
        self._find: Final = find
        self._refuse_if_held: Final = refuse_if_held

    # -- the rules ----------------------------------------------------------------------------------------------------

    def rules(self) -> ErasureRules:
        """Return the rules in force."""
        with self._used():
            return self._main.view().rules

    def set_rules(self, rules: ErasureRules) -> None:
        """Put these rules in force."""
        with self._changed():
            self._main.set_rules(rules)

    def first_kept_day(self, rules: ErasureRules) -> int | None:
        """Return the first day whose keys are too young to be destroyed now; None if no rule says so."""
        return today() - rules.not_before_days if rules.not_before_days else None

    # -- the steps ----------------------------------------------------------------------------------------------------

    def request(self, subject: Subject, request_id: str, *, requested_by: str, reason: str, log_id: str) -> Unconfirmed:
        """Request an erasure."""
        if subject == UNATTRIBUTED:
            raise ErasureRefused("members of nobody in particular can't be erased; they are forgotten by age")
        pseudonym, subject_mark = self._pseudonym(subject), self._mark(subject.id)
        requester_mark = self._mark(requested_by)
        by = THE_SUBJECT if requester_mark == subject_mark else requested_by
        now_ms = time.time_ns() // 1_000_000
        with self._changed():
            rules = self._main.view().rules
            key_ids = self._find(pseudonym)
            not_before_ms = now_ms + rules.delay_s * 1000
            if rules.not_before_days and key_ids:
                last_day = max(map(day_of, key_ids))
                not_before_ms = max(not_before_ms, (last_day + 1 + rules.not_before_days) * _DAY_MS)
            with self._main.changing() as connection:
                request_table.prepare(connection)
                row = RequestRow(
                    request_id,
                    pseudonym,
                    subject_mark,
                    requester_mark,
                    now_ms,
                    not_before_ms,
                    SECOND_PERSON if rules.two_person else NO_APPROVAL,
                    0,
                    "requested",
                    log_id,
                    request_table.next_epoch(connection),
                    None,
                    len(key_ids),
                    self._sealed(request_id, _Texts(by, reason, None, by, reason)),
                )
                request_table.insert(connection, row)
            return self._unconfirmed(row, rules)

    def approve(self, subject: Subject, request_id: str, *, approved_by: str, log_id: str) -> Unconfirmed:
        """Approve a request."""
        pseudonym, mark = self._pseudonym(subject), self._mark(approved_by)
        with self._changed():
            rules, row = self._main.view().rules, self._row(request_id)
            if row is None or row.subject != pseudonym:
                raise ErasureRefused(f"no erasure {request_id} of this person waits; see erase --waiting")
            if row.erasure_id is not None or row.is_approved or row.step is not None:
                raise ErasureRefused(f"the erasure {request_id} is approved already, or another step of it is going on")
            if (row.approval == SECOND_PERSON or rules.two_person) and mark == row.requester_mark:
                raise ErasureRefused(
                    f"the erasure {request_id} needs a second person's approval, and this is the name that asked for it"
                )
            by = THE_SUBJECT if mark == row.subject_mark else approved_by
            texts = msgspec.structs.replace(self._texts(row), approved_by=by, step_by=by, step_reason="")
            return self._note_step(row, "approved", texts, log_id, row.step_epoch)

    def cancel(self, request_id: str, *, cancelled_by: str, reason: str, log_id: str) -> Unconfirmed:
        """Cancel a request."""
        mark = self._mark(cancelled_by)
        with self._changed():
            row = self._row(request_id)
            if row is None or row.step == "cancelled":
                raise ErasureRefused(f"no erasure {request_id} waits: it was executed or cancelled, or never requested")
            if row.erasure_id is not None:
                raise ErasureRefused(f"the erasure {request_id} is being executed, so it can't be cancelled any more")
            by = THE_SUBJECT if mark == row.subject_mark else cancelled_by
            texts = msgspec.structs.replace(self._texts(row), step_by=by, step_reason=reason)
            return self._note_step(row, "cancelled", texts, log_id, None)

    def _note_step(self, row: RequestRow, step: Step, texts: _Texts, log_id: str, epoch: int | None) -> Unconfirmed:
        """Note a step that is to be recorded; without an epoch it gets a new one."""
        with self._main.changing() as connection:
            row = row._replace(
                step=step,
                step_log=log_id,
                step_epoch=request_table.next_epoch(connection) if epoch is None else epoch,
                texts=self._sealed(row.request_id, texts),
            )
            request_table.update(connection, row)
        return self._unconfirmed(row, self._main.view().rules)

    def confirm(self, request_id: str, step: Step) -> None:
        """Note that a step is durable in a chain."""
        with self._changed():
            row = self._row(request_id)
            if row is None or row.step != step:
                return
            with self._main.changing(destroys=True) as connection:
                if step == "cancelled":
                    request_table.remove(connection, request_id)
                else:
                    done = row._replace(step=None, step_log=None, is_approved=int(step == "approved"))
                    request_table.update(connection, done)

    # -- what there is ------------------------------------------------------------------------------------------------

    def unconfirmed(self, log_id: str) -> list[Unconfirmed]:
        """Return the steps that were asked of this log and are not confirmed."""
        with self._used():
            if not self._main.view().has_requests:
                return []
            rules = self._main.view().rules
            return [self._unconfirmed(row, rules) for row in self._rows() if row.step_log == log_id]

    def waiting(self) -> list[ErasureRequest]:
        """Return the requests that have not ended, the oldest first."""
        with self._used():
            rules = self._main.view().rules
            return [self._shown(row, rules) for row in self._rows() if row.step != "cancelled"]

    def due(self) -> list[str]:
        """Return the ids of the requests that can be executed now."""
        with self._used():
            view = self._main.view()
            if not view.has_requests:
                return []
            return [
                row.request_id
                for row in self._rows()
                if row.erasure_id is None and self._why_not_now(row, view.rules) is None
            ]

    # -- execution ----------------------------------------------------------------------------------------------------

    def begin(self, request_id: str, erasure_id: str) -> BegunRequest | None:
        """Begin to execute a request."""
        with self._changed():
            row = self._row(request_id)
            if row is None or row.step == "cancelled" or row.erasure_id not in {None, erasure_id}:
                return None
            rules = self._main.view().rules
            if row.erasure_id is None and (why_not := self._why_not_now(row, rules)) is not None:
                raise ErasureRefused(f"the erasure {request_id} has to wait: {why_not}")
            self._refuse_if_held("erased")
            shown = self._shown(row, rules)
            before = self.first_kept_day(rules)
            epoch = self._main.begin_erasure(
                erasure_id, row.subject, forced=False, before=before, request_id=request_id
            )
            there = self._find(row.subject)
            key_ids = there if before is None else [key_id for key_id in there if day_of(key_id) < before]
            return BegunRequest(
                Erasure(erasure_id, epoch, key_ids),
                shown,
                None if before is None else datetime.combine(date_of(before), datetime.min.time(), UTC),
                len(there) - len(key_ids),
            )

    def release(self, erasure_id: str) -> None:
        """Let the request of an erasure wait again."""
        with self._changed():
            if self._main.view().has_requests:
                with self._main.changing() as connection:
                    request_table.release(connection, erasure_id)

    def withdraw(self, request_ids: list[str]) -> None:
        """Delete requests that a chain says have ended."""
        with self._changed():
            there = {row.request_id for row in self._rows() if row.erasure_id is None}.intersection(request_ids)
            if there:
                with self._main.changing(destroys=True) as connection:
                    for request_id in sorted(there):
                        request_table.remove(connection, request_id)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _rows(self) -> list[RequestRow]:
        with self._main.file.reading() as connection:
            return request_table.rows(connection)

    def _row(self, request_id: str) -> RequestRow | None:
        return next((row for row in self._rows() if row.request_id == request_id), None)

    def _why_not_now(self, row: RequestRow, rules: ErasureRules) -> str | None:
        """Return why a request has to wait; None if it is due."""
        if row.step is not None:
            return f"that it was {row.step} is not recorded yet; the next start of the log that was asked does that"
        if self._needs_approval(row, rules) and not row.is_approved:
            return "for its approval"
        if time.time_ns() // 1_000_000 < self._not_before_ms(row, rules):
            return f"until {_time_of(self._not_before_ms(row, rules)):%Y-%m-%d %H:%M} UTC"
        return None

    @staticmethod
    def _needs_approval(row: RequestRow, rules: ErasureRules) -> bool:
        return row.approval >= ANY_APPROVAL or rules.two_person

    @staticmethod
    def _not_before_ms(row: RequestRow, rules: ErasureRules) -> int:
        """Return before when it is not executed: what was said when it was requested, or the stricter rule of today."""
        return max(row.not_before_ms, row.requested_ms + rules.delay_s * 1000)

    def _shown(self, row: RequestRow, rules: ErasureRules) -> ErasureRequest:
        texts = self._texts(row)
        return ErasureRequest(
            request_id=row.request_id,
            requested_at=_time_of(row.requested_ms),
            not_before=_time_of(self._not_before_ms(row, rules)),
            needs_approval=self._needs_approval(row, rules),
            is_approved=bool(row.is_approved),
            is_executing=row.erasure_id is not None,
            requested_by=texts.requested_by,
            reason=texts.reason,
            approved_by=texts.approved_by if row.is_approved else None,
        )

    def _unconfirmed(self, row: RequestRow, rules: ErasureRules) -> Unconfirmed:
        texts = self._texts(row)
        step: Step = "approved" if row.step == "approved" else "cancelled" if row.step == "cancelled" else "requested"
        return Unconfirmed(step, row.step_epoch, row.keys, texts.step_by, texts.step_reason, self._shown(row, rules))

    def _mark(self, name: str) -> bytes:
        """Return what names are compared by."""
        return hmac.digest(self._mark_key, folded_name(name).encode("utf-8", "surrogatepass"), "sha256")[:_MARK_BYTES]

    def _sealed(self, request_id: str, texts: _Texts) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, msgspec.json.encode(texts), request_id.encode())

    def _texts(self, row: RequestRow) -> _Texts:
        nonce, ciphertext = row.texts[:_NONCE_BYTES], row.texts[_NONCE_BYTES:]
        try:
            return msgspec.json.decode(self._cipher.decrypt(nonce, ciphertext, row.request_id.encode()), type=_Texts)
        except InvalidTag:
            raise KeyStoreDamaged(
                f"the erasure request {row.request_id} in {self._main.file.path} is damaged; restore the key store "
                "from its backup"
            ) from None


def _time_of(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
