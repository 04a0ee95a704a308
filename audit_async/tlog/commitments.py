"""What a log has committed itself to: roots at certain sizes that its records must lead to.

The one rule of "never two histories": for every checkpoint that is known from anywhere, the tree over the log's
records must have that root at that size. Used before signing, and to verify a trail without its tiles.
"""

from __future__ import annotations

from collections.abc import Iterable

from audit_async.tlog.checkpoint import Checkpoint
from audit_async.tlog.failures import LogForked, LogRolledBack
from audit_async.tlog.merkle import HashReader, tree_root


class Commitments:
    """The known checkpoints of one log, by size, each with the place that it was seen at."""

    def __init__(self, known: Iterable[tuple[Checkpoint, str]] = ()) -> None:
        """Begin with these checkpoints, each with words for the place that it was found at.

        Raises:
            LogForked: Two of them contradict each other by themselves.
        """
        self._known: dict[int, tuple[bytes, str]] = {}
        for checkpoint, place in known:
            self.add(checkpoint, place)

    def add(self, checkpoint: Checkpoint, place: str) -> None:
        """Add a checkpoint; raises `LogForked` if another of that size has another root."""
        root, other = self._known.setdefault(checkpoint.size, (checkpoint.root, place))
        if root != checkpoint.root:
            raise LogForked(
                f"two checkpoints of {checkpoint.origin} at size {checkpoint.size} have different roots: {other} and "
                f"{place}; keep both as evidence, and find out which history is the true one"
            )

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Return whether the log has committed itself to this size and root."""
        known = self._known.get(checkpoint.size)
        return known is not None and known[0] == checkpoint.root

    @property
    def size(self) -> int:
        """The largest size that the log has committed itself to."""
        return max(self._known, default=0)

    def forget_below(self, size: int) -> None:
        """Forget smaller checkpoints, which one of this size replaces: it is consistent with them all."""
        self._known = {known: what for known, what in self._known.items() if known >= size}

    def sizes_above(self, size: int) -> list[int]:
        """Return the sizes larger than `size`, ascending."""
        return sorted(known for known in self._known if known > size)

    def check(self, size: int, root: bytes) -> None:
        """Compare a root of the log's records with what is known of that size; raises `LogForked`."""
        known = self._known.get(size)
        if known is not None and known[0] != root:
            raise LogForked(
                f"the records up to {size} are not those that were signed: {known[1]} has another root; records were "
                "changed, or the log and its checkpoints are not of one origin"
            )

    def check_all(self, size: int, read: HashReader) -> None:
        """Compare the tree of this size with every checkpoint that is no larger; raises `LogForked`."""
        for known in sorted(self._known):
            if known <= size:
                self.check(known, tree_root(known, read))

    def refuse_smaller(self, size: int) -> None:
        """Raise `LogRolledBack` if the log has fewer records than it has committed itself to."""
        if size < self.size:
            _, place = self._known[self.size]
            raise LogRolledBack(
                f"the log has {size} records, and {place} is for {self.size}: records at its end are gone, or the log "
                "came back from an older backup; nothing is signed any more. Restore the newest state, or begin a new "
                "log with another origin and keep this one as evidence"
            )
