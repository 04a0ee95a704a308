"""What could not be emitted is counted as lost: in the statistics, in the health, and in the chain."""

from __future__ import annotations

import asyncio
from threading import Thread

import anyio.to_thread
import pytest

from audit_async import AuditConfig, AuditLogger, Batched, Disabled
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


def drops(config: AuditConfig) -> list[tuple[str, dict[str, int]]]:
    """Return reason and counts of each recorded loss, after a check of the chain."""
    check_trail(log_directory(config))
    events = [record["event"] for record in read_events(log_directory(config))]
    return [(event["reason"], event["by_type"]) for event in events if event["event_type"] == "audit.events_dropped"]


async def test_a_loss_is_in_the_chain_without_another_event(config_for: ConfigFor) -> None:
    """A log that nothing else is emitted to records a loss by itself; `flush` makes that durable."""
    config = config_for()
    async with AuditLogger(config) as audit:
        await audit.flush()
        audit.count_lost("http.request", "invalid_event")
        assert (audit.stats().dropped, audit.stats().dropped_by_type) == (1, {"http.request": 1})
        assert audit.health().dropped == 1
        await audit.flush()
        assert drops(config) == [("invalid_event", {"http.request": 1})]


async def test_losses_between_two_commits_are_one_record(config_for: ConfigFor) -> None:
    """A storm of losses fills no trail: those of one reason that come together are one record."""
    config = config_for(flush_mode=Batched(size=1000, interval=60))
    async with AuditLogger(config) as audit:
        audit.emit(Counted(producer="p", n=0))
        for _ in range(500):
            audit.count_lost("log.recorded", "invalid_event")
            audit.count_lost("http.request", "log_closed")
    assert sorted(drops(config)) == [("invalid_event", {"log.recorded": 500}), ("log_closed", {"http.request": 500})]


async def test_a_thread_may_count_a_loss(config_for: ConfigFor) -> None:
    """From another thread than the log's it is the same."""
    config = config_for()
    async with AuditLogger(config) as audit:
        await audit.flush()
        await anyio.to_thread.run_sync(audit.count_lost, "log.recorded", "invalid_event")
        await audit.flush()
        assert drops(config) == [("invalid_event", {"log.recorded": 1})]


@pytest.mark.filterwarnings("ignore:audit log:ResourceWarning")
def test_a_loss_that_is_counted_after_the_end_of_the_loop_is_recorded_at_the_closing(config_for: ConfigFor) -> None:
    """Nothing writes any more, so nothing may count as recorded; whoever closes the log then records it."""
    config = config_for()
    audit = AuditLogger(config)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(audit.start())
    loop.close()
    thread = Thread(target=audit.count_lost, args=("log.recorded", "invalid_event"))
    thread.start()
    thread.join()
    audit.count_lost("http.request", "emit_failed")
    asyncio.run(audit.aclose())
    assert sorted(drops(config)) == [("emit_failed", {"http.request": 1}), ("invalid_event", {"log.recorded": 1})]


async def test_what_is_lost_before_the_start_and_after_the_end_counts(config_for: ConfigFor) -> None:
    """Without an open log a loss is counted all the same, and the next commit of this logger records it."""
    config = config_for()
    audit = AuditLogger(config)
    audit.count_lost("http.request", "log_closed")
    assert (audit.stats().dropped, audit.health().dropped) == (1, 1)
    async with audit:
        pass
    assert drops(config) == [("log_closed", {"http.request": 1})]
    audit.count_lost("http.request", "log_closed")
    assert (audit.stats().dropped, audit.health().dropped) == (2, 2)


async def test_a_disabled_log_loses_nothing() -> None:
    """What is not recorded on purpose is no loss."""
    async with AuditLogger(AuditConfig(mode=Disabled(), service_id="orders")) as audit:
        audit.count_lost("http.request", "invalid_event")
        assert (audit.stats().dropped, audit.health().dropped) == (0, 0)
