"""One question that is put to logs: who asks, what is passed over, and what is recorded and reported at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, get_args

import anyio.to_thread

from audit_async._query.audit_query import AuditQuery, InvalidQuery
from audit_async._query.opened_records import SealedReading
from audit_async._query.sealed_filter import NOT_RECORDED, asked_without_names
from audit_async._query.sealing_logs import SealingLogs
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log
from audit_async.logger import AuditLogger

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore  # needs an extra
    from audit_async.privacy.subjects import Subject

#: What a query does about a line that may be wanted and is no genuine record: raise `LogCorrupted`, or leave it out
#: and say at the end, by a warning of the logger `audit_async`, how often it did.
OnDamage = Literal["raise", "skip"]

_log = logging.getLogger("audit_async")


class Access:
    """Who is asking, and the logger that records it; neither if nobody said."""

    def __init__(
        self,
        audit: AuditLogger | None,
        accessed_by: str | None,
        *,
        sealing: SealingLogs,
        may_be_unnamed: bool = False,
    ) -> None:
        """Take both or neither; `may_be_unnamed` takes a logger without the name of who is asking, too.

        `sealing` is what the one who asks many questions knows already.

        Raises:
            InvalidQuery: One of the two is missing.
        """
        if audit is not None and not accessed_by and (accessed_by is not None or not may_be_unnamed):
            raise InvalidQuery("accessed_by", "is missing; say who is asking, so that audit can record it")
        if accessed_by is not None and audit is None:
            raise InvalidQuery("audit", "is missing; give the running logger that is to record who is asking")
        self.audit: Final = audit
        self._accessed_by: Final = accessed_by
        self._sealing: Final = sealing
        self._names_nobody = audit is not None and audit.config.privacy is None  # until it is known

    async def look_at(self, logs: list[Log]) -> None:
        """Find out whether what is asked of these logs may be recorded in the clear."""
        if self._names_nobody:
            self._names_nobody = await anyio.to_thread.run_sync(lambda: any(map(self._sealing.includes, logs)))

    def record(self, query: AuditQuery, given: int | None, *, about: Subject | None = None, **how: object) -> None:
        """Record what was asked.

        A name that the trail seals must not be in the clear in the log of who read it; if that log seals as well, it
        is sealed there, and else it is left out.
        """
        asked = asked_without_names(query) if self._names_nobody else query.asked()
        if about is not None:
            member = "user_id" if about.kind == "user" else f"{about.kind}_id"
            asked[member] = NOT_RECORDED if self._names_nobody else about.id
        self.record_as(asked | how, given)

    def record_as(self, asked: dict[str, object], given: int | None) -> None:
        """Record what was asked in these words, which name nobody."""
        if self.audit is not None and self._accessed_by is not None:
            self.audit.record_access(self._accessed_by, asked, given)


class Question:
    """A query that is put to the logs of a reader, from its beginning to its end."""

    def __init__(
        self,
        query: AuditQuery,
        logs: Callable[[], list[Log]],
        access: Access,
        key_store: KeyStore | None,
        *,
        on_damage: OnDamage = "raise",
        on_undecided: Callable[[int], None] | None = None,
    ) -> None:
        """Read nothing yet; `logs` blocks. Raises `InvalidQuery`."""
        if on_damage not in get_args(OnDamage):
            raise InvalidQuery("on_damage", 'is neither "raise" nor "skip"')
        self.query: Final = query
        self.access: Final = access
        self.damage: Final = Damage(skip=on_damage == "skip")
        self.reading = SealedReading(query, key_store)
        self.given: int | None = 0  #: records so far; None if that is not known
        self._logs: Final = logs
        self._key_store: Final = key_store
        self._on_undecided: Final = on_undecided
        self._about: Subject | None = None

    async def begin(self) -> list[Log]:
        """Return the logs.

        Raises:
            TrailUnreadable: There is none, or a directory may not be read.
            InvalidQuery: The query makes no sense for them.
        """
        logs = await anyio.to_thread.run_sync(self._logs)
        if self.query.after_seq is not None and len(logs) > 1:
            raise InvalidQuery(
                "after_seq",
                f"each of the {len(logs)} logs here counts for itself; name one by its service and instance, or go on "
                "from a page's cursor",
            )
        await self.access.look_at(logs)
        return logs

    async def ask_about(self, subject: Subject) -> None:
        """Ask for the records about one person only; raises `KeyStoreUnavailable`."""
        self._about = subject
        self.reading = await anyio.to_thread.run_sync(lambda: SealedReading(self.query, self._key_store, about=subject))

    def end(self, **how: object) -> None:
        """Report what was passed over and what could not be decided, and record what was asked."""
        if self.damage.skips and self.damage.not_searched is not None:
            _log.warning("%s", self.damage.not_searched)
        if self.damage.skipped:
            text = "a query passed over damage, %d times in all; the first: %s"
            _log.warning(text, self.damage.skipped, self.damage.first)
        if undecided := self.reading.undecided:
            self._report_undecided(undecided)
        self.access.record(self.query, self.given, about=self._about, **how)

    def _report_undecided(self, records: int) -> None:
        if self._on_undecided is not None:
            self._on_undecided(records)
        else:
            _log.warning(
                "%d records could not be searched: what was asked for is sealed in them; give the key store that has "
                "their keys",
                records,
            )
