"""From a running service through PostgreSQL to two collectors and back: only then may the host delete."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audit_async import AuditConfig, AuditLogger, Local, tlog
from audit_async.config import RetentionPolicy, RotationPolicy
from audit_async.forwarding import Forwarder, PostgresSink
from audit_async.forwarding.collector import Collector
from audit_async.reader import AuditReader
from audit_async.tlog.signing_keys import load_signer
from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.shipped_logs import files_of, identity_of
from tests.logs import failure, log_directory

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The server and the disk decide, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


async def forward_once(base_dir: Path, sink: PostgresSink, keys: list[str]) -> None:
    """Ship what is durable, as `audit-async forward --once` does."""
    await Forwarder(base_dir, sink, tenant="acme", host="web-1", collector_keys=keys).run_once()


async def test_a_host_deletes_what_two_collectors_have(engine: EngineOfTest, tmp_path: Path) -> None:
    """Not after it was shipped, not after one has it; and both have it byte for byte, next to a running service."""
    policy = RetentionPolicy(
        min_retention_days=1, archive_after_days=20, delete_after_days=30, automatic=False, hold_unshipped=True
    )
    config = AuditConfig(
        mode=Local(tmp_path / "host"), service_id="orders", instance="00",
        rotation=RotationPolicy(max_bytes=8192), retention=policy,
    )  # fmt: skip
    signers = []
    for name in ("c1", "c2"):
        tlog.write_key(tmp_path / f"{name}.pem", tlog.new_key())
        signers.append(load_signer(str(tmp_path / f"{name}.pem"), origin=name))
    keys = [str(signer.key) for signer in signers]
    later = datetime.now(UTC) + timedelta(days=40)

    async def deletes(audit: AuditLogger) -> int:
        report = await audit.apply_retention(dry_run=True, at=later)
        return sum(step.action == "delete" for step in report.steps)

    async with AuditLogger(config) as audit, await engine.sink() as host:
        for number in range(120):
            await audit.emit_durable(failure(number))
        await forward_once(tmp_path / "host", host, keys)
        due = [await deletes(audit)]
        for signer in signers:
            name = signer.key.name
            async with (
                await engine.sink(name, "collector") as sink,
                Collector(tmp_path / name, sink, tenant=engine.tenant, signer=signer) as collector,
            ):
                assert (await collector.collect()).findings == ()
            await forward_once(tmp_path / "host", host, keys)
            due.append(await deletes(audit))
        directory = log_directory(config)
        sealed = len(list(directory.glob("*.sha256")))
        assert due == [0, 0, sealed]
        assert sealed > 2
        path = identity_of(directory, "web-1", engine.tenant).path()
        for root in (tmp_path / "c1", tmp_path / "c2"):
            assert files_of(root / path) == files_of(directory)
            assert (await AuditReader(root).verify()).valid
