"""Selective evidence: the asked records alone, each proven; and nothing that was changed in it is believed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local, LogClosed
from audit_async._export import evidence_check, selective_evidence
from audit_async._export.evidence_zip import CHECKSUMS
from audit_async.errors import LogCorrupted
from audit_async.events import decode_record
from audit_async.evidence import InvalidEvidence, verify_evidence
from audit_async.privacy import Subject, open_key_store
from audit_async.reader import AuditQuery, AuditReader, ExportFailed, InvalidQuery
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.notes import VerifierKey
from audit_async.tlog.policy import Policy
from audit_async.tlog.proof import TlogProof, verify_proof
from audit_async.tlog.signing_keys import load_signer, new_key, write_key
from tests.export.evidence_trails import ASKED, ORIGINS, Entries, EvidenceTrail, entries_of, replaced, write_entries
from tests.logs import Counted
from tests.privacy.key_stores import open_store
from tests.tlog.test_log_monitor import static_server
from tests.tlog.trees import sign
from tests.trail.signed import SigningLog

FOLDER, OTHER = "orders/00", "orders/01"
RECORDS, PROOFS = f"{FOLDER}/records.ndjson", f"{FOLDER}/proofs"
MEMBERS = ("actor.user_id", "context.user_id")


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> EvidenceTrail:
    """Two logs; no test changes them."""
    return EvidenceTrail(tmp_path_factory.mktemp("trail"))


@pytest.fixture(scope="module")
def evidence(trail: EvidenceTrail) -> Path:
    """The log-ins of both logs, with two members of each disclosed."""
    trail.export(trail.home / "evidence.zip", disclose=MEMBERS)
    return trail.home / "evidence.zip"


def lines_of(entries: Entries, folder: str = FOLDER) -> list[dict[str, Any]]:
    """Return the records in a zip."""
    return [json.loads(line) for line in entries[f"{folder}/records.ndjson"].splitlines()]


# -- what is written -----------------------------------------------------------------------------------------------


def test_the_asked_records_and_no_others_are_proven(trail: EvidenceTrail, tmp_path: Path) -> None:
    """Both logs' records, each as recorded, with a proof that any tool for this format checks; no name in the clear."""
    report = trail.export(tmp_path / "e.zip")
    assert (report.records, report.unsealed, report.disclosed, report.format) == (6, False, 0, "bundle")
    assert stat.S_IMODE((tmp_path / "e.zip").stat().st_mode) == 0o600
    logs = verify_evidence(tmp_path / "e.zip", trail.policy)
    assert [log.verified.checkpoint.origin for log in logs] == list(ORIGINS.values())
    assert [len(log.records) for log in logs] == [3, 3]
    entries = entries_of(tmp_path / "e.zip")
    for folder, log in zip((FOLDER, OTHER), trail.logs.values(), strict=True):
        lines = entries[f"{folder}/records.ndjson"].splitlines(keepends=True)
        assert lines == [line for line in log.lines if b'"event_type":"auth.success"' in line]
        assert entries[f"{folder}/checkpoint"] == log.checkpoint
        for line in map(json.loads, lines):
            proof = TlogProof.parse(entries[f"{folder}/proofs/{line['seq']}.tlog-proof"])
            verify_proof(proof, index=line["seq"], record_hash=bytes.fromhex(line["hash"]), policy=trail.policy)
    assert b"alice" not in b"".join(entries.values())
    assert set(entries) - {name for name in entries if name.startswith("orders/")} == {
        "evidence.json", "README.txt", "MANIFEST.sha256",
    }  # fmt: skip
    assert "What it does not prove" in entries["README.txt"].decode()


def test_what_was_asked_for_is_not_in_the_file(trail: EvidenceTrail, tmp_path: Path) -> None:
    """A question that names a person would open what is sealed."""
    report = trail.export(tmp_path / "e.zip", AuditQuery(actor="alice-00"))
    assert report.records == 1
    assert b"alice" not in b"".join(entries_of(tmp_path / "e.zip").values())
    ((record,),) = [log.records for log in verify_evidence(tmp_path / "e.zip", trail.policy)]
    assert record.disclosed == ()


def test_members_are_disclosed_one_by_one(trail: EvidenceTrail, evidence: Path) -> None:
    """Those that were named, checked without a key; all others stay sealed, and no key is in the file."""
    values = {
        (record.seq, one.place): one.value
        for record in verify_evidence(evidence, trail.policy)[0].records
        for one in record.disclosed
    }
    names = ["alice-00", "bob-00", "carol-00"]
    assert list(values.values()) == [text for name in names for text in (name, f"support-of-{name}")]
    assert {place for _, place in values} == {("event", "actor", "user_id"), ("context", "user_id")}
    entries = entries_of(evidence)
    assert b"203.0.113.9" not in b"".join(entries.values())
    assert b"Liddell" not in b"".join(entries.values())
    assert "12 members that are sealed" in entries["README.txt"].decode()


def test_a_container_discloses_what_is_below_it(trail: EvidenceTrail, tmp_path: Path) -> None:
    """`actor` is all that is sealed in it, of the one record that was asked for."""
    report = trail.export(tmp_path / "e.zip", AuditQuery(actor="bob-01"), disclose=["actor"])
    assert (report.records, report.disclosed, report.unsealed) == (1, 3, True)
    ((record,),) = [log.records for log in verify_evidence(tmp_path / "e.zip", trail.policy)]
    assert {one.place[-1]: one.value for one in record.disclosed} == {
        "user_id": "bob-01", "ip": "203.0.113.9", "display_name": "Alice Liddell",
    }  # fmt: skip


def test_disclosing_is_recorded_with_the_digest_of_the_file(trail: EvidenceTrail, tmp_path: Path) -> None:
    """What is recorded is the file that was made, and that sealed members are in the clear in it."""
    report = trail.export(tmp_path / "e.zip", disclose=["actor.user_id"])
    recorded = b"".join(path.read_bytes() for path in (trail.home / "readers").rglob("*.audit"))
    assert hashlib.sha256((tmp_path / "e.zip").read_bytes()).hexdigest() == report.sha256
    (exported,) = [json.loads(line)["event"] for line in recorded.splitlines() if report.sha256.encode() in line]
    assert (exported["event_type"], exported["unsealed"], exported["records"]) == ("audit.exported", True, 6)


@pytest.mark.anyio
async def test_what_can_not_be_recorded_is_not_disclosed(trail: EvidenceTrail, tmp_path: Path) -> None:
    """The record comes before the file's name: a logger that takes no more records leaves no file."""
    config = AuditConfig(mode=Local(tmp_path / "readers"), service_id="audit-cli", handle_signals=False)
    async with AuditLogger(config) as closed:
        pass
    store = open_store(trail.key_store)
    try:
        reader = AuditReader(trail.base_dir, key_store=store)
        with pytest.raises(LogClosed):
            await reader.export(
                tmp_path / "e.zip", "bundle", ASKED, evidence="selective", disclose=MEMBERS, audit=closed,
                accessed_by="roe",
            )  # fmt: skip
    finally:
        store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["readers"]


@pytest.mark.anyio
async def test_it_is_asked_for_properly(trail: EvidenceTrail, tmp_path: Path) -> None:
    """Disclosing needs the keys and a record of it; what belongs to selective evidence is refused elsewhere."""
    target, reader = tmp_path / "e.zip", AuditReader(trail.base_dir)
    with pytest.raises(InvalidQuery, match="recorded"):
        await reader.export(target, "bundle", ASKED, evidence="selective", disclose=["actor.user_id"])
    with pytest.raises(InvalidQuery, match="selective"):
        await reader.export(target, "bundle", ASKED, disclose=["actor.user_id"])
    with pytest.raises(InvalidQuery, match="selective"):
        await reader.export(target, "bundle", ASKED, published=tmp_path)
    with pytest.raises(ExportFailed, match="bundle"):
        await reader.export(target, "csv", ASKED, evidence="selective")
    with pytest.raises(InvalidQuery, match="neither"):
        await reader.export(target, "bundle", ASKED, evidence="some")  # type: ignore[arg-type]  # on purpose
    assert not target.exists()


@pytest.mark.parametrize("name", ["", "actor.", ".user_id", "actor..user_id"])
def test_a_name_that_is_none(name: str, trail: EvidenceTrail, tmp_path: Path) -> None:
    """A wrong name of a member is wrong usage."""
    with pytest.raises(InvalidQuery, match=r"actor\.user_id"):
        trail.export(tmp_path / "e.zip", disclose=[name])


def test_what_can_not_be_made_leaves_no_file(trail: EvidenceTrail, tmp_path: Path) -> None:
    """No record, a member that no record has, several logs at one published place: each says what to do."""
    for query, how, said in (
        (AuditQuery(event_types=("data.deleted",)), {}, "nothing to prove"),
        (ASKED, {"disclose": ["actor.shoe_size"]}, r"none of the 6 records has a sealed member actor\.shoe_size"),
        (ASKED, {"published": trail.logs["00"].directory / "tlog"}, "several logs"),
        (ASKED, {"published": tmp_path / "nowhere"}, "publishes no checkpoint there"),
    ):
        with pytest.raises(ExportFailed, match=said):
            trail.export(tmp_path / "e.zip", query, **how)
    assert list(tmp_path.iterdir()) == []


def test_more_records_than_a_file_may_have(
    trail: EvidenceTrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever checks the file keeps the names of its entries in memory, so there is a bound."""
    monkeypatch.setattr(selective_evidence, "MOST_RECORDS", 5)
    with pytest.raises(ExportFailed, match="more than 5 records"):
        trail.export(tmp_path / "e.zip")


def test_a_record_that_no_checkpoint_covers_yet(tmp_path: Path) -> None:
    """It can't be proven; what to do is said. What is covered still can be, from a tree published elsewhere, too."""
    trail = EvidenceTrail(tmp_path)
    trail.logs["00"].unsigned()
    with pytest.raises(
        ExportFailed, match=r"not covered yet: the last checkpoint is over the first \d+ records\. Wait"
    ):
        trail.export(tmp_path / "e.zip", AuditQuery())
    assert not (tmp_path / "e.zip").exists()
    shutil.move(trail.logs["00"].directory / "tlog", tmp_path / "www")
    with pytest.raises(ExportFailed, match="--published"):
        trail.export(tmp_path / "e.zip")
    trail.export(tmp_path / "e.zip", AuditQuery(actor="alice-00"), published=tmp_path / "www")
    (log,) = verify_evidence(tmp_path / "e.zip", trail.policy)
    assert len(log.records) == 1


def test_a_log_of_several_tiles(tmp_path: Path) -> None:
    """Also the newest records first, and of a tree that is published on a web server."""
    log = SigningLog(tmp_path / "audit")

    async def live() -> None:
        async with AuditLogger(log.config()) as audit:
            for n in range(700):
                audit.emit(Counted(producer="p", n=n))

    anyio.run(live)
    shutil.move(log.directory / "tlog", tmp_path / "www")
    query = AuditQuery(fields={"producer": "p"}, newest_first=True, limit=600)
    with static_server(tmp_path / "www") as url:
        export = partial(AuditReader(log.base_dir).export, evidence="selective", published=url)
        assert anyio.run(export, tmp_path / "e.zip", "bundle", query).records == 600
    (proven,) = verify_evidence(tmp_path / "e.zip", log.policy)
    assert len({record.seq for record in proven.records}) == 600


def test_a_record_that_was_changed_has_no_evidence(tmp_path: Path) -> None:
    """Though the chain was computed again, the tree has another record at its place."""
    trail = EvidenceTrail(tmp_path)
    log = trail.logs["00"]
    log.rewrite(lambda lines: [line.replace(b'"method":"mfa"', b'"method":"sso"') for line in lines])
    with pytest.raises(LogCorrupted, match="not the one that was signed"):
        trail.export(tmp_path / "e.zip")
    assert not (tmp_path / "e.zip").exists()


def test_what_was_sealed_for_another_member_is_not_disclosed(tmp_path: Path) -> None:
    """Though the log's own key has signed it: the text in `user_id` was sealed as the display name."""
    trail = EvidenceTrail(tmp_path)
    sealed = rb'"(sealed:1:[^"]+)"'

    def moved(line: bytes) -> bytes:
        name = re.search(rb'"display_name":' + sealed, line)
        return line if name is None else re.sub(rb'("actor":{"user_id":)' + sealed, rb'\1"' + name[1] + b'"', line)

    trail.logs["00"].rewrite(lambda lines: [moved(line) for line in lines]).publish_anew()
    with pytest.raises(LogCorrupted, match=r"actor\.user_id was not sealed for this record"):
        trail.export(tmp_path / "e.zip", disclose=["actor.user_id"])
    assert not (tmp_path / "e.zip").exists()
    assert trail.export(tmp_path / "e.zip").records == 6


def test_two_logs_of_one_name(tmp_path: Path) -> None:
    """A copy of a log next to it: evidence that has both could not be told apart."""
    trail = EvidenceTrail(tmp_path)
    shutil.copytree(trail.logs["00"].directory, trail.base_dir / "orders" / "02")
    with pytest.raises(ExportFailed, match=r"two logs call themselves host\.example/orders/00"):
        trail.export(tmp_path / "e.zip")
    assert not (tmp_path / "e.zip").exists()


def test_what_was_erased_stays_sealed_and_is_counted(tmp_path: Path) -> None:
    """The others are disclosed, and the record is proven as before."""
    trail = EvidenceTrail(tmp_path)
    store = open_key_store(trail.keys[1], trail.keys[3])
    begun = store.begin_erasure(Subject("", "user", "alice-00"), "e1")
    store.destroy(begun.key_ids, erasure_id="e1")
    store.close()
    report = trail.export(tmp_path / "e.zip", disclose=["actor.user_id"])
    assert (report.records, report.disclosed, report.undisclosed) == (6, 5, 1)
    first, second, _ = verify_evidence(tmp_path / "e.zip", trail.policy)[0].records
    assert (first.disclosed, [one.value for one in second.disclosed]) == ((), ["bob-00"])


def test_without_keys_nothing_is_disclosed(trail: EvidenceTrail) -> None:
    """A reader without the key store can't, and says so."""
    with pytest.raises(ExportFailed, match="key store"):
        selective_evidence.SelectiveEvidence(["actor.user_id"], None, None)


# -- attacks -------------------------------------------------------------------------------------------------------


def seqs(entries: Entries) -> list[int]:
    """Return the numbers of the records of the first log."""
    return [line["seq"] for line in lines_of(entries)]


def swap_records(entries: Entries) -> None:
    """Put the other log's records in the place of this one's."""
    entries[RECORDS] = entries[f"{OTHER}/records.ndjson"]


def swap_proofs(entries: Entries) -> None:
    """Exchange the proofs of two records."""
    first, second = (f"{PROOFS}/{seq}.tlog-proof" for seq in seqs(entries)[:2])
    entries[first], entries[second] = entries[second], entries[first]


def claim_another_index(entries: Entries) -> None:
    """Give a record the proof of another one, with the index changed to its own."""
    first, second = seqs(entries)[:2]
    other = entries[f"{PROOFS}/{second}.tlog-proof"]
    entries[f"{PROOFS}/{first}.tlog-proof"] = other.replace(b"index %d\n" % second, b"index %d\n" % first)


def rehash(line: bytes) -> bytes:
    """Return a changed line with a hash that fits."""
    body = line[: -len(b',"hash":""}\n') - 64]
    return body + b',"hash":"' + hashlib.sha256(body + b"}").hexdigest().encode() + b'"}\n'


def change_record(entries: Entries, *, hash_fits: bool = True) -> None:
    """Change what a record says."""
    first, *rest = entries[RECORDS].splitlines(keepends=True)
    changed = first.replace(b'"method":"mfa"', b'"method":"sso"')
    assert changed != first
    entries[RECORDS] = b"".join([rehash(changed) if hash_fits else changed, *rest])


def take_other_checkpoint(entries: Entries) -> None:
    """Use the other log's checkpoint for this log, everywhere."""
    old, new = entries[f"{FOLDER}/checkpoint"], entries[f"{OTHER}/checkpoint"]
    for name in list(entries):
        if name.startswith(FOLDER):
            entries[name] = entries[name].replace(old, new)
    contents = json.loads(entries["evidence.json"])
    contents["logs"][0].update(origin=ORIGINS["01"], size=SignedCheckpoint.parse(new).checkpoint.size)
    del contents["logs"][1]
    entries["evidence.json"] = json.dumps(contents).encode()
    for name in list(entries):
        if name.startswith(OTHER):
            del entries[name]


def take_other_checkpoint_in_a_proof(entries: Entries) -> None:
    """Name another checkpoint in one proof, which still leads to the right one."""
    replaced(
        f"{PROOFS}/{seqs(entries)[0]}.tlog-proof",
        lambda proof: proof.replace(entries[f"{FOLDER}/checkpoint"], entries[f"{OTHER}/checkpoint"]),
    )(entries)


def in_json(name: str, change: Callable[[Any], object]) -> Callable[[Entries], object]:
    """Return what changes a JSON file."""

    def changed(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return replaced(name, changed)


def in_disclosures(change: Callable[[list[Any]], object]) -> Callable[[Entries], object]:
    """Return what changes the disclosures."""
    return in_json("disclosures.json", change)


def in_contents(change: Callable[[Any], object]) -> Callable[[Entries], object]:
    """Return what changes evidence.json."""
    return in_json("evidence.json", change)


def encoded(text: bytes) -> str:
    """Return a text as it is disclosed."""
    return base64.b64encode(text).decode()


def exchange(disclosures: list[Any], *members: str) -> None:
    """Exchange members of the first disclosure with those of the same place in the next record."""
    first, other = disclosures[0], disclosures[2]
    assert first["place"] == other["place"]
    for member in members:
        first[member], other[member] = other[member], first[member]


def exchange_places(disclosures: list[Any]) -> None:
    """Exchange the places of two members of one record."""
    first, other = disclosures[:2]
    assert (first["seq"], first["place"] != other["place"]) == (other["seq"], True)
    first["place"], other["place"] = other["place"], first["place"]


def disclose_again(entries: Entries) -> None:
    """Disclose a member twice."""
    in_disclosures(lambda all_of: all_of.append(all_of[0]))(entries)
    in_contents(lambda contents: contents.update(disclosed=contents["disclosed"] + 1))(entries)


ATTACKS: dict[str, tuple[Callable[[Entries], object], str]] = {
    "swapped records": (swap_records, "does not prove the record|is missing"),
    "a record in another's place": (
        replaced(RECORDS, lambda content: b"".join(content.splitlines(keepends=True)[i] for i in (0, 0, 2))),
        "there twice",
    ),
    "a changed record": (change_record, "does not prove the record"),
    "a changed record with its old hash": (
        lambda entries: change_record(entries, hash_fits=False),
        "not one genuine record",
    ),
    "swapped proofs": (swap_proofs, "the proof is for record"),
    "another record's proof": (claim_another_index, "does not prove the record"),
    "another log's checkpoint, also in the proofs": (take_other_checkpoint, "does not prove the record"),
    "another log's checkpoint in one proof": (take_other_checkpoint_in_a_proof, "for another checkpoint"),
    "another log's checkpoint": (
        lambda entries: entries.update({f"{FOLDER}/checkpoint": entries[f"{OTHER}/checkpoint"]}),
        "something else than its checkpoint",
    ),
    "a checkpoint without its signature": (
        replaced(f"{FOLDER}/checkpoint", lambda note: note[: note.index(b"\n\n") + 2]),
        "checkpoint is not accepted",
    ),
    "a record is left out": (
        replaced(RECORDS, lambda content: b"".join(content.splitlines(keepends=True)[1:])),
        "has 2 records, and evidence.json says 3",
    ),
    "a record is left out, and the count fits": (
        lambda entries: (
            replaced(RECORDS, lambda content: b"".join(content.splitlines(keepends=True)[1:]))(entries),
            in_contents(lambda contents: contents["logs"][0].update(records=2))(entries),
        ),
        "records that are not in the file",
    ),
    "no records": (
        lambda entries: (
            entries.update({RECORDS: b""}),
            in_contents(lambda contents: contents["logs"][0].update(records=0))(entries),
        ),
        "has 0 records",
    ),
    "no logs": (in_contents(lambda contents: contents["logs"].clear()), "names no log"),
    "a log twice": (in_contents(lambda contents: contents["logs"].append(contents["logs"][0])), "a log twice"),
    "another size": (
        in_contents(lambda contents: contents["logs"][0].update(size=99)),
        "something else than its checkpoint",
    ),
    "another version": (in_contents(lambda contents: contents.update(version=2)), "a newer audit-async"),
    "a member that is not known": (in_contents(lambda contents: contents.update(also=1)), "not in its format"),
    "a proof is missing": (
        lambda entries: entries.pop(f"{PROOFS}/{seqs(entries)[0]}.tlog-proof"),
        r"proofs/\d+.tlog-proof is missing",
    ),
    "no records file": (lambda entries: entries.pop(RECORDS), "records.ndjson is missing"),
    "no checkpoint": (lambda entries: entries.pop(f"{FOLDER}/checkpoint"), "checkpoint is missing"),
    "no evidence.json": (lambda entries: entries.pop("evidence.json"), "no selective evidence"),
    "no checksums": (lambda entries: entries.pop("MANIFEST.sha256"), "MANIFEST.sha256 is missing"),
    "no README": (lambda entries: entries.pop("README.txt"), "README.txt is missing"),
    "no disclosures": (lambda entries: entries.pop("disclosures.json"), "disclosures.json is missing"),
    "one file more": (lambda entries: entries.update({"more.txt": b"x"}), "more.txt does not belong"),
    "an entry that escapes": (lambda entries: entries.update({"../more.txt": b"x"}), "no plain path"),
    "an absolute entry": (lambda entries: entries.update({"/tmp/more.txt": b"x"}), "no plain path"),
    "an entry of Windows": (lambda entries: entries.update({"orders\\..\\more": b"x"}), "no plain path"),
    "a folder elsewhere": (in_contents(lambda contents: contents["logs"][0].update(log="../orders/00")), "is missing"),
    "a disclosure with another text": (
        in_disclosures(lambda all_of: all_of[0].update(text=encoded(b'"mallory"'))),
        "not what was sealed",
    ),
    "a disclosure with another salt": (
        in_disclosures(lambda all_of: all_of[0].update(salt="00" * 16)),
        "not what was sealed",
    ),
    "a salt that begins the text": (
        in_disclosures(
            lambda all_of: all_of[0].update(
                salt=all_of[0]["salt"] + base64.b64decode(all_of[0]["text"])[:1].hex(),
                text=encoded(base64.b64decode(all_of[0]["text"])[1:]),
            )
        ),
        "not what was sealed",
    ),
    "a salt of half a byte more": (
        in_disclosures(lambda all_of: all_of[0].update(salt=all_of[0]["salt"] + "0")),
        "not what was sealed",
    ),
    "a salt with blanks": (
        in_disclosures(lambda all_of: all_of[0].update(salt=" " + all_of[0]["salt"])),
        "not what was sealed",
    ),
    "a salt that is no hex": (in_disclosures(lambda all_of: all_of[0].update(salt="zz")), "not what was sealed"),
    "a text that is no base64": (in_disclosures(lambda all_of: all_of[0].update(text="*")), "not what was sealed"),
    "a disclosure for another member": (
        in_disclosures(lambda all_of: all_of[0].update(place=["event", "actor", "ip"])),
        "not what was sealed",
    ),
    "two members' disclosures exchanged": (
        in_disclosures(
            lambda all_of: (
                p := all_of[0]["place"],
                all_of[0].update(place=all_of[1]["place"]),
                all_of[1].update(place=p),
            )
        ),
        "not what was sealed",
    ),
    "a disclosure for what is not sealed": (
        in_disclosures(lambda all_of: all_of[0].update(place=["event", "method"])),
        "nothing is sealed there",
    ),
    "a disclosure of no member": (in_disclosures(lambda all_of: all_of[0].update(place=[])), "nothing is sealed there"),
    "a disclosure for another record": (
        in_disclosures(lambda all_of: exchange(all_of, "salt", "text")),
        "not what was sealed",
    ),
    "a disclosure for another seq": (in_disclosures(lambda all_of: exchange(all_of, "seq")), "another record than"),
    "a disclosure for another audit_id": (
        in_disclosures(lambda all_of: exchange(all_of, "seq", "audit_id")),
        "not what was sealed",
    ),
    "a disclosure for a record that is not there": (
        in_disclosures(lambda all_of: all_of[0].update(seq=99)),
        "records that are not in the file",
    ),
    "a disclosure for another log": (
        in_disclosures(lambda all_of: all_of[0].update(log_id="0" * 32)),
        "records that are not in the file",
    ),
    "another log id": (
        lambda entries: (
            in_contents(lambda contents: contents["logs"][0].update(log_id="0" * 32))(entries),
            in_disclosures(lambda all_of: [one.update(log_id="0" * 32) for one in all_of[:6]])(entries),
        ),
        "not what was sealed",
    ),
    "a disclosure twice": (disclose_again, "disclosed twice"),
    "a disclosure is left out": (in_disclosures(lambda all_of: all_of.pop()), "has 11, and evidence.json says 12"),
    "deep nesting": (replaced("disclosures.json", lambda _: b"[" * 100_000), "not in its format"),
}


@pytest.mark.parametrize(("change", "said"), ATTACKS.values(), ids=ATTACKS.keys())
def test_no_change_is_believed(
    change: Callable[[Entries], object], said: str, trail: EvidenceTrail, evidence: Path, tmp_path: Path
) -> None:
    """Though the list of checksums was made to fit, the file is refused, and what is wrong is said."""
    entries = entries_of(evidence)
    change(entries)
    with pytest.raises(InvalidEvidence, match=said):
        verify_evidence(write_entries(tmp_path / "e.zip", entries), trail.policy)


def test_evidence_that_was_written_again_unchanged_holds(trail: EvidenceTrail, evidence: Path, tmp_path: Path) -> None:
    """So what the attacks are refused for is the change alone."""
    again = write_entries(tmp_path / "e.zip", entries_of(evidence))
    assert verify_evidence(again, trail.policy) == verify_evidence(evidence, trail.policy)


def test_a_byte_that_does_not_fit_the_checksums(trail: EvidenceTrail, evidence: Path, tmp_path: Path) -> None:
    """Every file is held to the list, the README included."""
    for name in entries_of(evidence):
        entries = entries_of(evidence)
        entries[name] = entries[name][:-2] + b"?" + entries[name][-1:]
        with pytest.raises(InvalidEvidence):
            verify_evidence(write_entries(tmp_path / "e.zip", entries, fitting=False), trail.policy)
    entries = entries_of(evidence)
    entries["README.txt"] += b"All other records are proven, too.\n"
    with pytest.raises(InvalidEvidence, match=r"README\.txt was changed"):
        verify_evidence(write_entries(tmp_path / "e.zip", entries, fitting=False), trail.policy)


def test_every_checksum_counts(trail: EvidenceTrail, evidence: Path, tmp_path: Path) -> None:
    """A list that has another digest of one file is refused, though the file itself holds."""
    entries = entries_of(evidence)
    for line in entries[CHECKSUMS].splitlines(keepends=True):
        listed = {CHECKSUMS: entries[CHECKSUMS].replace(line, b"0" * 64 + line[64:])}
        with pytest.raises(InvalidEvidence, match="was changed"):
            verify_evidence(write_entries(tmp_path / "e.zip", entries | listed, fitting=False), trail.policy)


def test_more_records_than_are_kept_in_memory(
    trail: EvidenceTrail, evidence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a file claims, the check keeps no more records than one may have."""
    monkeypatch.setattr(evidence_check, "MOST_RECORDS", 2)
    with pytest.raises(InvalidEvidence, match="more records than"):
        verify_evidence(evidence, trail.policy)


def test_a_checkpoint_of_a_key_that_nobody_trusts(trail: EvidenceTrail, evidence: Path, tmp_path: Path) -> None:
    """Whoever signs everything again needs the log's key; trusting one log is not trusting the other."""
    write_key(tmp_path / "own.pem", new_key())
    signer = load_signer(tmp_path / "own.pem", origin=ORIGINS["00"])
    entries = entries_of(evidence)
    old = entries[f"{FOLDER}/checkpoint"]
    new = sign(SignedCheckpoint.parse(old).checkpoint, signer).encode()
    forged = {name: content.replace(old, new) for name, content in entries.items()}
    with pytest.raises(InvalidEvidence, match="orders/00/checkpoint is not accepted"):
        verify_evidence(write_entries(tmp_path / "e.zip", forged), trail.policy)
    only_first = Policy.of([VerifierKey.parse(trail.vkeys[0])])
    with pytest.raises(InvalidEvidence, match=r"orders/01/checkpoint is not accepted.*the policy accepts"):
        verify_evidence(evidence, only_first)


def test_a_link_and_an_entry_twice(trail: EvidenceTrail, evidence: Path, tmp_path: Path) -> None:
    """A zip that unpacks to something else than what was checked is refused."""
    path = write_entries(tmp_path / "e.zip", entries_of(evidence))
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidEvidence, match="no regular file"):
        verify_evidence(path, trail.policy)
    path = write_entries(path, entries_of(evidence))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(RECORDS, b"other")
    with pytest.raises(InvalidEvidence, match="there twice"):
        verify_evidence(path, trail.policy)


def test_what_is_no_zip_or_half_of_one(trail: EvidenceTrail, evidence: Path, tmp_path: Path) -> None:
    """Any prefix of the file, and any file with noise in it, is refused without a traceback."""
    whole = evidence.read_bytes()
    for number, content in enumerate([b"", b"PK", whole[:1000], whole[:-10], b"\xff" * 3000]):
        (tmp_path / f"{number}.zip").write_bytes(content)
        with pytest.raises(InvalidEvidence, match="no zip"):
            verify_evidence(tmp_path / f"{number}.zip", trail.policy)
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        (tmp_path / "e.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            proven = verify_evidence(tmp_path / "e.zip", trail.policy)
        except (InvalidEvidence, OSError):
            continue
        assert proven == verify_evidence(evidence, trail.policy)  # a time or a flag of the zip that nothing depends on


def test_an_entry_that_is_longer_than_it_can_be(trail: EvidenceTrail, evidence: Path, tmp_path: Path) -> None:
    """A small zip that unpacks to very much is refused before it fills the memory."""
    entries = entries_of(evidence) | {"README.txt": bytes(5 << 20)}
    with pytest.raises(InvalidEvidence, match=r"README\.txt is longer"):
        verify_evidence(write_entries(tmp_path / "e.zip", entries), trail.policy)


def test_the_key_store_is_not_needed_to_check(trail: EvidenceTrail, evidence: Path) -> None:
    """No key of the store, and no wrapped one, is in the file."""
    content = b"".join(entries_of(evidence).values())
    store = open_store(trail.key_store)
    try:
        for key in store.keys(list(store.find(Subject("", "user", "alice-00")))).values():
            assert isinstance(key, bytes)
            assert key not in content
            assert key.hex().encode() not in content
            assert base64.b64encode(key) not in content
    finally:
        store.close()


def test_what_is_proven_is_the_record_itself(trail: EvidenceTrail, evidence: Path) -> None:
    """Byte for byte as it is in the log, from a path or a text."""
    logs = verify_evidence(str(evidence), trail.policy)
    assert logs == verify_evidence(evidence, trail.policy)
    lines = next(iter(trail.logs.values())).lines
    for record in logs[0].records:
        assert record.line == lines[record.seq]
        assert decode_record(record.line).audit_id == record.audit_id


def test_without_its_extra_it_says_what_to_install(trail: EvidenceTrail, evidence: Path) -> None:
    """At the first signature; nothing is called proven that was not checked."""
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from audit_async.evidence import verify_evidence\n"
        "from audit_async.tlog.notes import VerifierKey\n"
        "from audit_async.tlog.policy import Policy\n"
        "verify_evidence(sys.argv[1], Policy.of([VerifierKey.parse(vkey) for vkey in sys.argv[2:]]))\n"
        "print('proven')"
    )
    command = [sys.executable, "-c", code, str(evidence), *[log.vkey for log in trail.logs.values()]]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "audit-async[tlog]" in ended.stderr.splitlines()[-1]
