"""A log that ships itself: recording never waits for the engine, and who wants to wait can."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

import msgspec
import pytest

from audit_async import AuditConfig, AuditLogger, Disabled, Local
from audit_async.config import Forward
from audit_async.errors import ConfigError, LogClosed
from audit_async.forwarding import DirectorySink, SinkRefused
from audit_async.forwarding.confirmations import Confirmation, sign_confirmation
from audit_async.sync import SyncAuditLogger
from tests.forwarding.test_confirmations import made_signer
from tests.forwarding.test_forwarder import stored
from tests.logs import failure, segment_lines
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """A prepared directory as the engine."""
    root = tmp_path / "medium"
    root.mkdir()
    DirectorySink.prepare(root)
    return root


def config_in(tmp_path: Path, **forward: object) -> AuditConfig:
    """Return the configuration of a log that is shipped."""
    settings = {"to": f"file://{tmp_path}/medium", "tenant": "acme", "host": "web-1", "close_timeout": 60.0} | forward
    return AuditConfig(
        mode=Local(tmp_path / "audit"),
        service_id="orders",
        handle_signals=False,
        forward=Forward(**settings),  # type: ignore[arg-type]  # what a test gives
    )


def local(tmp_path: Path) -> bytes:
    """Return the log's bytes."""
    return b"".join(segment_lines(tmp_path / "audit" / "orders" / "00"))


async def in_engine(medium: Path) -> bytes:
    """Return what the engine has of the log."""
    async with DirectorySink(medium, tenant="acme") as sink:
        [log] = await sink.logs()
        return await stored(sink, log)


async def test_a_log_is_shipped_to_its_last_record(tmp_path: Path, medium: Path) -> None:
    """While it is open and as it is closed; the record's place is that in the chain."""
    async with AuditLogger(config_in(tmp_path)) as audit:
        receipt = audit.emit(failure())
        position = await receipt.replicated(by="engine", timeout_s=60)
        assert position == await receipt.durable()
        assert (await in_engine(medium)).count(b"\n") >= position.seq + 1
        for n in range(500):
            audit.emit(failure(n))
    assert await in_engine(medium) == local(tmp_path)
    async with AuditLogger(config_in(tmp_path)) as audit:
        audit.emit(failure())
    assert await in_engine(medium) == local(tmp_path)
    check_trail(tmp_path / "audit")


async def test_recording_does_not_wait_for_an_engine_that_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Records are durable as ever, closing waits a bounded time, says what is left, and the next start ships it."""
    async with AuditLogger(config_in(tmp_path, close_timeout=0.2)) as audit:
        for n in range(100):
            await audit.emit_durable(failure(n))
        with pytest.raises(TimeoutError):
            await audit.emit(failure()).replicated(by="engine", timeout_s=0.05)
        closing = time.monotonic()
    assert time.monotonic() - closing < 60
    assert "103 records are not shipped yet and stay in the log" in caplog.text
    (tmp_path / "medium").mkdir()
    DirectorySink.prepare(tmp_path / "medium")
    async with AuditLogger(config_in(tmp_path)):
        pass
    assert await in_engine(tmp_path / "medium") == local(tmp_path)


async def test_waiting_for_a_collector(tmp_path: Path, medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what `replicated` means unless it is asked otherwise: an engine is no evidence."""
    monkeypatch.setattr("audit_async.forwarding.shipping._LOOK_SOON_S", 0.01)
    signer = made_signer(tmp_path, "collector")
    async with AuditLogger(config_in(tmp_path, collector_keys=(str(signer.key),))) as audit:
        receipt = audit.emit(failure())
        position = await receipt.replicated(by="engine", timeout_s=60)
        with pytest.raises(TimeoutError):
            await receipt.replicated(timeout_s=0.1)
        async with DirectorySink(medium, tenant="acme") as sink:
            [log] = await sink.logs()
            made = Confirmation.of(log.log_id, position.seq, position.hash, collector="collector")
            await sink.confirm(log, await sign_confirmation(made, signer))
        assert await receipt.replicated(timeout_s=60) == position


async def test_what_can_not_be_waited_for_is_an_error(tmp_path: Path, medium: Path) -> None:
    """No engine, no collector's key, a log that was closed or refused: never a wait without an end."""
    async with AuditLogger(AuditConfig(mode=Local(tmp_path / "other"), service_id="orders")) as audit:
        with pytest.raises(ConfigError, match="forward"):
            await audit.emit(failure()).replicated()
    async with AuditLogger(config_in(tmp_path)) as audit:
        with pytest.raises(ConfigError, match="no collector is known"):
            await audit.emit(failure()).replicated()
    shutil.rmtree(medium)
    async with AuditLogger(config_in(tmp_path, close_timeout=0.05)) as audit:
        waiting = asyncio.create_task(audit.emit(failure()).replicated(by="engine"))
        await audit.flush()
    with pytest.raises(LogClosed, match="not shipped any more"):
        await waiting
    async with AuditLogger(AuditConfig(mode=Disabled())) as audit:
        assert (await audit.emit(failure()).replicated()).seq == -1


async def test_a_log_that_is_refused_says_so_in_its_health_and_in_its_chain(tmp_path: Path, medium: Path) -> None:
    """It is written as before; who waits for the engine gets the reason."""
    async with AuditLogger(config_in(tmp_path)) as audit:
        audit.emit(failure())
    batch = max(medium.rglob("*.lines"))
    batch.rename(batch.with_name(batch.name[:26] + "f" * 64 + ".lines"))
    async with AuditLogger(config_in(tmp_path)) as audit:
        with pytest.raises(SinkRefused, match="has the hash"):
            await audit.emit(failure()).replicated(by="engine", timeout_s=60)
        for _ in range(3):  # also of a record whose place in the engine another one has
            with pytest.raises(SinkRefused):
                await audit.emit(failure()).replicated(by="engine", timeout_s=60)
        async with asyncio.timeout(60):
            while "forwarding" not in str(audit.health()):
                await asyncio.sleep(0.05)
        await audit.emit_durable(failure())
    kinds = [event["event"].get("kind") for event in read_events(tmp_path / "audit")]
    assert kinds.count("fork") == 1


def test_a_synchronous_log_is_shipped_as_well(tmp_path: Path, medium: Path) -> None:
    """Its receipts block, and closing waits for the engine."""
    with SyncAuditLogger(config_in(tmp_path)) as audit:
        receipt = audit.emit(failure())
        assert receipt.wait_replicated(60, by="engine") == receipt.wait()
        with pytest.raises(ConfigError):
            receipt.wait_replicated(30)
        audit.emit(failure())
    assert asyncio.run(in_engine(medium)) == local(tmp_path)


def test_settings_come_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    """With their ordinary names."""
    file = tmp_path / "audit.toml"
    file.write_text(
        'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "audit"\n'
        '[forward]\nto = "nats://db.example:4222?nkey=/etc/key"\ntenant = "acme"\ncollector_keys = ["c+id+key"]\n'
    )
    expected = Forward(to="nats://db.example:4222?nkey=/etc/key", tenant="acme", collector_keys=("c+id+key",))
    assert AuditConfig.load(file).forward == expected
    variables = {
        "AUDIT_BASE_DIR": "/tmp/audit",
        "AUDIT_SERVICE_ID": "orders",
        "AUDIT_FORWARD_TO": "postgres://role@db.example/audit?passfile=/etc/pass",
        "AUDIT_FORWARD_TENANT": "acme",
        "AUDIT_FORWARD_CLOSE_TIMEOUT": "1.5",
    }
    forward = AuditConfig.from_env(environ=variables).forward
    assert forward == Forward(to=variables["AUDIT_FORWARD_TO"], tenant="acme", close_timeout=1.5)
    assert json.loads(msgspec.json.encode(forward))["close_timeout"] == 1.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"to": "postgres://role:hunter2@db/audit"},
        {"to": "nats://hunter2@db"},
        {"to": "https://hunter2"},
        {"to": "hunter2"},
        {"tenant": ""},
        {"tenant": "a/b"},
        {"host": "a\nb"},
        {"close_timeout": 0},
    ],
)
def test_what_is_wrong_is_refused_and_no_secret_is_in_the_message(wrong: dict[str, object]) -> None:
    """As early as the configuration: its URL is printed by commands, so it holds no password."""
    with pytest.raises(ConfigError, match=rf"forward\.{next(iter(wrong))}") as error:
        Forward(**({"to": "file:///medium", "tenant": "acme"} | wrong))  # type: ignore[arg-type]  # what is refused
    assert "hunter2" not in str(error.value)


async def test_an_engine_that_can_not_be_opened_is_said_before_the_log_is(tmp_path: Path) -> None:
    """Nothing is made on the disk."""
    with pytest.raises(ConfigError, match="collector_keys"):
        async with AuditLogger(config_in(tmp_path, collector_keys=("nonsense",))):
            pass
    assert not (tmp_path / "audit").exists()
