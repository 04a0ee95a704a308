"""The attacks of docs/threat-model.md, carried out on the directory of a log that was written by a real logger.

What `verify` finds of them is in tests/verify/test_signed_heads.py, a monitor in tests/cli/test_monitor.py, and a
reader of a proof in tests/cli/test_tlog.py; here is what the log itself, its guard elsewhere and a witness find, before
anything more is signed.
"""

from __future__ import annotations

import asyncio
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from audit_async import AuditLogger, LogCorrupted
from audit_async.errors import AuditError
from audit_async.logger.open_session import checkpoints_of
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.failures import LogForked, LogRolledBack, QuorumNotMet, TilesDamaged
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import load_signer, new_key, write_key
from tests.logs import Counted
from tests.tlog.trees import Cosigner, cosigned, sign, signer
from tests.tlog.witness_server import Witness, serving
from tests.trail.signed import ORIGIN, SMALL_SEGMENTS, SigningLog, changed, run, verify_signed, without_checkpoints
from tests.verify.test_signed_heads import ATTACKS


@pytest.fixture
def log(tmp_path: Path) -> SigningLog:
    """A log of two sessions, signed up to its last record."""
    return SigningLog(tmp_path / "audit").session().session()


def refusal(log: SigningLog, **settings: object) -> AuditError | None:
    """Open the log, record something, sign it and close; return what was said against that, None for nothing."""

    async def live() -> None:
        async with AuditLogger(log.config(**settings)) as audit:
            await audit.emit_durable(Counted(producer="afterwards", n=0))
            await audit.checkpoint()

    shown = log.checkpoint if (log.directory / "tlog" / "checkpoint").exists() else None
    try:
        run(live)
    except AuditError as error:
        if shown is not None:
            assert log.checkpoint == shown, "something was signed all the same"
        return error
    return None


def damaged(path: Path) -> None:
    """Flip a bit of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])


# -- who can write the files, without the key --------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS)
def test_records_that_a_checkpoint_covers(attack: str, log: SigningLog) -> None:
    """Changed, inserted, removed or cut off, with the whole chain made anew: the log does not open, and signs none."""
    ATTACKS[attack](log)
    assert isinstance(refusal(log), LogForked | LogRolledBack)


def test_a_record_changed_and_nothing_made_anew(log: SigningLog) -> None:
    """In the segment that is open every record is checked when the log is opened."""
    log.segment.write_bytes(b"".join(changed(2)(log.lines)))
    assert isinstance(refusal(log), LogCorrupted)


def test_a_record_changed_in_a_sealed_segment(tmp_path: Path) -> None:
    """Opening reads no sealed segment; whoever verifies does, and needs no key for it where the chain is broken."""
    log = SigningLog(tmp_path / "audit", rotation=SMALL_SEGMENTS).session(checkpoints=4, per_checkpoint=6)
    first = min(log.directory.glob("*.audit"))
    first.chmod(0o600)
    before = first.read_bytes()
    first.write_bytes(before.replace(b'"n":1', b'"n":7', 1))
    assert first.read_bytes() != before
    first.chmod(0o400)
    assert refusal(log) is None
    assert {finding.kind for finding in log.report().findings} >= {"record"}


def test_chain_tree_and_guard_made_anew(tmp_path: Path) -> None:
    """With nothing outside to hold it to, the log goes on from there; a guard elsewhere, and a kept checkpoint, hold.

    The other key stands in the published `vkey` file, as one that was retired would.
    """
    other = tmp_path / "other.pem"
    write_key(other, new_key())
    for guard in (None, tmp_path / "guard"):
        log = SigningLog(tmp_path / f"audit{guard is not None}", guard=guard).session()
        before = log.checkpoint
        log.rewrite(lambda lines: without_checkpoints(changed(2)(lines))).publish_anew(other)
        assert not log.report().valid, "the log's own key has not signed it yet"
        refused = refusal(log)
        if guard is not None:
            assert isinstance(refused, LogForked | LogRolledBack)
        else:
            assert refused is None
        assert not log.report(known_checkpoints={"a monitor's state": before}).valid


@pytest.mark.parametrize("file", ["checkpoint", "guard", "tile/0/000.p/*", "tile/entries/000.p/*"])
def test_what_is_published_is_exchanged_for_something_damaged(file: str, log: SigningLog) -> None:
    """Checkpoint, guard and the tiles at the tree's right edge are read when the log is opened."""
    (path,) = [path for path in (log.directory / "tlog").glob(file) if path.name in {file, str(log.size)}]
    damaged(path)
    assert isinstance(refusal(log), TilesDamaged | LogForked)


@pytest.mark.parametrize("guarded", [False, True])
def test_the_tree_is_removed_to_begin_anew(guarded: bool, tmp_path: Path) -> None:
    """Rewritten records don't lead to the checkpoints that the chain records, nor to the one of the guard elsewhere."""
    elsewhere: dict[str, object] = {"guard": tmp_path / "guard"} if guarded else {}
    log = SigningLog(tmp_path / "audit", **elsewhere).session().session()
    log.rewrite(lambda lines: without_checkpoints(changed(2)(lines)) if guarded else changed(2)(lines))
    shutil.rmtree(log.directory / "tlog")
    assert isinstance(refusal(log), LogForked | LogRolledBack)
    assert not (log.directory / "tlog" / "checkpoint").exists()


def test_an_older_state_of_everything(tmp_path: Path) -> None:
    """The guard elsewhere remembers more than a log that was put back has."""
    log = SigningLog(tmp_path / "audit", guard=tmp_path / "guard").session()
    shutil.copytree(log.directory, tmp_path / "backup")
    log.session()
    shutil.rmtree(log.directory)
    shutil.copytree(tmp_path / "backup", log.directory)
    assert isinstance(refusal(log), LogRolledBack)


# -- an insider with the key -------------------------------------------------------------------------------------------


def test_history_signed_anew_beside_a_guard_elsewhere(tmp_path: Path) -> None:
    """A service that is started on a history which its own key has signed finds another one in the guard."""
    log = SigningLog(tmp_path / "audit", guard=tmp_path / "guard").session()
    log.rewrite(lambda lines: without_checkpoints(changed(2)(lines))).publish_anew()
    assert isinstance(refusal(log), LogForked | LogRolledBack)


def test_rolled_back_and_gone_on_beside_a_guard_elsewhere(tmp_path: Path) -> None:
    """Also where the older state has grown beyond what the guard remembers."""
    log = SigningLog(tmp_path / "audit", guard=tmp_path / "guard").session()
    shutil.copytree(log.directory, tmp_path / "backup")
    log.session()
    shutil.rmtree(log.directory)
    shutil.copytree(tmp_path / "backup", log.directory)
    log.unsigned(count=20)
    assert isinstance(refusal(log), LogForked)


@pytest.mark.parametrize("attack", ["signed anew", "rolled back", "rolled back and gone on"])
def test_another_history_before_a_witness(attack: str, tmp_path: Path) -> None:
    """It cosigns none, so the quorum of a policy with it is not met; the log is told, and signs no more."""
    log = SigningLog(tmp_path / "audit")
    policy = tmp_path / "policy"
    with serving(Witness(Cosigner(1), load_signer(log.key_file, origin=ORIGIN).key)) as witness:
        policy.write_text(f"log {log.vkey}\nwitness w {witness.cosigner.key} {witness.url}\nquorum w\n")
        trusted = Policy.parse(policy.read_bytes())
        assert before_a_witness(log, witness, policy) is None
        shutil.copytree(log.directory, tmp_path / "backup")
        assert before_a_witness(log, witness, policy) is None
        assert verify_signed(log.base_dir, trusted).valid
        kept, remembered = log.checkpoint, witness.cosigned
        if attack == "signed anew":
            log.rewrite(lambda lines: without_checkpoints(changed(1)(lines))).publish_anew()
        else:
            shutil.rmtree(log.directory)
            shutil.copytree(tmp_path / "backup", log.directory)
        if attack == "rolled back and gone on":
            log.unsigned(count=20).publish_anew()
        assert isinstance(before_a_witness(log, witness, policy), LogForked | LogRolledBack)
        assert witness.cosigned == remembered
    found = {finding.kind for finding in verify_signed(log.base_dir, trusted).findings}
    assert found == (set() if attack == "rolled back" else {"checkpoint"})  # an older state has its cosignatures
    assert not verify_signed(log.base_dir, trusted, known_checkpoints={"the witness": kept}).valid


def before_a_witness(log: SigningLog, witness: Witness, policy: Path) -> Exception | None:
    """Run a session until the witness has cosigned what was recorded in it, or the log signs no more; return why."""

    async def live() -> Exception | None:
        async with AuditLogger(log.config(interval=0.05, policy=policy)) as audit:
            position = await audit.emit_durable(Counted(producer="p", n=1))
            while checkpoints_of(audit._session, audit._buffer).refused is None:
                is_published = (log.directory / "tlog" / "checkpoint").exists() and log.size > position.seq
                if is_published and witness.cosigned is not None and witness.cosigned.size > position.seq:
                    break
                await asyncio.sleep(0.01)
            return checkpoints_of(audit._session, audit._buffer).refused

    return asyncio.run(asyncio.wait_for(live(), 120))


# -- the operator, together with witnesses -----------------------------------------------------------------------------


def test_how_many_witnesses_it_takes_to_have_two_histories_cosigned() -> None:
    """Of n witnesses of which k are demanded, f dishonest ones are enough exactly where 2k - n <= f."""
    histories = [sign(Checkpoint(ORIGIN, 3, bytes([n]) * 32)) for n in range(2)]
    for n in range(1, 5):
        witnesses = [Cosigner(number) for number in range(n)]
        for k in range(1, n + 1):
            lines = [f"log {signer().key}", *[f"witness w{i} {one.key}" for i, one in enumerate(witnesses)]]
            lines += [f"group g {k} {' '.join(f'w{i}' for i in range(n))}", "quorum g"]
            policy = Policy.parse("".join([f"{line}\n" for line in lines]).encode())
            for f in range(n + 1):
                both = any(
                    all(
                        is_accepted(policy, cosigned(history, *witnesses[:f], *honest))
                        for history, honest in zip(histories, split, strict=True)
                    )
                    for split in splits(witnesses[f:])
                )
                assert both == (2 * k - n <= f), (n, k, f)


def splits(honest: list[Cosigner]) -> list[tuple[list[Cosigner], list[Cosigner]]]:
    """Return each way in which witnesses that cosign one history only can be shown one or the other."""
    return [
        (list(first), [one for one in honest if one not in first])
        for count in range(len(honest) + 1)
        for first in combinations(honest, count)
    ]


def is_accepted(policy: Policy, signed: SignedCheckpoint) -> bool:
    """Return whether a policy accepts a checkpoint."""
    try:
        policy.verify(signed.encode())
    except QuorumNotMet:
        return False
    return True
