"""A crash seen from outside: what it left is put aside, and the chain tells of it."""

from __future__ import annotations

import hashlib
import json

import anyio
import pytest

from audit_async import AuditLogger, Batched, LogCorrupted
from tests.logs import ConfigFor, failure, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


async def test_a_torn_line_is_put_aside_and_recorded(config_for: ConfigFor) -> None:
    """Whole records are kept; the torn tail is under torn/, byte for byte, and `audit.log_recovered` names it."""
    config = config_for()
    async with AuditLogger(config) as audit:
        audit.emit(failure(1))
    (segment,) = log_directory(config).glob("*.audit")
    torn = b'{"seq":3,"audit_id":"00112233445566'
    with segment.open("ab") as file:
        file.write(torn)
    async with AuditLogger(config) as audit:
        audit.emit(failure(2))
    events = [record["event"] for record in read_events(log_directory(config))]
    (recovered,) = (event for event in events if event["event_type"] == "audit.log_recovered")
    assert recovered["torn_bytes"] == len(torn)
    assert recovered["torn_sha256"] == hashlib.sha256(torn).hexdigest()
    assert (log_directory(config) / recovered["torn_file"]).read_bytes() == torn
    assert [event["path"] for event in events if "path" in event] == ["/login/1", "/login/2"]
    check_trail(log_directory(config))


async def test_damage_in_the_middle_is_refused_and_left_alone(config_for: ConfigFor) -> None:
    """One changed byte before the last line is no crash: opening names the place, and changes nothing on disk."""
    config = config_for()
    async with AuditLogger(config) as audit:
        for n in range(3):
            audit.emit(failure(n))
    (segment,) = log_directory(config).glob("*.audit")
    damaged = segment.read_bytes().replace(b"/login/1", b"/login/9")
    segment.write_bytes(damaged)
    with pytest.raises(LogCorrupted) as caught:
        await AuditLogger(config).start()
    assert (caught.value.segment, caught.value.line, caught.value.seq) == (segment.name, 3, 2)
    assert segment.read_bytes() == damaged
    assert not (log_directory(config) / "torn").exists()


async def test_a_tampered_last_line_is_no_torn_line(config_for: ConfigFor) -> None:
    """A last line that ends in a line feed was written whole; changed, it is refused, not put aside as torn."""
    config = config_for()
    async with AuditLogger(config) as audit:
        audit.emit(failure(1))
    (segment,) = log_directory(config).glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b'"audit.log_closed"', b'"audit.log_c1osed"'))
    with pytest.raises(LogCorrupted, match="hash"):
        await AuditLogger(config).start()


async def test_damage_that_the_last_commit_finds_is_told_by_the_next_session(config_for: ConfigFor) -> None:
    """What somebody did to a segment right before the log was closed is in the chain all the same, once."""
    config = config_for()
    async with AuditLogger(config) as audit:
        await audit.emit_durable(failure())
        (segment,) = log_directory(config).glob("*.audit")
        with segment.open("ab") as file:
            file.write(b"not ours")
    for _ in range(2):
        async with AuditLogger(config) as audit:
            audit.emit(failure())
    events = [json.loads(line)["event"] for path in sorted(log_directory(config).glob("*.audit"))
              if path != segment for line in path.read_bytes().splitlines()]  # fmt: skip
    (damaged,) = (event for event in events if event["event_type"] == "audit.segment_damaged")
    assert damaged["segment"] == segment.name


async def test_damage_is_told_once(config_for: ConfigFor) -> None:
    """Where a session has told of a damaged segment, its seal, which may come later, is no second finding."""
    config = config_for(flush_mode=Batched(size=1000, interval=60.0))
    async with AuditLogger(config) as audit:
        await audit.emit_durable(failure())
        (segment,) = log_directory(config).glob("*.audit")
        with segment.open("ab") as file:
            file.write(b"not ours")
        written = audit.stats().commits
        audit.emit(failure())
        with anyio.fail_after(60):
            while audit.stats().commits == written:
                await anyio.sleep(0.001)
        await audit.flush()
    async with AuditLogger(config):
        pass
    events = [json.loads(line)["event"] for path in sorted(log_directory(config).glob("*.audit"))
              if path != segment for line in path.read_bytes().splitlines()]  # fmt: skip
    told = [event["reason"] for event in events if event["event_type"] == "audit.segment_damaged"]
    assert told == ["grown"]
