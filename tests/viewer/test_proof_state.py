"""What the record page states of a record's genuineness: exactly what was observed, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async import AuditConfig, AuditLogger, Local, Transparency, tlog
from audit_async.events import AuthFailure
from audit_async.reader import AuditReader, PlacedRecord
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import Signer, cosigner_key, load_signer
from audit_async.viewer.pages.proof_state import Statement, chain_statements, signature_statements
from tests.forwarding.stored_logs import sealing
from tests.logs import failure
from tests.viewer.trail_to_view import AUDITOR, browser_of, viewed

pytestmark = pytest.mark.anyio
ORIGIN = "host.example/orders/00"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What is tested is on the disk, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """The log's key."""
    tlog.write_key(tmp_path / "key.pem", tlog.new_key())
    return load_signer(str(tmp_path / "key.pem"), origin=ORIGIN)


async def write(base_dir: Path, key: Path | None, *, after: int = 0) -> None:
    """Record ten events, sign, and record some more."""
    signing = None if key is None else Transparency(key=str(key), origin=ORIGIN, interval=3600)
    config = AuditConfig(mode=Local(base_dir), service_id="orders", handle_signals=False, transparency=signing)
    async with AuditLogger(config) as audit:
        for n in range(10):
            audit.emit(failure(n))
        if key is not None:
            await audit.checkpoint()
        for n in range(after):
            audit.emit(failure(n))


async def record_of(base_dir: Path, seq: int) -> PlacedRecord:
    """Return one record of the log."""
    return await AuditReader(base_dir).record(seq, log="orders/00")


async def signed_statements(base_dir: Path, seq: int, policy: Policy | None) -> list[tuple[str, str]]:
    """Return what is stated of signatures."""
    [log] = AuditReader(base_dir).logs()
    found = signature_statements(await record_of(base_dir, seq), log, policy)
    return [(statement.state, statement.title) for statement in found]


async def test_the_chain_around_a_record(tmp_path: Path) -> None:
    """The first, one between, and the newest; the segment that is open."""
    await write(tmp_path / "audit", None)
    [log] = AuditReader(tmp_path / "audit").logs()

    async def of(seq: int) -> list[Statement]:
        return list(chain_statements(await record_of(tmp_path / "audit", seq), log))

    for seq, text in ((0, "It is the first record"), (5, "the record after it names its hash"), (11, "newest record")):
        checked, linked, _ = await of(seq)
        assert (checked.state, checked.title) == ("yes", "Hash checked")
        assert (linked.state, linked.title) == ("yes", "In the chain")
        assert text in linked.text


async def test_a_damaged_neighbour_is_not_taken_for_none(tmp_path: Path) -> None:
    """The record's own hash is right; that it is the newest, or that the one before is gone, would be a guess."""
    await write(tmp_path / "audit", None)
    [segment] = (tmp_path / "audit/orders/00").glob("*.audit")
    lines = segment.read_bytes().splitlines(keepends=True)
    stated = lines[6].index(b'"prev_hash":"') + len(b'"prev_hash":"')
    lines[6] = lines[6][:stated] + b"0" * 64 + lines[6][stated + 64 :]
    segment.write_bytes(b"".join(lines))
    [log] = AuditReader(tmp_path / "audit").logs()
    for seq, title in ((5, "Chain not checked forwards"), (7, "Chain not checked backwards")):
        found = [(one.state, one.title) for one in chain_statements(await record_of(tmp_path / "audit", seq), log)]
        assert found[:2] == [("yes", "Hash checked"), ("open", title)]


async def test_who_may_not_see_the_log_is_told_no_more_than_was_observed(tmp_path: Path) -> None:
    """Of the newest record somebody who sees one service's records can't know that it is the newest."""
    await write(tmp_path / "audit", None)
    found = [(one.state, one.title) for one in chain_statements(await record_of(tmp_path / "audit", 11), None)]
    assert found == [("yes", "Hash checked"), ("open", "Chain not checked forwards")]


async def test_a_log_without_a_checkpoint_is_not_signed(tmp_path: Path) -> None:
    """Whatever the policy."""
    await write(tmp_path / "audit", None)
    assert await signed_statements(tmp_path / "audit", 5, None) == [("open", "Not signed")]


async def test_a_signature_counts_only_if_it_was_checked(tmp_path: Path, signer: Signer) -> None:
    """With the log's key; without one it is said that nothing was checked, and with another log's key as well."""
    await write(tmp_path / "audit", tmp_path / "key.pem", after=0)
    size = 12  # what was signed last, at the orderly end
    with_key = await signed_statements(tmp_path / "audit", 5, Policy.of([signer.key]))
    assert with_key[0][0] == "yes"
    assert with_key[0][1].startswith("Signed up to record ")
    assert int(with_key[0][1].rpartition(" ")[2]) >= size - 2
    assert with_key[1:] == [("open", "Not witnessed")]
    assert await signed_statements(tmp_path / "audit", 5, None) == [("open", "In a checkpoint")]
    other = load_signer(str(tmp_path / "key.pem"), origin="other.example/orders/00")
    assert (await signed_statements(tmp_path / "audit", 5, Policy.of([other.key])))[0] == ("open", "In a checkpoint")


async def test_a_forged_signature_and_a_missing_quorum_are_said(tmp_path: Path, signer: Signer) -> None:
    """A checkpoint that the policy does not accept proves nothing, though the record is in its tree."""
    await write(tmp_path / "audit", tmp_path / "key.pem")
    (tmp_path / "wrong").mkdir()
    tlog.write_key(tmp_path / "wrong/key.pem", tlog.new_key())
    wrong = load_signer(str(tmp_path / "wrong/key.pem"), origin=ORIGIN)
    refused = [("no", "Checkpoint not accepted")]
    assert await signed_statements(tmp_path / "audit", 5, Policy.of([wrong.key])) == refused
    witness = cosigner_key(wrong.key._replace(name="w1"))
    policy = Policy.parse(f"log {signer.key}\nwitness w1 {witness}\nquorum w1\n".encode())
    assert await signed_statements(tmp_path / "audit", 5, policy) == refused


async def test_a_record_after_the_last_checkpoint_is_not_called_signed(tmp_path: Path, signer: Signer) -> None:
    """As after a crash: the checkpoint that is published is an earlier one."""
    await write(tmp_path / "audit", tmp_path / "key.pem")
    published = tmp_path / "audit/orders/00/tlog/checkpoint"
    before = published.read_bytes()
    await write(tmp_path / "audit", tmp_path / "key.pem", after=3)
    published.write_bytes(before)
    policy = Policy.of([signer.key])
    assert await signed_statements(tmp_path / "audit", 20, policy) == [("open", "After the last checkpoint")]
    assert (await signed_statements(tmp_path / "audit", 5, policy))[0][0] == "yes"


async def test_another_record_than_was_signed_is_said_and_missing_tiles_are_not_that(
    tmp_path: Path, signer: Signer
) -> None:
    """A rewritten log has other hashes; a collector's copy has no tiles, which says nothing against the record."""
    await write(tmp_path / "audit", tmp_path / "key.pem")
    await write(tmp_path / "other", None)
    policy = Policy.of([signer.key])
    tree = tmp_path / "audit/orders/00/tlog"
    tree.rename(tmp_path / "other/orders/00/tlog")
    assert await signed_statements(tmp_path / "other", 5, policy) == [("no", "Not what was signed")]
    (tmp_path / "audit/orders/00/tlog").mkdir(mode=0o700)
    for file in (tmp_path / "other/orders/00/tlog").glob("checkpoint"):
        file.rename(tmp_path / "audit/orders/00/tlog/checkpoint")
    found = await signed_statements(tmp_path / "audit", 5, policy)
    assert found == [("open", "Not compared with what was signed")]


async def test_a_text_that_looks_sealed_is_not_called_sealed(tmp_path: Path) -> None:
    """A caller may send `[sealed]` or `[erased …]` as its own text; only what was recorded sealed is called so."""
    forged = AuthFailure(attempted_user="[sealed]", reason="[erased 2026-11-01]", ip="192.0.2.1", path="[forged]")
    config = AuditConfig(mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False)
    async with AuditLogger(config) as audit:
        await audit.emit(forged)
    async with viewed(tmp_path / "audit") as app, browser_of(app, AUDITOR) as browser:
        page = (await browser.get("/logs/orders/00/records/1")).text
        counts = (await browser.get("/records/counts")).text
    assert "?actor=%5Bsealed%5D" in counts
    assert "[sealed]" in page
    assert "Sealed members" not in page
    assert 'class="closed"' not in page


async def test_what_was_recorded_sealed_is_called_so(tmp_path: Path) -> None:
    """With the names of the members, and not that of a forged one next to it."""
    event = AuthFailure(attempted_user="mallory", reason="[sealed]", ip="192.0.2.1", path="/log-in")
    config = AuditConfig(
        mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False, privacy=sealing(tmp_path)
    )
    async with AuditLogger(config) as audit:
        await audit.emit(event)
    async with viewed(tmp_path / "audit") as app, browser_of(app, AUDITOR) as browser:
        page = (await browser.get("/logs/orders/00/records/1")).text
    statement = page[page.index("Sealed members") :][:300]
    assert "event.attempted_user" in statement
    assert "event.reason" not in statement
