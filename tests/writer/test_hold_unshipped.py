"""`hold_unshipped`: a host deletes and encrypts nothing that collectors have not confirmed in enough places."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit_async import AuditConfig, AuditLogger, HealthStatus, Local
from audit_async._layout.confirmed_file import Confirmed, ConfirmedCopy, encode_confirmed
from audit_async._layout.manifest import read_manifest
from audit_async._store.archiving import Archive, compress_segment
from audit_async._writer import upkeep
from audit_async.config import RetentionPolicy, RotationPolicy
from tests.age_keys import RECIPIENT
from tests.logs import failure, log_directory

pytestmark = pytest.mark.anyio

LATER = datetime.now(UTC) + timedelta(days=40)


def config_of(base: Path, **retention: object) -> AuditConfig:
    """Return a configuration by which everything that is sealed is due in `LATER`."""
    policy: dict[str, object] = {
        "min_retention_days": 1, "archive_after_days": 20, "delete_after_days": 30, "automatic": False,
        "hold_unshipped": True, **retention,
    }  # fmt: skip
    return AuditConfig(
        mode=Local(base), service_id="orders", instance="00",
        rotation=RotationPolicy(max_bytes=4096), retention=RetentionPolicy(**policy),  # type: ignore[arg-type]
    )  # fmt: skip


def log_id_of(directory: Path) -> str:
    """Return a log's log_id."""
    log_id: str = msgspec.json.decode((directory / "log.json").read_bytes())["log_id"]
    return log_id


def confirm(directory: Path, log_id: str, *seqs: int, days: int = 7, copies: int = 1) -> None:
    """Write what a forwarder writes once it has verified the collectors' confirmations."""
    expires = datetime.now(UTC) + timedelta(days=days)
    copied = tuple(
        ConfirmedCopy(collector=f"c{number}", seq=seq, hash="0" * 64, copies=copies, expires_at=expires)
        for number, seq in enumerate(seqs)
    )
    (directory / "confirmed.json").write_bytes(encode_confirmed(Confirmed(log_id=log_id, confirmed=copied)))


async def actions(audit: AuditLogger) -> list[tuple[str, int]]:
    """Return what the policy would do later, with the last record of each segment."""
    report = await audit.apply_retention(dry_run=True, at=LATER)
    entries = {entry.segment: entry.last_seq for entry in read_manifest(audit.directory or Path())}
    return [(step.action, entries[step.segment]) for step in report.steps]


async def test_nothing_goes_that_is_not_confirmed_in_two_places(tmp_path: Path) -> None:
    """One collector is not enough, nor an expired confirmation, another log's or a damaged file; compressing is."""
    async with AuditLogger(config_of(tmp_path)) as audit:
        for number in range(60):
            await audit.emit_durable(failure(number))
        directory = log_directory(audit.config)
        sealed = read_manifest(directory)
        last = sealed[-1].last_seq
        log_id = log_id_of(directory)
        nothing_goes = [("archive", entry.last_seq) for entry in sealed]
        assert len(sealed) > 3
        assert await actions(audit) == nothing_goes
        assert "not confirmed them in 2 places" in (audit.health().reason or "")
        for wrong in (
            lambda: confirm(directory, log_id, last),
            lambda: confirm(directory, log_id, last, last, days=-1),
            lambda: confirm(directory, "other", last, last),
            lambda: (directory / "confirmed.json").write_bytes(b"{"),
        ):
            wrong()
            assert await actions(audit) == nothing_goes
        confirm(directory, log_id, last, sealed[1].last_seq)
        deleted = [("delete", entry.last_seq) for entry in sealed[:2]]
        assert await actions(audit) == [*deleted, *nothing_goes[2:]]
        confirm(directory, log_id, last, copies=2)
        assert await actions(audit) == [("delete", entry.last_seq) for entry in sealed]
        assert audit.health().status is HealthStatus.OK
        assert "places" not in (audit.health().reason or "")


async def test_archives_are_not_encrypted_before_they_are_confirmed(tmp_path: Path) -> None:
    """The forwarder could not read them any more."""
    config = config_of(tmp_path, archive_recipients=(RECIPIENT,), min_copies=1)
    async with AuditLogger(config) as audit:
        for number in range(40):
            await audit.emit_durable(failure(number))
        directory = log_directory(audit.config)
        sealed = read_manifest(directory)
        assert await actions(audit) == []
        confirm(directory, log_id_of(directory), sealed[0].last_seq)
        assert await actions(audit) == [("delete", sealed[0].last_seq)]


async def test_a_confirmation_that_is_withdrawn_meanwhile_counts_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for again after the copy was made, which may take long, and before the records go."""
    config = config_of(tmp_path, archive_recipients=(RECIPIENT,), archive_after_days=0, min_copies=1)
    async with AuditLogger(config) as audit:
        for number in range(20):
            await audit.emit_durable(failure(number))
        directory = log_directory(audit.config)
        confirm(directory, log_id_of(directory), 10**6)

        def compress(*arguments: Any, **settings: Any) -> Archive:
            (directory / "confirmed.json").unlink(missing_ok=True)
            return compress_segment(*arguments, **settings)

        monkeypatch.setattr(upkeep, "compress_segment", compress)
        report = await audit.apply_retention()
        assert report.steps
        assert all("not confirmed in 1 places" in (step.error or "") for step in report.steps)
        assert {entry.state for entry in read_manifest(directory)} == {"live"}
