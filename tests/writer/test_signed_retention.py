"""Retention of a log that is signed: what the tree needs outlives the segments, whatever comes in between."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import RLock
from typing import Final

import anyio
import pytest

from audit_async import (
    AuditConfig,
    AuditLogger,
    ConfigError,
    Local,
    RetentionPolicy,
    RotationPolicy,
    Transparency,
)
from audit_async._durable import disk
from audit_async._layout.manifest import read_manifest
from audit_async._trail.log_files import TrailUnreadable
from audit_async._writer.session import Session
from audit_async.reader import AuditReader
from audit_async.tlog import ExternalKey, Policy, SignedCheckpoint, load_signer, new_key, write_key
from tests.logs import Counted, log_directory
from tests.store.chained import memory_directory
from tests.tlog.trees import Cosigner, mth
from tests.tlog.witness_server import Answer, Witness, serving

pytestmark = pytest.mark.anyio

ORIGIN: Final = "example.com/orders/00"
#: All that is older than a day goes, however it is archived.
EVERYTHING: Final = RetentionPolicy(min_retention_days=1, archive_after_days=1, delete_after_days=1, automatic=False)
#: A few records fill one.
SMALL: Final = RotationPolicy(max_bytes=1500)
#: What a store and a tree call to change the disk.
CHANGES: Final = ("create_file", "rename", "unlink", "write_at", "write_and_sync_at")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Give a new signing key's file."""
    path = tmp_path / "key.pem"
    write_key(path, new_key())
    return path


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """Give a directory in memory, for tests that open hundreds of logs."""
    with memory_directory() as directory:
        yield directory


def signing(base_dir: Path, key: object, **settings: object) -> AuditConfig:
    """Return the configuration of a log that signs, only when asked to or closed, and deletes what is a day old."""
    given = {"key": key, "origin": ORIGIN, "interval": 3600.0} | settings
    return unsigned(base_dir, transparency=Transparency(**given))  # type: ignore[arg-type]  # tests name what exists


def unsigned(base_dir: Path, **settings: object) -> AuditConfig:
    """Return the configuration of the same log without signatures."""
    given = {"mode": Local(base_dir), "service_id": "orders", "instance": "00", "handle_signals": False}
    return AuditConfig(**(given | {"rotation": SMALL, "retention": EVERYTHING} | settings))  # type: ignore[arg-type]


async def write(config: AuditConfig, events: int, *, first: int = 0) -> None:
    """Write events in one session, which closes in order."""
    async with AuditLogger(config) as audit:
        for n in range(first, first + events):
            await audit.emit_durable(Counted(producer="p", n=n))


def later(audit: AuditLogger, days: int = 3) -> None:
    """Let retention believe that it is some days later."""
    assert audit._session is not None
    audit._session.upkeep._now = lambda: datetime.now(UTC) + timedelta(days=days)
    audit._session.upkeep._jumped_s = float("inf")


def record_hashes(config: AuditConfig) -> dict[int, bytes]:
    """Return the hashes of the records that are in live segments, by sequence number."""
    hashes = {}
    for path in sorted(log_directory(config).glob("*.audit")):
        for line in path.read_bytes().splitlines():
            record = json.loads(line)
            hashes[record["seq"]] = bytes.fromhex(record["hash"])
    return hashes


def states(config: AuditConfig) -> list[str]:
    """Return the states of the sealed segments, oldest first."""
    return [entry.state for entry in read_manifest(log_directory(config))]


def published(config: AuditConfig) -> SignedCheckpoint:
    """Return the checkpoint that a log shows."""
    return SignedCheckpoint.parse((log_directory(config) / "tlog" / "checkpoint").read_bytes())


async def check_signed(config: AuditConfig, known: dict[int, bytes], key: Path) -> None:
    """Check that what is published is the tree over every record there ever was, and that the trail verifies."""
    hashes = known | record_hashes(config)
    checkpoint = published(config).checkpoint
    assert checkpoint.root == mth([hashes[seq] for seq in range(checkpoint.size)])
    assert isinstance(config.mode, Local)
    policy = Policy.of([load_signer(key, origin=ORIGIN).key])
    report = await AuditReader(config.mode.base_dir).verify(policy=policy, processes=1)
    assert report.valid, report.findings


class Crashes:
    """Copies of a log's directory as it was before each call that changes the disk: what a kill there leaves."""

    def __init__(self, directory: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies: list[Path] = []
        self._directory = directory
        self._into = into
        self._lock = RLock()  # the calls come from the writer's disk thread and from the tree's
        self.armed = False
        for name in CHANGES:
            monkeypatch.setattr(disk, name, self._copying(name, getattr(disk, name)))

    def _copying(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def copy_and_call(*args: object, **kwargs: object) -> object:
            with self._lock:
                if self.armed:
                    self.copy(name)
                return call(*args, **kwargs)

        return copy_and_call

    def copy(self, name: str) -> None:
        """Copy the directory as it is now."""
        with self._lock:
            copy = self._into / f"{len(self.copies):03}-{name}"
            shutil.copytree(self._directory, copy / "orders" / "00")
            self.copies.append(copy)


async def test_a_crash_at_any_moment_of_retention_leaves_a_log_that_opens_and_signs(
    in_memory: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed in order and signed, opened later, retention applied, killed before the next checkpoint or anywhere."""
    config = signing(in_memory / "audit", key)
    await write(config, 5)
    known_before = known = record_hashes(config)
    # The next session's first record begins a new segment, so the tree ends with a segment that may go.
    monkeypatch.setattr("audit_async._writer.intake.time_ns", lambda: time.time_ns() + 3 * 86_400 * 10**9)
    crashes = Crashes(log_directory(config), in_memory / "crashes", monkeypatch)
    async with AuditLogger(config) as audit:
        later(audit)
        await audit.flush()
        known = known | record_hashes(config)
        crashes.armed = True
        report = await audit.apply_retention()
        crashes.armed = False
        assert report.ok
        assert [step.action for step in report.steps] == ["delete"] * len(report.steps)
        assert len(report.steps) >= 2
        crashes.copy("end")
        assert published(config).checkpoint.size == len(known_before) == report.steps[-1].last_seq + 1
    assert len(crashes.copies) > 20
    assert states(signing(crashes.copies[-1], key))[:2] == ["deleted"] * 2
    for copy in crashes.copies:
        again = signing(copy, key)
        before = record_hashes(again)
        await write(again, 1, first=100)
        await check_signed(again, known | before, key)
    await check_signed(config, known, key)


async def test_a_segment_goes_only_after_the_checkpoint_that_covers_it(tmp_path: Path, key: Path) -> None:
    """While the key can't sign, segments stay and the outcome says why; the next run signs first, then deletes."""
    signer = load_signer(key, origin=ORIGIN)
    locked = True

    def sign(message: bytes) -> bytes:
        if locked:
            raise RuntimeError
        made = signer.sign(message)
        assert isinstance(made, bytes)
        return made

    config = signing(tmp_path / "audit", ExternalKey(public_key=signer.key.public_key, sign=sign))
    await write(config, 12)
    before = states(config)
    known = record_hashes(config)
    async with AuditLogger(config) as audit:
        later(audit)
        report = await audit.apply_retention()
        assert not report.ok
        assert all("the signed tree does not cover it yet" in str(step.error) for step in report.steps)
        assert states(config)[: len(before)] == before
        locked = False
        report = await audit.apply_retention()
        assert report.ok
        assert published(config).checkpoint.size > report.steps[-1].last_seq
        assert states(config)[: len(before)] == ["deleted"] * len(before)
    await check_signed(config, known, key)


async def test_with_a_policy_a_segment_waits_for_the_witnesses(tmp_path: Path, key: Path) -> None:
    """What nobody can see published yet is not deleted."""
    with serving(Witness(Cosigner(1), load_signer(key, origin=ORIGIN).key)) as witness:
        witness.instead = lambda _: Answer(500)
        policy = tmp_path / "policy"
        log_key = load_signer(key, origin=ORIGIN).key
        policy.write_text(f"log {log_key}\nwitness w {witness.cosigner.key} {witness.url}\nquorum w\n")
        config = signing(tmp_path / "audit", key, policy=policy, witness_timeout=0.2)
        await write(config, 12)
        async with AuditLogger(config) as audit:
            later(audit)
            report = await audit.apply_retention()
            assert not report.ok
            assert "quorum" in str(report.steps[0].error)
            assert "deleted" not in states(config)
            witness.instead = lambda _: None
            with anyio.fail_after(60):
                while not (await audit.apply_retention()).ok:
                    await anyio.sleep(0.05)
            assert states(config)[0] == "deleted"


async def test_transparency_is_refused_for_a_log_that_has_deleted_records(tmp_path: Path, key: Path) -> None:
    """Deleted first, switched on later: the start says what to do, and another instance signs from its first record."""
    config = unsigned(tmp_path / "audit")
    await write(config, 12)
    async with AuditLogger(config) as audit:
        later(audit)
        assert (await audit.apply_retention()).ok
    with pytest.raises(ConfigError, match=r"records 0 to \d+ are deleted.* Set `instance`"):
        await AuditLogger(signing(tmp_path / "audit", key)).start()
    await write(config, 1)  # it was unlocked, and goes on unsigned
    other = Transparency(key=key, origin="example.com/orders/01")
    async with AuditLogger(unsigned(tmp_path / "audit", instance="01", transparency=other)) as audit:
        assert (await audit.checkpoint()).checkpoint.size > 0


async def test_transparency_can_be_switched_on_while_all_records_are_there(tmp_path: Path, key: Path) -> None:
    """Switched on before anything is deleted, the tree begins at record 0, and retention goes on."""
    await write(unsigned(tmp_path / "audit"), 12)
    config = signing(tmp_path / "audit", key)
    known = record_hashes(config)
    async with AuditLogger(config) as audit:
        later(audit)
        assert (await audit.apply_retention()).ok
        known |= record_hashes(config)
    assert states(config)[0] == "deleted"
    await check_signed(config, known, key)


async def test_a_signed_log_that_is_opened_without_transparency_keeps_what_its_tree_needs(
    tmp_path: Path, key: Path
) -> None:
    """Switched off, deleted, switched on again: only what the tree has goes, and so it can be continued."""
    config = signing(tmp_path / "audit", key)
    await write(config, 6)
    covered = published(config).checkpoint.size
    await write(unsigned(tmp_path / "audit"), 12, first=6)
    known = record_hashes(config)
    async with AuditLogger(unsigned(tmp_path / "audit")) as audit:
        later(audit)
        report = await audit.apply_retention()
    done = [step for step in report.steps if step.done]
    kept = [step for step in report.steps if not step.done]
    assert done
    assert kept
    assert all(step.last_seq < covered for step in done)
    assert all(f"ends at record {covered - 1}" in str(step.error) for step in kept)
    await write(config, 1)
    await check_signed(config, known, key)


async def test_a_tree_that_is_given_up_holds_nothing_back(tmp_path: Path, key: Path) -> None:
    """With `tlog/` moved away, as the error advises, retention deletes as in any other log."""
    await write(signing(tmp_path / "audit", key), 3)
    config = unsigned(tmp_path / "audit")
    await write(config, 12)
    shutil.move(log_directory(config) / "tlog", tmp_path / "kept")
    async with AuditLogger(config) as audit:
        later(audit)
        assert (await audit.apply_retention()).ok


async def _no_cover(_: Session, __: int) -> None:
    """Delete as earlier releases did: without asking the tree."""


async def test_logs_that_earlier_releases_have_left_open_where_they_can(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the tree ends inside a deleted segment, the start says what to do."""
    config = signing(tmp_path / "audit", key)
    await write(config, 12)
    known = record_hashes(config)
    monkeypatch.setattr(Session, "_cover", _no_cover)
    async with AuditLogger(unsigned(tmp_path / "audit")) as audit:  # seals what the tree ends in
        for n in range(12):
            await audit.emit_durable(Counted(producer="q", n=n))
        known |= record_hashes(config)
        ends = {entry.last_seq + 1 for entry in read_manifest(log_directory(config))}
        later(audit)
        assert (await audit.apply_retention()).ok
        shutil.copytree(log_directory(config), tmp_path / "killed" / "orders" / "00")
    assert published(config).checkpoint.size not in ends
    with pytest.raises(ConfigError, match="the signed tree ends at record"):
        await AuditLogger(signing(tmp_path / "killed", key)).start()


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
async def test_one_error_on_a_directory_does_not_stop_the_signing(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A listing that fails once, in the middle of reading, fails one checkpoint; the next is over every record."""
    config = signing(tmp_path / "audit", key)
    log, real, listings = log_directory(config), os.listdir, []

    def failing(path: object) -> list[str]:
        if path == log:
            listings.append(path)
            if len(listings) == 3:
                raise OSError(number, "for once")
        return real(path)  # type: ignore[call-overload, no-any-return]  # passed on

    async with AuditLogger(config) as audit:
        for n in range(20):
            receipt = await audit.emit_durable(Counted(producer="p", n=n))
        monkeypatch.setattr(os, "listdir", failing)
        with anyio.fail_after(60):
            with pytest.raises(TrailUnreadable, match="for once"):
                await audit.checkpoint()
            signed = await audit.checkpoint()
            known = record_hashes(config)
            assert signed.checkpoint.size > receipt.seq
            assert signed.checkpoint.root == mth([known[seq] for seq in range(signed.checkpoint.size)])
    await check_signed(config, known, key)
