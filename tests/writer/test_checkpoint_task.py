"""A log that signs checkpoints of itself: when it does, what they cover, what it refuses; evidence for one record."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import threading
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from audit_async import (
    AuditConfig,
    AuditLogger,
    ConfigError,
    LogClosed,
    RotationPolicy,
    Transparency,
)
from audit_async._chain import check_record
from audit_async._query.lookup import RecordNotFound
from audit_async._trail.record_hashes import RecordHashes
from audit_async._writer.checkpoint_task import CheckpointLog
from audit_async.config.transparency import ExternalKey
from audit_async.events.lifecycle import AuditCheckpoint
from audit_async.logger.open_session import checkpoints_of
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.failures import InvalidProof, KeyUnavailable, LogForked, LogRolledBack
from audit_async.tlog.notes import VerifierKey
from audit_async.tlog.policy import Policy
from audit_async.tlog.proof import TlogProof, verify_proof
from audit_async.tlog.signed_tree import SignedTree
from audit_async.tlog.signing_keys import load_signer, new_key, write_key
from tests.logs import ConfigFor, Counted, log_directory, segment_lines
from tests.tlog.trees import Cosigner, mth
from tests.tlog.witness_server import Answer, Witness, serving
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio

ORIGIN = "example.com/orders/00"
OFTEN = 0.02  # seconds


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Give a new signing key's file."""
    path = tmp_path / "key.pem"
    write_key(path, new_key())
    return path


@pytest.fixture
def signing(config_for: ConfigFor, key: Path) -> Callable[..., AuditConfig]:
    """Return a maker of configurations of a log that signs; settings of both kinds by name."""

    def make(**settings: object) -> AuditConfig:
        transparency: dict[str, object] = {"key": key, "origin": ORIGIN, "interval": 3600.0}
        given = {name: settings.pop(name) for name in list(settings) if name in Transparency.__struct_fields__}
        signed = Transparency(**(transparency | given))  # type: ignore[arg-type]  # each test names settings that exist
        return config_for(transparency=signed, instance="00", **settings)

    return make


def leaves(config: AuditConfig) -> list[bytes]:
    """Return the leaves of the log's tree, the hashes of all records, from the records' own bytes."""
    head = None
    hashes = []
    for line in segment_lines(log_directory(config)):
        head = check_record(line, head).head
        hashes.append(bytes.fromhex(head.hash.decode()))
    return hashes


def published(config: AuditConfig) -> SignedCheckpoint:
    """Return the checkpoint that a log shows."""
    return SignedCheckpoint.parse((log_directory(config) / "tlog" / "checkpoint").read_bytes())


def policy_of(config: AuditConfig) -> Policy:
    """Return the policy that trusts the log's own key."""
    return Policy.of([VerifierKey.parse((log_directory(config) / "tlog" / "vkey").read_text().strip())])


def told(config: AuditConfig, kind: str) -> list[dict[str, object]]:
    """Return the events of a type."""
    return [r["event"] for r in read_events(log_directory(config)) if r["event"]["event_type"] == kind]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    with anyio.fail_after(60):
        while not condition():
            await anyio.sleep(0.005)


async def test_the_last_checkpoint_covers_the_whole_log(signing: Callable[..., AuditConfig]) -> None:
    """After an orderly end the published checkpoint is over every record, `audit.log_closed` included, and signed."""
    config = signing()
    async with AuditLogger(config) as audit:
        for n in range(600):
            audit.emit(Counted(producer="p", n=n))
    signed = published(config)
    assert (signed.checkpoint.origin, signed.checkpoint.size) == (ORIGIN, 602)
    assert signed.checkpoint.root == mth(leaves(config))
    policy_of(config).verify(signed.encode())
    check_trail(log_directory(config))


async def test_each_checkpoint_is_in_the_chain(signing: Callable[..., AuditConfig]) -> None:
    """Size, root and note of each checkpoint are recorded; that of the orderly end by the next session."""
    config = signing()
    async with AuditLogger(config) as audit:
        for n in range(3):
            await audit.emit_durable(Counted(producer="p", n=n))
            await audit.checkpoint()
    async with AuditLogger(config) as audit:
        await audit.flush()
    all_leaves = leaves(config)
    events = told(config, "audit.checkpoint")
    assert [event["size"] for event in events] == [2, 4, 6, 8]
    for event in events:
        signed = SignedCheckpoint.parse(str(event["note"]).encode())
        assert (signed.checkpoint.size, signed.checkpoint.root.hex()) == (event["size"], event["root"])
        assert signed.checkpoint.root == mth(all_leaves[: signed.checkpoint.size])


async def test_a_checkpoint_is_made_after_the_interval(signing: Callable[..., AuditConfig]) -> None:
    """A new record is covered after the interval, and a log without new records makes no more checkpoints."""
    config = signing(interval=OFTEN)
    async with AuditLogger(config) as audit:
        receipt = audit.emit(Counted(producer="p", n=0))
        await until((log_directory(config) / "tlog" / "checkpoint").exists)
        await until(lambda: published(config).checkpoint.size > receipt.seq > 0)
        await anyio.sleep(10 * OFTEN)  # its own records ask for none
        await audit.flush()
        assert len(told(config, "audit.checkpoint")) <= 2


async def test_a_checkpoint_is_made_after_so_many_records(signing: Callable[..., AuditConfig]) -> None:
    """`every` counts new records."""
    config = signing(every=10)
    async with AuditLogger(config) as audit:
        for n in range(8):
            audit.emit(Counted(producer="p", n=n))
        await audit.flush()
        assert told(config, "audit.checkpoint") == []
        for n in range(10):
            audit.emit(Counted(producer="p", n=n))
        await until((log_directory(config) / "tlog" / "checkpoint").exists)
        await until(lambda: len(told(config, "audit.checkpoint")) == 1)


async def test_a_checkpoint_is_made_at_a_rotation(signing: Callable[..., AuditConfig]) -> None:
    """When a segment is sealed, what is in it is signed."""
    config = signing(rotation=RotationPolicy(max_bytes=1100))
    async with AuditLogger(config) as audit:
        for n in range(9):
            await audit.emit_durable(Counted(producer="p", n=n))
        await until(lambda: len(told(config, "audit.checkpoint")) > 0)


async def test_the_tree_follows_the_records_and_a_checkpoint_does_not_wait_for_it(
    signing: Callable[..., AuditConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """New records come into the tree in pieces, with rests between; a checkpoint is over all of them at once."""
    monkeypatch.setattr("audit_async._writer.checkpoint_task._PIECE", 1)
    monkeypatch.setattr("audit_async._writer.checkpoint_task._LOOK_S", OFTEN)
    config = signing()
    async with AuditLogger(config) as audit:
        tree = checkpoints_of(audit._session, audit._buffer)
        for n in range(20):
            audit.emit(Counted(producer="p", n=n))
        await audit.flush()
        await until(lambda: tree._tree.size == 21)
        assert told(config, "audit.checkpoint") == []
        monkeypatch.setattr("audit_async._writer.checkpoint_task._MOST_BEHIND", 1 << 40)
        for n in range(300):
            audit.emit(Counted(producer="p", n=n))
        await audit.flush()
        assert (await audit.checkpoint()).checkpoint.size == 321
    check_trail(log_directory(config))


async def test_evidence_for_one_record(signing: Callable[..., AuditConfig]) -> None:
    """A proof is had by receipt or audit_id, verifies without the log, and for no other record."""
    config = signing()
    async with AuditLogger(config) as audit:
        receipts = [audit.emit(Counted(producer="p", n=n)) for n in range(300)]
        proof = await audit.prove(receipts[17])
        assert (await audit.prove(receipts[17].audit_id)).encode() == proof.encode()
        with pytest.raises(RecordNotFound):
            await audit.prove("0" * 16 + "-1")
    evidence, policy = TlogProof.parse(proof.encode()), policy_of(config)
    line = segment_lines(log_directory(config))[receipts[17].seq]
    record_hash = bytes.fromhex(json.loads(line)["hash"])
    verified = verify_proof(evidence, index=receipts[17].seq, record_hash=record_hash, policy=policy)
    assert verified.checkpoint.size > receipts[17].seq
    other = bytes.fromhex(receipts[18].hash)
    with pytest.raises(InvalidProof):
        verify_proof(evidence, index=receipts[17].seq, record_hash=other, policy=policy)


async def test_it_goes_on_after_a_restart(signing: Callable[..., AuditConfig]) -> None:
    """The tree of the next session continues the one before, from its tiles."""
    config = signing()
    for session in range(3):
        async with AuditLogger(config) as audit:
            for n in range(200):
                audit.emit(Counted(producer=f"s{session}", n=n))
    signed = published(config)
    assert signed.checkpoint.root == mth(leaves(config))
    assert signed.checkpoint.size == len(leaves(config))


async def test_a_log_that_came_back_from_a_backup_does_not_open(
    signing: Callable[..., AuditConfig], tmp_path: Path
) -> None:
    """With a guard elsewhere, an older copy of log and tiles is found out, and nothing is written to it."""
    config = signing(guard=tmp_path / "guard")
    log = log_directory(config)
    async with AuditLogger(config) as audit:
        await audit.emit_durable(Counted(producer="p", n=0))
    shutil.copytree(log, tmp_path / "backup")
    async with AuditLogger(config) as audit:
        await audit.emit_durable(Counted(producer="p", n=1))
    shutil.rmtree(log)
    shutil.copytree(tmp_path / "backup", log)
    before = segment_lines(log)
    with pytest.raises(LogRolledBack):
        await AuditLogger(config).start()
    assert segment_lines(log) == before


async def test_a_log_with_another_history_does_not_open(signing: Callable[..., AuditConfig], tmp_path: Path) -> None:
    """Records that were replaced by as many others, with a valid chain, don't lead to what was signed."""
    config = signing()
    log = log_directory(config)
    async with AuditLogger(config) as audit:
        await audit.emit_durable(Counted(producer="p", n=0))
    shutil.move(log / "tlog", tmp_path / "tlog")
    shutil.rmtree(log)
    async with AuditLogger(signing(key=write_other(tmp_path))) as audit:
        await audit.emit_durable(Counted(producer="p", n=1))
    shutil.rmtree(log / "tlog")
    shutil.move(tmp_path / "tlog", log / "tlog")
    with pytest.raises(LogForked):
        await AuditLogger(config).start()


async def test_removing_the_tree_is_no_fresh_start(
    signing: Callable[..., AuditConfig], caplog: pytest.LogCaptureFixture
) -> None:
    """Where `tlog/` is gone it is made anew, and the checkpoints that the chain tells of must come out again."""
    config = signing()
    log = log_directory(config)
    for _ in range(2):
        async with AuditLogger(config) as audit:
            await audit.emit_durable(Counted(producer="p", n=0))
            await audit.checkpoint()
    before = published(config)
    shutil.rmtree(log / "tlog")
    async with AuditLogger(config) as audit:
        await audit.checkpoint()
        other = msgspec.structs.replace(told_typed(before), root="00" * 32)
        forged = str(other.note).replace(b64encode(before.checkpoint.root).decode(), b64encode(bytes(32)).decode())
        audit._intake.emit_on_record(msgspec.structs.replace(other, note=forged))
    assert published(config).checkpoint.root == mth(leaves(config))
    shutil.rmtree(log / "tlog")
    async with AuditLogger(config):
        await until(lambda: any("signs no more checkpoints" in record.message for record in caplog.records))
    assert not (log / "tlog" / "checkpoint").exists()


def told_typed(signed: SignedCheckpoint) -> AuditCheckpoint:
    """Return the event that tells of a checkpoint."""
    checkpoint = signed.checkpoint
    return AuditCheckpoint(size=checkpoint.size, root=checkpoint.root.hex(), note=signed.encode().decode())


def write_other(tmp_path: Path) -> Path:
    """Return the file of another key."""
    path = tmp_path / "other.pem"
    write_key(path, new_key())
    return path


async def test_a_change_of_the_key_is_recorded(signing: Callable[..., AuditConfig], key: Path, tmp_path: Path) -> None:
    """While a key is changed both sign; that the keys changed stands in the chain."""
    other = write_other(tmp_path)
    for keys in (key, (other, key), other):
        async with AuditLogger(signing(key=keys)) as audit:
            await audit.emit_durable(Counted(producer="p", n=0))
    changes = told(signing(), "audit.signing_keys_changed")
    counts = [(len(event["added"]), len(event["retired"])) for event in changes]  # type: ignore[arg-type]  # lists of text
    assert counts == [(1, 0), (0, 1)]


async def test_a_disk_that_fails_delays_checkpoints_only(
    signing: Callable[..., AuditConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While tiles can't be written records go on; afterwards the tree is opened again and goes on as well."""
    config = signing(interval=OFTEN)
    async with AuditLogger(config) as audit:
        with monkeypatch.context() as patch:
            failed = []

            def refuse(_: SignedTree) -> None:
                failed.append(1)
                raise OSError(errno.EIO, "Input/output error")

            patch.setattr(SignedTree, "prepare", refuse)
            receipts = [audit.emit(Counted(producer="p", n=n)) for n in range(300)]
            await until(lambda: len(failed) > 3)
            await receipts[-1].durable()
            assert audit.health().ok
        await until((log_directory(config) / "tlog" / "checkpoint").exists)
        await until(lambda: published(config).checkpoint.size > 300)
    assert published(config).checkpoint.root == mth(leaves(config))
    assert sum("Input/output error" in record.message for record in caplog.records) == 1


async def test_a_contradiction_stops_the_signing_and_not_the_records(
    signing: Callable[..., AuditConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that can't sign without contradicting itself says so, in its log and in the chain, and records on."""
    config = signing(interval=OFTEN)

    def refuse(_: SignedTree) -> None:
        raise LogForked("two checkpoints of one size")

    monkeypatch.setattr(SignedTree, "prepare", refuse)
    async with AuditLogger(config) as audit:
        await audit.emit_durable(Counted(producer="p", n=0))
        await until(lambda: any("signs no more checkpoints" in record.message for record in caplog.records))
        with pytest.raises(LogForked):
            await audit.checkpoint()
        await audit.emit_durable(Counted(producer="p", n=1))
    assert [event["reason"] for event in told(config, "audit.signing_refused")] == ["two checkpoints of one size"]
    assert not (log_directory(config) / "tlog" / "checkpoint").exists()


async def test_witnesses_cosign_what_is_published(signing: Callable[..., AuditConfig], key: Path) -> None:
    """A checkpoint is published at once, and again with the cosignature; a policy's quorum is met by it."""
    with serving(Witness(Cosigner(1), load_signer(key, origin=ORIGIN).key)) as witness:
        config = signing(interval=OFTEN, witnesses=(witness.line,))
        async with AuditLogger(config) as audit:
            await audit.emit_durable(Counted(producer="p", n=0))
            checkpoint = log_directory(config) / "tlog" / "checkpoint"
            await until(lambda: checkpoint.exists() and len(published(config).note.signatures) == 2)
        assert witness.cosigned is not None


async def test_with_a_policy_nothing_is_published_before_its_quorum(
    signing: Callable[..., AuditConfig], key: Path, tmp_path: Path
) -> None:
    """While the witness that the policy asks for is down records go on; what is published satisfies the policy."""
    with serving(Witness(Cosigner(1), load_signer(key, origin=ORIGIN).key)) as witness:
        witness.instead = lambda _: Answer(500)
        policy = tmp_path / "policy"
        log_key = load_signer(key, origin=ORIGIN).key
        policy.write_text(f"log {log_key}\nwitness w {witness.cosigner.key} {witness.url}\nquorum w\n")
        config = signing(interval=OFTEN, policy=policy, witness_timeout=2.0)
        checkpoint = log_directory(config) / "tlog" / "checkpoint"
        async with AuditLogger(config) as audit:
            receipt = await audit.emit_durable(Counted(producer="p", n=0))
            await until(lambda: len(witness.requests) > 0)
            assert not checkpoint.exists()
            witness.instead = lambda _: None
            await audit.emit_durable(Counted(producer="p", n=1))
            await until(checkpoint.exists)
            await until(lambda: published(config).checkpoint.size > receipt.seq)
        Policy.parse(policy.read_bytes()).verify(checkpoint.read_bytes())


async def test_a_witness_that_remembers_more_stops_the_signing(
    signing: Callable[..., AuditConfig], key: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where log and tree both came back from a backup, the witness is asked before anything is signed."""
    with serving(Witness(Cosigner(1), load_signer(key, origin=ORIGIN).key)) as witness:
        config = signing(interval=OFTEN, witnesses=(witness.line,))
        log = log_directory(config)

        async with AuditLogger(config) as audit:
            await audit.emit_durable(Counted(producer="p", n=0))
            await until((log / "tlog" / "checkpoint").exists)
            await until(lambda: len(published(config).note.signatures) == 2)
        shutil.copytree(log, tmp_path / "backup")
        async with AuditLogger(config) as audit:
            before = witness.cosigned
            for n in range(50):
                await audit.emit_durable(Counted(producer="p", n=n))
            await until(lambda: witness.cosigned is not before and witness.cosigned.size > 50)  # type: ignore[union-attr]  # it has cosigned
        shutil.rmtree(log)
        shutil.copytree(tmp_path / "backup", log)
        shown = (log / "tlog" / "checkpoint").read_bytes()
        async with AuditLogger(config) as audit:
            await until(lambda: any("signs no more checkpoints" in record.message for record in caplog.records))
            await audit.emit_durable(Counted(producer="p", n=-1))
        assert (log / "tlog" / "checkpoint").read_bytes() == shown


async def test_what_can_not_work_is_said_at_the_start(
    signing: Callable[..., AuditConfig], config_for: ConfigFor, tmp_path: Path
) -> None:
    """A key that is not there stops the start, and releases the log; a log without transparency proves nothing."""
    with pytest.raises(KeyUnavailable):
        await AuditLogger(signing(key=tmp_path / "missing.pem")).start()
    audit = AuditLogger(config_for(instance="00"))
    with pytest.raises(LogClosed):
        await audit.checkpoint()
    async with audit:
        with pytest.raises(ConfigError, match="transparency"):
            await audit.checkpoint()


async def test_a_key_that_does_not_answer_does_not_hold_up_the_end(
    signing: Callable[..., AuditConfig], key: Path
) -> None:
    """The log closes within its drain timeout; what the key answers after the unlocking signs nothing."""
    signer = load_signer(key, origin=ORIGIN)
    asked, answer = anyio.Event(), anyio.Event()

    async def sign(message: bytes) -> bytes:
        asked.set()
        await answer.wait()
        made = signer.sign(message)
        assert isinstance(made, bytes)
        return made

    config = signing(key=ExternalKey(public_key=signer.key.public_key, sign=sign), drain_timeout=2.0)
    with anyio.fail_after(60):
        async with AuditLogger(config) as audit:
            await audit.emit_durable(Counted(producer="p", n=0))
        assert asked.is_set()
        answer.set()
        await anyio.sleep(0.2)
    assert not (log_directory(config) / "tlog" / "checkpoint").exists()
    async with AuditLogger(signing()):
        pass
    assert published(config).checkpoint.root == mth(leaves(config))


async def test_a_checkpoint_that_is_cancelled_mixes_up_nothing(
    signing: Callable[..., AuditConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a call that nobody waits for any more is still reading records, no other one reads or appends."""
    real, reading, most = RecordHashes.read, [], []
    begun, go_on = threading.Event(), threading.Event()

    def read(self: RecordHashes, up_to_seq: int, at_once: int) -> list[bytes]:
        reading.append(1)
        most.append(len(reading))
        begun.set()
        go_on.wait(120)
        hashes = real(self, up_to_seq, at_once)
        reading.pop()
        return hashes

    config = signing()
    async with AuditLogger(config) as audit:
        for n in range(300):
            audit.emit(Counted(producer="p", n=n))
        await audit.flush()
        monkeypatch.setattr(RecordHashes, "read", read)
        cancelled = asyncio.get_running_loop().create_task(audit.checkpoint())
        await until(begun.is_set)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        async with anyio.create_task_group() as group:
            group.start_soon(audit.checkpoint)
            await anyio.sleep(0.1)  # in which it would begin to read
            go_on.set()
    assert set(most) == {1}
    assert published(config).checkpoint.root == mth(leaves(config))


async def test_a_log_that_can_not_sign_says_so_in_its_health(signing: Callable[..., AuditConfig], key: Path) -> None:
    """Records are safe, so the log is well; but nobody takes it for one that is signed."""
    signer = load_signer(key, origin=ORIGIN)
    locked = True

    def sign(message: bytes) -> bytes:
        if locked:
            raise RuntimeError
        made = signer.sign(message)
        assert isinstance(made, bytes)
        return made

    config = signing(key=ExternalKey(public_key=signer.key.public_key, sign=sign), interval=OFTEN)
    async with AuditLogger(config) as audit:
        await audit.emit_durable(Counted(producer="p", n=0))
        await until(lambda: "checkpoint: SigningFailed" in str(audit.health().reason))
        assert audit.health().ok
        locked = False
        await until(lambda: audit.health().reason is None)


async def test_a_refusal_to_sign_stays_in_the_health(
    signing: Callable[..., AuditConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it was `checkpoint()` that met it; it is recorded once."""
    config = signing()

    def refuse(*_: object) -> None:
        raise LogForked("two checkpoints of one size")

    monkeypatch.setattr(SignedTree, "prepare", refuse)
    async with AuditLogger(config) as audit:
        for _ in range(2):
            with pytest.raises(LogForked):
                await audit.checkpoint()
        assert "nothing is signed any more: two checkpoints of one size" in str(audit.health().reason)
    assert len(told(config, "audit.signing_refused")) == 1


async def test_cosignatures_for_a_checkpoint_from_before_the_tree_was_opened_again(
    signing: Callable[..., AuditConfig], key: Path, tmp_path: Path
) -> None:
    """They are published late, and are no sign of a fork."""
    with serving(Witness(Cosigner(1), load_signer(key, origin=ORIGIN).key)) as witness:
        witness.instead = lambda _: Answer(500)
        policy = tmp_path / "policy"
        log_key = load_signer(key, origin=ORIGIN).key
        policy.write_text(f"log {log_key}\nwitness w {witness.cosigner.key} {witness.url}\nquorum w\n")
        config = signing(policy=policy, witness_timeout=0.1)
        async with AuditLogger(config) as audit:
            checkpoints = checkpoints_of(audit._session, audit._buffer)
            await audit.emit_durable(Counted(producer="p", n=0))
            first = await audit.checkpoint()
            await audit.emit_durable(Counted(producer="p", n=1))
            await audit.checkpoint()
            checkpoints._tree._broken = True  # as after an error of the disk
            checkpoints._tree.publish(first, checkpoints._durable_seq())
            assert published(config).checkpoint == first.checkpoint
            assert checkpoints.refused is None


async def test_a_start_that_is_cancelled_as_the_tree_opens_leaves_it(
    signing: Callable[..., AuditConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its thread nor its files are left, and the log can be started."""
    opening, go_on = asyncio.Event(), threading.Event()
    loop, open_tree = asyncio.get_running_loop(), CheckpointLog.open

    def slowly(*args: Any, **kwargs: Any) -> CheckpointLog:
        loop.call_soon_threadsafe(opening.set)
        go_on.wait(60)
        return open_tree(*args, **kwargs)

    def tree_threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("audit-async tree of lone/")]

    monkeypatch.setattr(CheckpointLog, "open", slowly)
    audit = AuditLogger(signing(service_id="lone"))
    starting = asyncio.create_task(audit.start())
    await opening.wait()
    starting.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with anyio.fail_after(60):
        while tree_threads():
            await anyio.sleep(0.01)
        async with audit:
            assert len(tree_threads()) == 1
