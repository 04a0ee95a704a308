"""Comparing logs with each other: two that have the same `log_id`, and one that has the name of another.

Two chains that both hold and have the same hash at one sequence number are the same up to there, so one record of each
is enough.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from audit_async._layout.log_identity import Identity
from audit_async._layout.names import LOG_FILE
from audit_async._trail.log_files import Log, TrailUnreadable, list_segments
from audit_async._trail.record_hashes import RecordHashes
from audit_async._verify.findings import Observation, Observations
from audit_async.errors import LogCorrupted
from audit_async.status import Position


class ComparedLog(NamedTuple):
    """A log that was verified by itself."""

    log: Log
    identity: Identity | None
    head: Position | None
    observed: Observations

    @property
    def is_misnamed(self) -> bool:
        """True if log.json names another instance than the directory; not known of a log that was copied elsewhere."""
        identity, directory = self.identity, self.log.directory
        if self.log.collected is not None:  # the directory is named after the log_id as well
            return identity is not None and identity.instance not in {"", self.log.collected.instance}
        if identity is None or not identity.instance or directory.parent.name != identity.service_id:
            return False
        return identity.instance != directory.name


def compare_logs(logs: Sequence[ComparedLog]) -> None:
    """Compare each log with the longest one of the same `log_id`, and its name with log.json; blocks."""
    groups: defaultdict[str, list[ComparedLog]] = defaultdict(list)
    for log in logs:
        groups[log.identity.log_id if log.identity is not None else ""].append(log)
    for log_id, group in groups.items():
        has_original = log_id and any(not log.is_misnamed for log in group)
        for log in group:
            if log.is_misnamed and not has_original and log.identity is not None:
                instance = ascii(log.identity.instance)
                log.observed.add(Observation.IDENTITY_OTHER_INSTANCE, segment=LOG_FILE, instance=instance)
        if log_id and len(group) > 1:
            _compare_copies(group)


def _compare_copies(logs: Sequence[ComparedLog]) -> None:
    by_length = sorted([(log.head, log) for log in logs if log.head is not None], key=lambda pair: -pair[0].seq)
    for head, log in by_length[1:]:
        end, longest = by_length[0]
        found = end.hash if head.seq == end.seq else _hash_at(longest.log, head.seq)
        what = Observation.COPY if found == head.hash else Observation.IDENTITY_DIVERGES
        if found is None:
            what = Observation.COPY_NOT_COMPARED
        log.observed.add(what, seq=head.seq, other=longest.log.name)
        if what is Observation.IDENTITY_DIVERGES:
            longest.observed.add(what, seq=head.seq, other=log.log.name)


def _hash_at(log: Log, seq: int) -> str | None:
    """Return the hash of a log's record; None if it is not there any more or can't be read."""
    try:
        for segment in list_segments(log):
            if segment.sealed is not None and segment.sealed.last_seq == seq:
                return segment.sealed.hash
        found = RecordHashes(log, seq - 1).read(seq, 1)
    except (LogCorrupted, OSError, TrailUnreadable):
        return None
    return found[0].hex() if found else None
