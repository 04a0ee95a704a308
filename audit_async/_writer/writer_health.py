"""What commits say about a log's health: whether the disk takes what it gets, and how much room is left on it."""

from __future__ import annotations

from typing import Final

from audit_async._writer.commits import Outcome
from audit_async.status import Condition, HealthStatus, describe_error

#: A commit that takes longer than this is a disk that hangs, in seconds; or, once the buffer is full, than that.
_STALLED_AFTER_S: Final = 5.0
_STALLED_FULL_AFTER_S: Final = 1.0


class WriterHealth:
    """Turns the outcomes of commits into the log's status. Owned by the loop's thread."""

    def __init__(self, condition: Condition, directory: str, low_disk_bytes: int) -> None:
        self._condition: Final = condition
        self.directory: Final = directory  #: the log's, for messages
        self._low_disk_bytes: Final = low_disk_bytes
        self._sealing_failed = False

    def refused(self, error: OSError) -> None:
        """Report that the disk has refused a commit, which is tried again."""
        self._condition.set_status(HealthStatus.DEGRADED, describe_error(error))

    def under_way(self, age_s: float, refused: int) -> None:
        """Report a commit that has been under way for `age_s` seconds, in which so many events were refused."""
        if age_s >= _STALLED_AFTER_S or (refused and age_s >= _STALLED_FULL_AFTER_S):
            self._condition.set_status(
                HealthStatus.STALLED,
                f"the disk of {self.directory} has not answered for {age_s:.0f} s"
                + (f", and {refused} events were refused meanwhile" if refused else ""),
            )

    def failed(self, error: BaseException) -> None:
        """Report that the writer has stopped for good."""
        self._condition.set_status(HealthStatus.FAILED, describe_error(error))

    def committed(self, outcome: Outcome) -> None:
        """Report how the log is after a commit that has succeeded."""
        if outcome.free_bytes is not None:
            self._report_space(outcome.free_bytes)
        elif (status := self._condition.status) is HealthStatus.DEGRADED or status is HealthStatus.STALLED:
            self._condition.set_status(HealthStatus.OK)
        error = outcome.committed.sealing_error
        if error is not None or self._sealing_failed:
            self._sealing_failed = error is not None
            self._condition.set_trouble(
                "sealing a segment", None if error is None else f"not possible yet: {describe_error(error)}"
            )

    def _report_space(self, free_bytes: int) -> None:
        """Report that the space runs low before it has run out."""
        if free_bytes < self._low_disk_bytes:
            self._condition.set_status(
                HealthStatus.LOW_DISK, f"{free_bytes} bytes are left on the file system of {self.directory}"
            )
        else:
            self._condition.set_status(HealthStatus.OK)
