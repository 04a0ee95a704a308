"""The result of erasing a person; needs no cryptography, as what names it doesn't."""

from __future__ import annotations

import msgspec


class ErasureReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did.

    It reaches what was sealed. What it does not reach: `unsealed_logs`, the beginning of `partly_sealed_logs`, and what
    docs/privacy.md lists: what events don't declare as personal, exports that were unsealed, and copies of the key
    store from before. The logs are those below the base directory of the log that records the erasure.
    """

    erasure_id: str  #: in the records of the erasure
    epoch: int  #: of the key store
    #: How many were destroyed; 0 if nothing of this person was sealed. One that was stored for an event which was then
    #: refused or cancelled counts as well.
    keys: int
    request_id: str | None = None  #: that it has executed; None if it was done in one call
    kept_keys: int = 0  #: of the person, which are younger than `Privacy.erase_not_before_days`
    waiting_for: tuple[str, ...]  #: logs of processes that may hold a key in memory, after the time-out
    unsealed_logs: tuple[str, ...] = ()  #: that do not seal: what they say of the person stays
    partly_sealed_logs: tuple[str, ...] = ()  #: that have segments of sessions which did not seal
    unread_logs: tuple[str, ...] = ()  #: of which neither can be said, since they can't be read

    @property
    def is_complete(self) -> bool:
        """True if no process has a destroyed key any more."""
        return not self.waiting_for
