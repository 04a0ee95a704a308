"""What a collector has found that does not fit: each thing kept, recorded and reported once, and bounded for each host.

A host can cause as many findings as it likes, by new logs or bad batches. So only so many of one host are kept on one
day, and one more says that there were others; it affects no other host.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from audit_async.forwarding.collector_root import Finding, FindingKind, append_finding, read_findings
from audit_async.forwarding.identities import LogIdentity

__all__ = ["CollectorFindings", "Report"]

_logger: Final = logging.getLogger(__name__)

#: How many findings of one host are kept on one day (UTC).
_MOST_A_DAY: Final = 100
#: A second log in the same place within this time is another finding.
_OFTEN: Final = timedelta(days=1)

Report = Callable[[Finding], Awaitable[None]]


class CollectorFindings:
    """The findings of one collector's directory. From one event loop.

    Args:
        report: called with each new finding, once; before it is in the file, so that none is left unreported.
    """

    def __init__(self, report: Report | None) -> None:
        self.seen: list[Finding] = []  #: in the round under way, known ones included
        self._report: Final = report
        self._root: Path | None = None
        self._known: dict[tuple[str, str, int], Finding] = {}
        self._of_host: Counter[tuple[str, str, str]] = Counter()  # by tenant, host and day
        self._adding: Final = anyio.Lock()
        self._replaced: dict[str, datetime] = {}  # when the log in a place was last replaced

    def open(self, root: Path) -> None:
        """Read what was found before, and keep what will be. Raises `LogCorrupted`, `OSError`."""
        for finding in read_findings(root):
            self._keep(finding)
        self._root = root

    async def found(self, log: LogIdentity, kind: FindingKind, seq: int, reason: str) -> None:
        """Keep a finding, durably, and report it if it is new. Raises `OSError`."""
        async with self._adding:
            await self._found(log, kind, seq, reason)

    async def _found(self, log: LogIdentity, kind: FindingKind, seq: int, reason: str) -> None:
        finding = Finding(log=log.path(), kind=kind, seq=seq, reason=reason, seen_at=datetime.now(UTC))
        known = self._known.get(finding.key)
        if known is not None:
            self.seen.append(known)
            return
        before = self._replaced.get(finding.place)
        await self._add(finding)
        if kind == "log_replaced" and before is not None and finding.seen_at - before < _OFTEN:
            reason = f"its log was replaced before, at {before:%Y-%m-%d %H:%M} UTC: more than once a day is an alarm"
            await self._found(log, "log_replaced_often", seq, reason)

    async def _add(self, finding: Finding) -> None:
        count = self._of_host[_day_of(finding)]
        if count >= _MOST_A_DAY:
            if count > _MOST_A_DAY:
                return
            reason = (
                f"more than {_MOST_A_DAY} findings of this host on one day; not kept are others and: {finding.reason}"
            )
            finding = Finding(
                log=finding.log, kind="too_many_findings", seq=finding.seq, reason=reason, seen_at=finding.seen_at
            )
        self.seen.append(finding)
        _logger.warning("%s: %s: %s", finding.log, finding.kind.replace("_", " "), finding.reason)
        # Reported first: a finding that is in the file and in no log would never be reported.
        if self._report is not None:
            await self._report(finding)
        if self._root is not None:
            await to_thread.run_sync(append_finding, self._root, finding)
        self._keep(finding)

    def _keep(self, finding: Finding) -> None:
        self._known[finding.key] = finding
        self._of_host[_day_of(finding)] += 1
        if finding.kind == "log_replaced":
            self._replaced[finding.place] = finding.seen_at


def _day_of(finding: Finding) -> tuple[str, str, str]:
    return finding.tenant, finding.host, finding.seen_at.astimezone(UTC).date().isoformat()
