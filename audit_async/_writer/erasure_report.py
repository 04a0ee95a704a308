"""The result of erasing a person; needs no cryptography, as what names it doesn't."""

from __future__ import annotations

import msgspec


class ErasureReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did.

    It reaches what was sealed. What was recorded before the log had `Privacy`, what events don't declare as personal,
    exports that were unsealed, and copies of the key store from before are listed in docs/privacy.md.
    """

    erasure_id: str  #: in the records of the erasure
    epoch: int  #: of the key store
    keys: int  #: how many were destroyed; 0 if nothing of this person was sealed
    waiting_for: tuple[str, ...]  #: logs of processes that may hold a key in memory, after the time-out

    @property
    def is_complete(self) -> bool:
        """True if no process has a destroyed key any more."""
        return not self.waiting_for
