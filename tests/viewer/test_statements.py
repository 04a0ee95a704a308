"""Every statement of the record page, each exactly if it is so: on the page itself, of logs as they can be found."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local, Transparency, audit_context, tlog
from audit_async.events import AuthFailure
from audit_async.privacy.sealed_text import event_place
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.notes import VerifierKey
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import Signer, cosign_note, cosigner_key, load_signer
from tests.logs import failure
from tests.privacy.known_keys import KnownKeys
from tests.trail.written import WrittenLog
from tests.viewer.trail_to_view import AUDITOR, OF_ACME, browser_of, viewed

pytestmark = pytest.mark.anyio
ORIGIN = "host.example/orders/00"
HASHED, CHAINED = ("yes", "Hash checked"), ("yes", "In the chain")
OPEN_SEGMENT = ("info", "Segment not sealed")
AT_END = ("info", "Segment sealed")
Statements = list[tuple[str, str]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What is tested is on the disk, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


class Signed:
    """A log of ten records that is signed over them and those of its end, and keys of others."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.signer = self.new_signer("log", ORIGIN)
        self.impostor = self.new_signer("impostor", ORIGIN)
        self.other = self.new_signer("other", "host.example/billing/00")
        self.witness = self.new_signer("witness", "w1")
        self.stranger = self.new_signer("stranger", "w2")

    def new_signer(self, name: str, origin: str) -> Signer:
        """Return a signer with a key of its own."""
        tlog.write_key(self.place / f"{name}.pem", tlog.new_key())
        return load_signer(str(self.place / f"{name}.pem"), origin=origin)

    async def write(self) -> None:
        """Write the log."""
        signing = Transparency(key=str(self.place / "log.pem"), origin=ORIGIN, interval=3600)
        config = AuditConfig(
            mode=Local(self.place / "audit"), service_id="orders", handle_signals=False, transparency=signing
        )
        async with AuditLogger(config) as audit:
            for n in range(10):
                audit.emit(failure(n))

    def policy(self, *keys: VerifierKey, witnesses: tuple[Signer, ...] = ()) -> Policy:
        """Return the policy with these log keys, and with witnesses whom it does not ask for."""
        lines = [f"log {key}" for key in keys]
        lines += [f"witness {one.key.name} {cosigner_key(one.key)}" for one in witnesses]
        return Policy.parse("\n".join([*lines, "quorum none\n"]).encode())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """The log, from which each test takes a copy."""
    signed = Signed(tmp_path_factory.mktemp("signed"))
    anyio.run(signed.write)
    return signed


@pytest.fixture
def log(made: Signed, tmp_path: Path) -> Path:
    """The directory of a copy of the log."""
    shutil.copytree(made.place / "audit", tmp_path / "audit", symlinks=True)
    return tmp_path / "audit/orders/00"


async def page_of(base_dir: Path, seq: int, person: Any = AUDITOR, **settings: Any) -> str:
    """Return the page of a record."""
    # A whole configuration: it does not seal, and a viewer with keys for reading alone could not.
    seen = AuditConfig(mode=Local(base_dir.with_name("seen")), service_id="audit-view", handle_signals=False)
    async with viewed(base_dir, access_log=seen, **settings) as app, browser_of(app, person) as browser:
        return (await browser.get(f"/logs/orders/00/records/{seq}")).text


def stated(page: str) -> Statements:
    """Return what a page states, and how sure it is."""
    found = re.findall(r'<li class="(yes|no|open|info)"><span class="mark".*?<b>(.*?)</b>', page)
    return [(state, html.unescape(title)) for state, title in found]


def rewrite(log: Path, change: Callable[[bytes], bytes], *, first: int, last: int) -> None:
    """Change records, and give each one after them the hashes that are due."""
    (segment,) = log.glob("*.audit")
    lines = segment.read_bytes().splitlines(keepends=True)
    for at in range(first, len(lines)):
        line = change(lines[at]) if at <= last else lines[at]
        if at > first:
            line = line[:-141] + lines[at - 1][-67:-3] + line[-77:]
        lines[at] = line[:-67] + sha256(line[:-76] + b"}").hexdigest().encode() + line[-3:]
    segment.write_bytes(b"".join(lines))


def at_end(log: Path) -> int:
    """Return how many records the checkpoint is over."""
    return SignedCheckpoint.parse((log / "tlog/checkpoint").read_bytes()).checkpoint.size


async def cosign(log: Path, *signers: Signer, flip: bool = False) -> None:
    """Add cosignatures to the checkpoint, the last of them wrong if wanted."""
    file = log / "tlog/checkpoint"
    note = SignedCheckpoint.parse(file.read_bytes()).note
    for signer in signers:
        note = await cosign_note(note, signer, timestamp=1_795_348_800)
    content = note.encode()
    if flip:
        content = content[:-10] + (b"A" if content[-10:-9] != b"A" else b"B") + content[-9:]
    file.chmod(0o600)
    file.write_bytes(content)


def replaced(file: Path, content: bytes) -> None:
    """Write a file that is kept from being written."""
    file.chmod(0o600)
    file.write_bytes(content)


SIGNED = [HASHED, CHAINED, OPEN_SEGMENT, ("yes", "Signed up to record 11")]
NOT_WITNESSED = ("open", "Not witnessed")
REFUSED = [HASHED, CHAINED, OPEN_SEGMENT, ("no", "Checkpoint not accepted")]


async def test_signed_by_whom(made: Signed, log: Path) -> None:
    """Only with the log's own key, for this log, and a signature that was checked with it."""
    base_dir, signer = log.parents[1], made.signer
    assert at_end(log) == 12
    unchecked = [HASHED, CHAINED, OPEN_SEGMENT, ("open", "In a checkpoint")]
    for policy, expected in (
        (made.policy(signer.key), [*SIGNED, NOT_WITNESSED]),
        (None, unchecked),
        (made.policy(made.other.key), unchecked),
        (made.policy(made.other.key, witnesses=(made.witness,)), unchecked),  # and nothing is said of witnesses
        (made.policy(made.impostor.key), REFUSED),
    ):
        assert stated(await page_of(base_dir, 5, policy=policy)) == expected
    checkpoint = log / "tlog/checkpoint"
    content = checkpoint.read_bytes()
    replaced(checkpoint, content[:-12] + (b"AAA" if content[-12:-9] != b"AAA" else b"BBB") + content[-9:])
    assert stated(await page_of(base_dir, 5, policy=made.policy(signer.key))) == REFUSED
    replaced(checkpoint, b"no checkpoint\n")
    assert stated(await page_of(base_dir, 5, policy=made.policy(signer.key))) == REFUSED
    checkpoint.unlink()
    checkpoint.mkdir()
    unreadable = [HASHED, CHAINED, OPEN_SEGMENT, ("open", "Checkpoint not readable")]
    assert stated(await page_of(base_dir, 5, policy=made.policy(signer.key))) == unreadable
    shutil.rmtree(log / "tlog")
    assert stated(await page_of(base_dir, 5)) == [HASHED, CHAINED, OPEN_SEGMENT, ("open", "Not signed")]


async def test_witnessed_by_whom(made: Signed, log: Path) -> None:
    """Only by a witness of the policy, of whom the cosignature was checked; a wrong one is no checkpoint at all."""
    base_dir, key = log.parents[1], made.signer.key
    known, unknown = made.policy(key, witnesses=(made.witness,)), made.policy(key, witnesses=(made.stranger,))
    assert stated(await page_of(base_dir, 5, policy=known)) == [*SIGNED, NOT_WITNESSED]
    await cosign(log, made.witness)
    page = await page_of(base_dir, 5, policy=known)
    assert stated(page) == [*SIGNED, ("yes", "Witnessed")]
    assert "cosigned by w1 at 2026-11-22 12:00:00 UTC" in page
    assert stated(await page_of(base_dir, 5, policy=unknown)) == [*SIGNED, NOT_WITNESSED]
    page = await page_of(base_dir, 5, policy=made.policy(key))
    assert stated(page) == [*SIGNED, NOT_WITNESSED]
    assert "names no witness" in page
    await cosign(log, made.stranger, flip=True)
    assert stated(await page_of(base_dir, 5, policy=unknown)) == REFUSED


async def test_another_log_s_key_signs_nothing_here(made: Signed, log: Path) -> None:
    """Whoever holds the key of one log, and may write the directory of another, could sign what is in that."""
    base_dir = log.parents[1]
    (base_dir / "other").mkdir()
    shutil.copytree(log, base_dir / "other/00")
    page = await page_of_other(base_dir, made.policy(made.signer.key))
    assert ("open", "In a checkpoint") in stated(page)
    assert "Signed up to" not in page


async def page_of_other(base_dir: Path, policy: Policy) -> str:
    """Return the page of a record in the log `other/00`."""
    base_dir.with_name("seen").mkdir(exist_ok=True)
    async with (
        viewed(base_dir, access_log=base_dir.with_name("seen"), policy=policy) as app,
        browser_of(app, AUDITOR) as browser,
    ):
        return (await browser.get("/logs/other/00/records/5")).text


async def test_what_was_signed_is_another_record_or_a_shorter_log(made: Signed, log: Path) -> None:
    """A rewritten record, without a key as well; a record after the checkpoint; a tree of which a file is gone."""
    base_dir, policy = log.parents[1], made.policy(made.signer.key)
    rewrite(log, lambda line: line.replace(b"mallory", b"malcolm"), first=4, last=5)
    found = [HASHED, CHAINED, OPEN_SEGMENT]
    assert stated(await page_of(base_dir, 5, policy=policy)) == [*found, ("no", "Not what was signed")]
    assert stated(await page_of(base_dir, 5)) == [*found, ("no", "Not in the published tree")]
    assert stated(await page_of(base_dir, 3, policy=policy)) == [*SIGNED, NOT_WITNESSED]
    (segment,) = log.glob("*.audit")
    last = segment.read_bytes().splitlines(keepends=True)[-1]
    added = last.replace(b'"seq":11', b'"seq":12')
    segment.write_bytes(segment.read_bytes() + added)
    rewrite(log, lambda line: line, first=12, last=12)
    rewrite(log, lambda line: line[:-141] + last[-67:-3] + line[-77:], first=12, last=12)
    assert stated(await page_of(base_dir, 12, policy=policy)) == [*found, ("open", "After the last checkpoint")]
    shutil.rmtree(log / "tlog/tile")
    unknown = ("open", "Not compared with what was signed")
    assert stated(await page_of(base_dir, 3, policy=policy)) == [*found, unknown]


async def test_what_is_in_the_chain(log: Path) -> None:
    """The first record names what a chain begins with; a neighbour's hash is what was read of it, or it is open."""
    base_dir = log.parents[1]
    unsigned = ("no", "Not in the published tree")
    rewrite(log, lambda line: line[:-141] + b"1" * 64 + line[-77:], first=0, last=0)
    assert stated(await page_of(base_dir, 0)) == [HASHED, ("no", "Not in the chain"), OPEN_SEGMENT, unsigned]
    (segment,) = log.glob("*.audit")
    lines = segment.read_bytes().splitlines(keepends=True)
    own = lines[6][:-141] + b"2" * 64 + lines[6][-77:]
    genuine = own[:-67] + sha256(own[:-76] + b"}").hexdigest().encode() + own[-3:]
    segment.write_bytes(b"".join([*lines[:6], genuine, *lines[7:]]))
    for seq in (5, 6, 7):
        assert stated(await page_of(base_dir, seq))[:2] == [HASHED, ("no", "Not in the chain")]
    segment.write_bytes(b"".join([*lines[:6], own, *lines[7:]]))  # damaged: its hash is not its own
    page = await page_of(base_dir, 6)
    assert stated(page) == []
    assert "The log is damaged here" in page
    for seq, title in ((5, "Chain not checked forwards"), (7, "Chain not checked backwards")):
        page = await page_of(base_dir, seq)
        assert stated(page)[:2] == [HASHED, ("open", title)]
        assert "None yet" not in page
    segment.write_bytes(b"".join(lines[:11]))
    page = await page_of(base_dir, 10)
    assert stated(page)[:2] == [HASHED, CHAINED]
    assert "nothing comes after it in the log&#39;s files" in page
    assert "None yet" in page
    assert stated(await page_of(base_dir, 10, OF_ACME)) == []  # nobody's record is no tenant's


async def test_a_tenant_does_not_learn_which_record_is_the_newest(tmp_path: Path) -> None:
    """What comes after its own is others', so it sees that nothing was found out."""
    with audit_context(tenant="acme"):
        async with AuditLogger(
            AuditConfig(mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False)
        ) as audit:
            await audit.emit(failure())
    base_dir = tmp_path / "audit"
    (segment,) = (base_dir / "orders/00").glob("*.audit")
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:2]))
    page = await page_of(base_dir, 1, OF_ACME)
    assert stated(page) == [HASHED, ("open", "Chain not checked forwards")]
    assert "/records/0" not in page  # which is nobody's
    assert stated(await page_of(base_dir, 1))[:2] == [HASHED, CHAINED]


async def test_a_log_that_is_cut_off_is_not_called_signed_to_its_end(made: Signed, log: Path) -> None:
    """The checkpoint is over more records than are here: said on the pages of logs, and not of a refused checkpoint."""
    (segment,) = log.glob("*.audit")
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:9]))
    base_dir = log.parents[1]
    base_dir.with_name("seen").mkdir()
    for policy, is_said in ((made.policy(made.signer.key), True), (made.policy(made.impostor.key), False)):
        async with (
            viewed(base_dir, access_log=base_dir.with_name("seen"), policy=policy) as app,
            browser_of(app, AUDITOR) as browser,
        ):
            assert ("the last 3 of them are not here" in (await browser.get("/logs/orders/00")).text) == is_said
            logs = (await browser.get("/logs")).text
            assert ("3 of them not here" in logs) == is_said
            assert ("not accepted" in logs) != is_said


async def test_what_is_stated_of_a_segment(tmp_path: Path) -> None:
    """Archived and sealed as the manifest says; of a deleted neighbour the hash that it keeps, and no link to it."""
    written = WrittenLog(tmp_path / "audit")
    written.write(*[{"event_type": "x.counted", "n": n} for n in range(20)])
    names = written.sealed()
    first, second = (int(name[:12]) for name in names[1:3])
    written.archive([names[0]])
    written.close()
    (tmp_path / "seen").mkdir()
    base_dir = tmp_path / "audit"
    not_signed = ("open", "Not signed")
    assert stated(await page_of(base_dir, 1)) == [HASHED, CHAINED, ("info", "Segment archived"), not_signed]
    assert stated(await page_of(base_dir, first)) == [HASHED, CHAINED, AT_END, not_signed]
    again = WrittenLog(base_dir)
    again.lines = [b""] * 100
    again.delete(names[0])
    again.close()
    page = await page_of(base_dir, first)
    assert stated(page) == [HASHED, CHAINED, AT_END, not_signed]
    assert "the hash that the manifest keeps of the record before" in page
    assert f"records/{first - 1}" not in page
    assert "manifest keeps" not in await page_of(base_dir, second)


async def test_an_encrypted_archive_is_not_called_damaged(tmp_path: Path) -> None:
    """Nothing is stated of a record that can't be read, and what is missing is an identity."""
    age = pytest.importorskip("tests.age_keys")
    from tests.verify.test_encrypted_trails import make  # noqa: PLC0415 - it needs the extra

    await make(tmp_path / "audit")
    page = await page_of(tmp_path / "audit", 3, identities=age.IDENTITIES)
    assert stated(page) == [HASHED, CHAINED, ("info", "Segment archived"), ("open", "Not signed")]
    assert "The archive is encrypted" in page
    page = await page_of(tmp_path / "audit", 3)
    assert stated(page) == []
    assert "encrypted" in page
    assert "damaged" not in page


def nested(value: list[object], depth: int) -> list[object]:
    """Return a list in a list, so often."""
    return value if depth == 0 else nested([value], depth - 1)


async def test_what_became_of_what_was_sealed(tmp_path: Path) -> None:
    """By what the keys say of each member, in lists as well; whatever its text, or that of another member."""
    keys, base_dir = KnownKeys(), tmp_path / "audit"
    written = WrittenLog(base_dir, max_bytes=1 << 20)
    log_id = written.store.log_id

    def sealed(value: object, *path: str, store: bool = True) -> str:
        return keys.seal(value, event_place("x.sealed", path), log_id=log_id, store=store)

    opening = {"event_type": "audit.log_opened", "privacy": 1}
    event = {
        "event_type": "x.sealed",
        "user_id": sealed("[sealed] by name", "user_id"),
        "names": ["plain", sealed("[forged]", "names", "1")],
        "missing": sealed("x", "missing", store=False),
        "moved": sealed("x", "elsewhere"),
        "said": "[erased 2026-01-01]",
        "escaped": "plain:sealed:1:x",
        "a.b": sealed("y", "a.b"),
        "a": {"b": "[sealed]"},
        "deep": nested([sealed("z", "deep", *"0" * 800)], 799),
    }
    written.write(opening, event)
    written.close()
    page = await page_of(base_dir, 1, key_store=keys.store)
    assert stated(page)[-3:] == [("info", "Opened"), ("open", "Key missing"), ("no", "Forged")]
    assert 'class="closed">[key missing]<' in page
    assert 'class="closed">[forged]<' in page
    assert page.count('class="closed"') == 2
    for shown in ("[sealed] by name", "plain, [forged]", "[erased 2026-01-01]", "sealed:1:x"):
        assert f'<span class="text">{shown}</span>' in page
    assert re.search(r"event.user_id, event.names.1, event.a.b, event.deep[.0]{80,90}…\.</p>", page)
    page = await page_of(base_dir, 1)
    assert stated(page)[-1:] == [("info", "Sealed")]
    assert "event.user_id, event.names.1, event.missing, event.moved, event.a.b and 1 more." in page
    assert page.count('class="closed">[sealed]<') == 5
    assert "actor=%5Bsealed%5D" not in page


async def test_a_text_of_the_library_s_own_is_a_text_if_a_caller_sends_it(tmp_path: Path) -> None:
    """`[sealed]` as a name is counted, and leads to the records that have it."""
    forged = AuthFailure(attempted_user="[sealed]", reason="[erased 2026-11-01]", ip="192.0.2.1", path="[forged]")
    base_dir = tmp_path / "audit"
    async with AuditLogger(AuditConfig(mode=Local(base_dir), service_id="orders", handle_signals=False)) as audit:
        await audit.emit(forged)
    async with viewed(base_dir) as app, browser_of(app, AUDITOR) as browser:
        page = (await browser.get("/logs/orders/00/records/1")).text
        counts = (await browser.get("/records/counts")).text
    assert "?actor=%5Bsealed%5D" in counts
    assert "?actor=%5Bsealed%5D" in page
    assert 'class="closed"' not in page
    assert stated(page) == [HASHED, CHAINED, OPEN_SEGMENT, ("open", "Not signed")]


async def test_a_text_in_the_form_of_a_sealed_one_is_what_its_session_says(tmp_path: Path) -> None:
    """A session that does not seal may record anything a caller sends: that is no sealed member, whatever it looks."""
    keys, base_dir = KnownKeys(), tmp_path / "audit"
    forged = keys.seal("x", event_place("x.sealed", ("user_id",)), store=False)
    written = WrittenLog(base_dir, max_bytes=1 << 20)
    written.write({"event_type": "audit.log_opened"}, {"event_type": "x.sealed", "user_id": forged})
    written.close()
    for settings in ({}, {"key_store": keys.store}):
        page = await page_of(base_dir, 1, **settings)
        assert stated(page)[-1:] == [("open", "Not signed")]
        assert f'<span class="text">{forged}</span>' in page
        assert 'class="closed"' not in page


async def test_what_was_erased_is_called_so_by_the_key_store_alone(tmp_path: Path) -> None:
    """With the day that it states; without a store it is sealed, which is all that is known."""
    from tests.forwarding.stored_logs import sealing  # noqa: PLC0415 - it needs the extra
    from tests.privacy.key_stores import open_store  # noqa: PLC0415
    from tests.privacy.sealed_logs import success  # noqa: PLC0415

    config = AuditConfig(
        mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False, privacy=sealing(tmp_path)
    )
    async with AuditLogger(config) as audit:
        await audit.emit(success("alice"))
        await audit.erase_subject("alice", reason="art. 17", requested_by="dpo")
    assert stated(await page_of(tmp_path / "audit", 1))[-1:] == [("info", "Sealed")]
    store = open_store(tmp_path / "keys")
    try:
        page = await page_of(tmp_path / "audit", 1, key_store=store)
    finally:
        store.close()
    assert [(state, title[:9]) for state, title in stated(page)[3:]] == [("open", "Not signe"), ("info", "Erased 20")]
    assert 'class="closed">[erased 2' in page
