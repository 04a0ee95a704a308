"""What a log states of erasures, next to the legal holds: in `audit.log_opened` and `audit.segment_sealed`."""

from __future__ import annotations

from typing import Final, TypedDict

from audit_async.privacy.data_keys import key_id_text
from audit_async.privacy.key_store import Changes


class ErasureStatement(TypedDict):
    """The members of both records."""

    erasure_epoch: int | None
    erased_key: str | None
    own_erased_key: str | None


#: Of a log that does not seal.
NOTHING_STATED: Final = ErasureStatement(erasure_epoch=None, erased_key=None, own_erased_key=None)


class StatedErasures:
    """What is stated by the next such record. Owned by the loop's thread."""

    def __init__(self) -> None:
        self.epoch = 0  #: of the key store, as far as this log has stated it
        self.erased_key: str | None = None  #: one that was destroyed last, by whichever log
        self.own_erased_key: str | None = None  #: one of the newest erasure that this log records

    def noticed(self, changes: Changes) -> bool:
        """Take what the key store says; return whether it has seen an erasure that was not stated yet."""
        if changes.erased_key is not None:
            self.erased_key = key_id_text(changes.erased_key)
        is_new = changes.epoch > self.epoch
        self.epoch = max(self.epoch, changes.epoch)
        return is_new

    def erased(self, epoch: int, key_ids: list[bytes]) -> None:
        """Take note of an erasure that this log records."""
        self.epoch = max(self.epoch, epoch)
        if key_ids:
            self.erased_key = self.own_erased_key = key_id_text(key_ids[-1])

    def stated(self) -> ErasureStatement:
        """Return what the next record states."""
        return ErasureStatement(
            erasure_epoch=self.epoch, erased_key=self.erased_key, own_erased_key=self.own_erased_key
        )
