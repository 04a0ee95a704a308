"""Code that others wrote verifies what is made here, and what they make is verified here.

aics-tlog and aics-witness, tlog-scales and proofbundle are independent implementations from PyPI; aics-witness is a
real witness, run as a process of its own. They come with the extra `tlog-interop`; without it the tests are skipped.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from queue import Queue
from threading import Thread
from types import ModuleType
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.failures import LogForked, LogRolledBack, WitnessRefused
from audit_async.tlog.log_monitor import directory_source, http_source, observe
from audit_async.tlog.merkle import leaf_hash, verify_consistency, verify_inclusion
from audit_async.tlog.notes import Signature, VerifierKey, parse_note, verify_note
from audit_async.tlog.policy import Policy
from audit_async.tlog.proof import TlogProof, make_proof, verify_proof
from audit_async.tlog.witness import WitnessAnswer, WitnessClient, Witnesses
from tests.tlog.test_log_monitor import static_server
from tests.tlog.trees import (
    ORIGIN,
    Cosigner,
    cosigned,
    mth,
    open_publisher,
    publish,
    publish_all,
    records,
    sign,
    signer,
)

SIZES = [1, 2, 255, 256, 257, 700, 66_000]


def package(name: str) -> ModuleType:
    """Return an independent implementation, or skip the test where it is not installed."""
    newer = " (it needs Python 3.12)" if name.startswith("aics") and sys.version_info < (3, 12) else ""
    return pytest.importorskip(name, reason=f"{name} is not installed: it comes with the extra tlog-interop{newer}")  # type: ignore[no-any-return]  # its own annotation says Any


@pytest.fixture
def aics() -> Any:
    """The package aics-tlog."""
    return package("aics_tlog")


@pytest.fixture
def scales() -> str:
    """The name of the package tlog-scales."""
    return package("tlog_scales").__name__


@pytest.fixture
def tlogproof() -> Any:
    """What proofbundle has for `.tlog-proof` files."""
    return package("proofbundle.tlogproof")


@pytest.fixture(params=SIZES)
def log(request: pytest.FixtureRequest) -> list[bytes]:
    """The records of a log."""
    size: int = request.param
    return records(size)


@pytest.fixture
def published(log: list[bytes], tmp_path: Path) -> Path:
    """A published log: grown in three steps, so that tiles were partial before they were full."""
    for size in (len(log) // 3, len(log) // 2, len(log)):
        publish_all(tmp_path / "tlog", log[:size], publish_dir=tmp_path / "www")
    return tmp_path / "www"


# -- aics-tlog --------------------------------------------------------------------------------------------------------


def test_aics_tlog_verifies_a_published_log(aics: Any, published: Path, log: list[bytes]) -> None:
    """Every tile and bundle is, byte for byte, the one it computes, and its audit of all of them passes."""
    note = aics.parse_note((published / "checkpoint").read_bytes())
    result = aics.verify_checkpoint(note, aics.parse_vkey((published / "vkey").read_text().strip()))
    assert result.ok
    assert (result.origin, result.size, result.root) == (ORIGIN, len(log), mth(log))
    reader = aics.FileSystemTileReader(published)
    report = aics.audit_tiles(reader, result.size, result.root, entries=True)
    assert report.size == len(log)
    expected = aics.tiles.materialise_tiles(log)
    for path, content in expected.items():
        assert (published / path).read_bytes() == content, path
    for index in {0, len(log) // 2, len(log) - 1}:
        assert aics.read_entry(reader, index, len(log)) == log[index]


def test_aics_tlog_verifies_our_proofs(aics: Any, tmp_path: Path) -> None:
    """Inclusion and consistency proofs from our tiles pass its verifiers, and its proofs pass ours."""
    log = records(700)
    publisher = open_publisher(tmp_path / "tlog", log)
    root = publish(publisher, log).checkpoint.root
    reader = aics.FileSystemTileReader(tmp_path / "tlog")
    for index in range(0, 700, 23):
        hashes = list(publisher.prove(index, log[index]).hashes)
        assert aics.verify_inclusion(leaf_hash(log[index]), index, 700, hashes, root)
        assert not aics.verify_inclusion(leaf_hash(log[index - 1]), index, 700, hashes, root)
        theirs = aics.inclusion_proof_from_tiles(reader, index, 700)
        verify_inclusion(index, 700, leaf_hash(log[index]), root, theirs)
    for old in range(1, 701, 23):
        old_root = mth(log[:old])
        assert aics.verify_consistency(old, 700, old_root, root, publisher.consistency(old, 700))
        verify_consistency(old, 700, old_root, root, aics.consistency_proof_from_tiles(reader, old, 700))
    publisher.close()


def test_notes_and_cosignatures_of_aics_tlog_verify_here(aics: Any) -> None:
    """A checkpoint and a cosignature that it has signed meet our policy, and ours meet its quorum."""
    private, witness = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    root = mth(records(3))
    theirs = aics.sign_checkpoint(aics.Checkpoint(ORIGIN, 3, root), private, ORIGIN)
    _, line = aics.sign_cosignature(witness, "witness.example/w1", 1_795_348_800, ORIGIN, 3, root)
    content = theirs.to_bytes() + aics.Note(theirs.text, [line]).to_bytes().rpartition(b"\n\n")[2]
    log_key = aics.format_vkey(aics.vkey_from_ed25519(ORIGIN, private.public_key()))
    witness_key = aics.format_vkey(aics.cosignature_vkey("witness.example/w1", witness.public_key()))
    policy = Policy.parse(f"log {log_key}\nwitness w {witness_key}\nquorum w\n".encode())
    verified = policy.verify(content)
    assert verified.checkpoint == Checkpoint(ORIGIN, 3, root)
    assert [signature.timestamp for signature in verified.signatures] == [None, 1_795_348_800]
    ours = cosigned(sign(Checkpoint(ORIGIN, 3, root)), Cosigner(1))
    vkeys = aics.parse_vkey(str(signer().key)), [aics.parse_vkey(str(Cosigner(1).key))]
    result = aics.verify_checkpoint(aics.parse_note(ours.encode()), *vkeys, quorum=1)
    assert (result.ok, result.cosignature_count) == (True, 1)


# -- tlog-scales ------------------------------------------------------------------------------------------------------


def test_tlog_scales_reads_a_published_log(scales: str, published: Path, log: list[bytes]) -> None:
    """Its reader finds root, entries and proofs in our files, and its verifiers accept them."""
    reader_room: Any = package(f"{scales}.reader")
    backend: Any = package(f"{scales}.backend")
    signing: Any = package(f"{scales}.signing")
    reader = reader_room.TilesReader(backend.LocalBackend(published))
    checkpoint = reader.get_checkpoint()
    checkpoint.verify(signing.Vkey.from_string((published / "vkey").read_text().strip()))
    assert (checkpoint.origin, checkpoint.size) == (ORIGIN, len(log))
    assert reader.calculate_root_hash() == checkpoint.root_hash == mth(log)
    for index in {0, len(log) // 2, len(log) - 1}:
        assert reader.get_entry(index) == log[index]
        theirs = reader.get_inclusion_proof(index, len(log))
        theirs.check(leaf_hash(log[index]), checkpoint.root_hash)
        signed = SignedCheckpoint.parse((published / "checkpoint").read_bytes())
        ours = make_proof(directory_source(published), signed, index=index, record_hash=log[index])
        assert list(ours.hashes) == theirs.node_hashes
    for old in {1, len(log) // 2 or 1, len(log)}:
        reader.get_consistency_proof(old, len(log)).check(mth(log[:old]), checkpoint.root_hash)


def test_ml_dsa_cosignatures_of_tlog_scales_verify_here(scales: str, tmp_path: Path) -> None:
    """A post-quantum cosignature that it makes on our checkpoint meets our policy."""
    signing: Any = package(f"{scales}.signing")
    tlog: Any = package(f"{scales}.tlog")
    witness = signing.MLDSA44CosignatureSigner("witness.example/pq", bytes(32))
    ours = publish_all(tmp_path / "tlog", records(300))
    line = witness.sign(tlog.Checkpoint.from_text(ours.encode().decode())).serialize()
    note = ours.note.with_signatures([Signature.parse(line)])
    policy = Policy.parse(f"log {signer().key}\nwitness w {witness.vkey.serialize()}\nquorum w\n".encode())
    assert policy.verify(note.encode()).checkpoint.size == 300


def test_proof_files_of_tlog_scales_verify_here(scales: str, published: Path, log: list[bytes]) -> None:
    """The `.tlog-proof` that its command line writes for a record of our log is the one that we write."""
    index = len(log) // 2
    command = [sys.executable, "-m", f"{scales}.cli", "gen-proof", str(published), str(index)]
    theirs = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout
    signed = SignedCheckpoint.parse((published / "checkpoint").read_bytes())
    ours = make_proof(directory_source(published), signed, index=index, record_hash=log[index])
    assert theirs == ours.encode()
    verify_proof(TlogProof.parse(theirs), index=index, record_hash=log[index], policy=Policy.of([signer().key]))


def test_a_log_that_tlog_scales_writes_is_watched_here(scales: str, tmp_path: Path) -> None:
    """Tiles, bundles and checkpoints by its writer pass our monitor at every step."""
    writer_room: Any = package(f"{scales}.writer")
    signing: Any = package(f"{scales}.signing")
    their_signer = signing.PlainEd25519Signer(ORIGIN, bytes([7]) * 32)
    policy = Policy.of([VerifierKey.parse(str(their_signer.vkey.serialize()))])
    writer = writer_room.TilesWriter.create(tmp_path / "log", ORIGIN)
    seen, log = None, records(600)
    for begin, end in ((0, 3), (3, 256), (256, 600)):
        for entry in log[begin:end]:
            writer.add_leaf(entry)
        writer.commit([their_signer])
        observation = observe(directory_source(tmp_path / "log"), policy, seen, entries=True)
        assert observation.latest.checkpoint == Checkpoint(ORIGIN, end, mth(log[:end]))
        seen = observation.seen


# -- proofbundle ------------------------------------------------------------------------------------------------------


def test_proofbundle_verifies_our_proofs(tlogproof: Any, published: Path, log: list[bytes]) -> None:
    """Its verifier accepts a `.tlog-proof` with a cosignature, and refuses another record and another key."""
    index = len(log) - 1
    witness = Cosigner(1)
    signed = cosigned(SignedCheckpoint.parse((published / "checkpoint").read_bytes()), witness)
    proof = make_proof(directory_source(published), signed, index=index, record_hash=log[index])
    text, keys, strangers = proof.encode().decode(), [str(witness.key)], [str(Cosigner(2).key)]
    good = tlogproof.verify_tlog_proof(text, log[index], str(signer().key), keys, threshold=1, expected_origin=ORIGIN)
    assert good["ok"], good
    assert (good["index"], good["tree_size"], good["witnesses"]) == (index, len(log), good["witnesses"])
    assert not tlogproof.verify_tlog_proof(text, b"another", str(signer().key), keys, threshold=1)["ok"]
    assert not tlogproof.verify_tlog_proof(text, log[index], str(signer(2).key), keys, threshold=1)["ok"]
    assert not tlogproof.verify_tlog_proof(text, log[index], str(signer().key), strangers, threshold=1)["ok"]


def test_proof_files_of_proofbundle_verify_here(tlogproof: Any) -> None:
    """A file that it writes is read, verified, and written as it was read."""
    log = records(1)
    signed = sign(Checkpoint(ORIGIN, 1, mth(log)))
    text = tlogproof.format_tlog_proof(0, [], signed.encode().decode(), extra=b"context").encode()
    proof = TlogProof.parse(text)
    assert (proof.encode(), proof.extra) == (text, b"context")
    verify_proof(proof, index=0, record_hash=log[0], policy=Policy.of([signer().key]))


# -- a real witness ---------------------------------------------------------------------------------------------------


class RealWitness:
    """aics-witness, in a directory of its own."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir()
        self.config = directory / "witness.json"
        self.vkey = self._run("init", "--name", name, "--listen", "127.0.0.1:0").strip()
        self.key = VerifierKey.parse(self.vkey)

    def _run(self, command: str, *arguments: str) -> str:
        line = [sys.executable, "-m", "aics_witness", command, "--config", str(self.config), *arguments]
        return subprocess.run(line, check=True, capture_output=True, text=True, timeout=120).stdout

    def add_log(self, key: VerifierKey) -> None:
        """Have it know a log."""
        self._run("add-log", "--origin", key.name, "--vkey", str(key))

    def evidence(self) -> str:
        """Return what it keeps of requests that the log has signed and that contradict what it has cosigned."""
        return self._run("evidence")

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Run it, and give its URL."""
        command = [sys.executable, "-m", "aics_witness", "serve", "--config", str(self.config)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        lines: Queue[str] = Queue()

        def drain() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                lines.put(line)
            lines.put("")

        reader = Thread(target=drain)
        reader.start()
        try:
            said: list[str] = []
            while not (found := re.search(r"listening on (http://\S+)", said[-1] if said else "")):
                said.append(lines.get(timeout=120))
                assert said[-1], f"the witness ended: {said}"
            yield found[1]
        finally:
            process.terminate()
            process.wait(120)
            reader.join()
            assert process.stderr is not None
            process.stderr.close()


@pytest.fixture
def real_witness(tmp_path: Path) -> RealWitness:
    """A witness that knows our log."""
    package("aics_witness")
    witness = RealWitness(tmp_path / "witness", "witness.example/w1")
    witness.add_log(signer().key)
    return witness


def ask(url: str, witness: RealWitness, directory: Path, log: list[bytes]) -> tuple[SignedCheckpoint, WitnessAnswer]:
    """Publish a log's checkpoint, ask the witness about it, and publish what it answered."""

    async def round_of_asking() -> tuple[SignedCheckpoint, tuple[WitnessAnswer, ...]]:
        witnesses = Witnesses([WitnessClient(witness.key, url)])
        return await witnesses.cosign(signed, publisher.consistency, timeout_s=60)

    publisher = open_publisher(directory, log)
    signed = publish(publisher, log)
    signed, (answer,) = anyio.run(round_of_asking)
    publisher.publish(signed)
    publisher.close()
    return signed, answer


def test_a_real_witness_cosigns_our_checkpoints(tmp_path: Path, real_witness: RealWitness) -> None:
    """It follows a log from checkpoint to checkpoint, across restarts of both, and a policy that names it is met."""
    policy = Policy.parse(f"log {signer().key}\nwitness w {real_witness.vkey}\nquorum w\n".encode())
    log = records(700)
    for sizes in ((3, 255), (256, 256, 700)):
        with real_witness.serving() as url:
            for size in sizes:
                signed, answer = ask(url, real_witness, tmp_path / "tlog", log[:size])
                assert answer.error is None
                assert policy.verify(signed.encode()).checkpoint.size == size
            origin = sha256(ORIGIN.encode()).hexdigest()
            with urllib.request.urlopen(f"{url}/{origin}/checkpoint") as served:  # noqa: S310 - our own
                remembered = served.read()
            assert policy.verify(remembered).checkpoint == signed.checkpoint
    with static_server(tmp_path) as url:
        observe(http_source(f"{url}/tlog"), policy, None, entries=True)
    proof = make_proof(directory_source(tmp_path / "tlog"), signed, index=41, record_hash=log[41])
    verified = verify_proof(TlogProof.parse(proof.encode()), index=41, record_hash=log[41], policy=policy)
    assert [one.key for one in verified.signatures] == [signer().key, real_witness.key]
    assert len(verify_note(parse_note(remembered), [signer().key, real_witness.key])) == 2


def test_a_real_witness_refuses_a_forked_log(tmp_path: Path, real_witness: RealWitness) -> None:
    """Another history under the same key is not cosigned; the log is told, and the witness keeps the evidence."""
    log, forked = records(300), records(100) + records(400, salt="other")[100:]
    with real_witness.serving() as url:
        _, answer = ask(url, real_witness, tmp_path / "tlog", log)
        assert answer.cosignature is not None
        for size in (300, 301, 400):
            signed, answer = ask(url, real_witness, tmp_path / f"forked{size}", forked[:size])
            assert isinstance(answer.error, LogForked)
            assert answer.error.evidence == (signed.encode(),)
        _, answer = ask(url, real_witness, tmp_path / "tlog", records(450))
        assert answer.cosignature is not None, "the honest log goes on"
    assert '"origin": "host.example/orders/00"' in real_witness.evidence()


def test_a_real_witness_finds_a_rollback(tmp_path: Path, real_witness: RealWitness) -> None:
    """A log that came back from a backup, guard and all, learns it from the witness."""
    with real_witness.serving() as url:
        ask(url, real_witness, tmp_path / "tlog", records(300))
        _, answer = ask(url, real_witness, tmp_path / "restored", records(200))
    assert isinstance(answer.error, LogRolledBack)
    assert "at size 300, and the log submits 200" in str(answer.error)


def test_a_real_witness_does_not_know_every_log(tmp_path: Path) -> None:
    """A log or key that it was not told of gets no cosignature, and its operator is named as the one to ask."""
    package("aics_witness")
    witness = RealWitness(tmp_path / "witness", "witness.example/w1")
    with witness.serving() as url:
        _, answer = ask(url, witness, tmp_path / "tlog", records(3))
    assert isinstance(answer.error, WitnessRefused)
    assert "(404); ask its operator" in str(answer.error)
    witness.add_log(signer(2).key)
    with witness.serving() as url:
        _, answer = ask(url, witness, tmp_path / "tlog", records(3))
    assert isinstance(answer.error, WitnessRefused)
    assert "(403); ask its operator" in str(answer.error)
