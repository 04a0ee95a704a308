"""What a collector has of each log, as people and programs are shown it: how far it is behind, and who is silent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from audit_async.forwarding.collector_root import CollectedStatus, CollectorStatus, Finding

__all__ = ["STALE", "LogAtCollector", "State", "logs_of"]

#: - `live`: records came lately
#: - `idle`: this log is quiet, and its host is there: by other logs, or as its forwarder has shown it at the engine
#: - `silent`: the host has not shown itself at all
State = Literal["live", "idle", "silent"]

#: A collector that has written no status for so long is not running.
STALE: Final = timedelta(minutes=1)


class LogAtCollector(msgspec.Struct, frozen=True, kw_only=True):
    """One log, as `--json` prints it."""

    log: str
    tenant: str
    host: str
    service: str
    instance: str
    log_id: str
    state: State
    seq: int
    hash: str
    behind_records: int  #: that the engine has, and the collector not yet
    behind_s: float | None  #: from the making of the last record until now; None if there is none
    last_record_at: str
    received_at: datetime | None
    heard_at: datetime | None  #: when the log's host last showed itself at the engine
    confirmed_seq: int
    findings: int  #: that nobody has acknowledged


def logs_of(status: CollectorStatus, findings: Sequence[Finding], quiet: timedelta) -> list[LogAtCollector]:
    """Return what is to be shown of each log; a host is as alive as its newest log."""
    now = datetime.now(UTC)
    newest: dict[tuple[str, str], datetime] = {}
    for log in status.logs:
        key = (log.tenant, log.host)
        for at in (log.received_at, log.heard_at):
            if at is not None:
                newest[key] = max(newest.get(key, at), at)
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.log] = counts.get(finding.log, 0) + 1
    return [
        LogAtCollector(
            log=log.log, tenant=log.tenant, host=log.host, service=log.service, instance=log.instance,
            log_id=log.log_id, state=_state(log, newest.get((log.tenant, log.host)), now - quiet),
            seq=log.seq, hash=log.hash, behind_records=max(0, log.engine_seq - log.seq),
            behind_s=_age_s(log.last_record_at, now), last_record_at=log.last_record_at,
            received_at=log.received_at, heard_at=log.heard_at, confirmed_seq=log.confirmed_seq,
            findings=counts.get(log.log, 0),
        )
        for log in status.logs
    ]  # fmt: skip


def _state(log: CollectedStatus, newest: datetime | None, since: datetime) -> State:
    if newest is None or newest < since:
        return "silent"
    return "live" if log.received_at is not None and log.received_at >= since else "idle"


def _age_s(timestamp: str, now: datetime) -> float | None:
    return (now - datetime.fromisoformat(timestamp)).total_seconds() if timestamp else None
