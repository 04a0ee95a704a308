"""The evidence bundle: whoever has it, and Python, can check it; and any change of it is found."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from audit_async import standalone
from audit_async._export.bundle import write_bundle
from audit_async._export.export_file import ExportFailed
from audit_async._query.audit_query import AuditQuery, Glob
from audit_async._query.matching import Filter
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found
from audit_async._store.archiving import compress_segment
from audit_async._store.log_store import LogStore
from audit_async._trail.log_files import find_logs
from audit_async.config import RetentionPolicy
from audit_async.errors import LogCorrupted
from tests.cli.made_trails import erasure, failure, make_trail
from tests.store.chained import open_store

NOW = datetime(2026, 11, 23, tzinfo=UTC)
PYTHON_ALONE = (sys.executable, "-I", "-S")


def bundle(base_dir: Path, query: AuditQuery) -> bytes:
    """Return the zip of what a query finds."""
    found = (found for found in Search(find_logs(base_dir), query, Damage(skip=False)).run() if found is not None)
    file = io.BytesIO()
    write_bundle(islice(found, query.limit), query, file, now=NOW)
    return file.getvalue()


def unpacked(base_dir: Path, query: AuditQuery) -> Path:
    """Return a fresh folder with the bundle of what a query finds."""
    folder = base_dir.parent / "unpacked"
    with zipfile.ZipFile(io.BytesIO(bundle(base_dir, query))) as archive:
        archive.extractall(folder)
    return folder


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the bundle's own verifier as its auditor would, in an interpreter that has no package."""
    command = [*PYTHON_ALONE, "verify_trail.py", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """Two logs of several segments."""
    for instance in (0, 1):
        events = [failure(("alice", "bob", "mallory")[n % 3], n) for n in range(60)]
        make_trail(
            tmp_path / "trail", events, instance=f"{instance:02d}", max_bytes=5000, step_ns=10**6 + 1000 * instance
        )
    return tmp_path / "trail"


def test_a_bundle_proves_itself(trail: Path) -> None:
    """Unpacked in a fresh folder, the bundle passes its own verifier and sha256sum."""
    folder = unpacked(trail, AuditQuery(actor="bob"))
    verified = verify(folder)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "orders/00: 20 records, in the chain from seq 1 to seq 58" in verified.stdout
    assert subprocess.run(["sha256sum", "-c", "--quiet", "MANIFEST.sha256"], cwd=folder, check=False).returncode == 0


def test_it_holds_the_records_and_the_chain_around_them(trail: Path) -> None:
    """The records are those of the query and the chain is unbroken, both byte for byte as recorded."""
    query = AuditQuery(actor="mallory", limit=5)
    folder = unpacked(trail, query)
    lines = b"".join(path.read_bytes() for path in sorted((trail / "orders" / "00").glob("*.audit"))).splitlines(True)
    assert (folder / RECORDS).read_bytes().splitlines(True) == [lines[2], lines[5], lines[8]]
    assert (folder / CHAIN).read_bytes().splitlines(True) == lines[2:9]
    assert (folder / "orders/01/records.ndjson").read_bytes().count(b"\n") == 2
    assert (folder / "orders/00/manifest.json").read_bytes() == (trail / "orders/00/manifest.json").read_bytes()
    contents = json.loads((folder / "bundle.json").read_bytes())
    assert contents["query"] == {"actor": "mallory", "limit": 5}
    last = json.loads(lines[-1])
    assert contents["logs"][0]["head"] == {"seq": last["seq"], "hash": last["hash"]}
    assert last["hash"] in (folder / "README.txt").read_text()


def test_the_same_export_is_the_same_file(trail: Path) -> None:
    """Exporting the same records at the same time again gives the same bytes."""
    assert bundle(trail, AuditQuery(actor="bob")) == bundle(trail, AuditQuery(actor="bob"))


def reseal(folder: Path) -> None:
    """Make the list of checksums fit again, as whoever changes a bundle would."""
    listed = folder / "MANIFEST.sha256"
    if not listed.is_file():
        return
    names = [line.split("  ", 1)[1] for line in listed.read_text().splitlines()]
    there = [name for name in names if (folder / name).is_file()]
    listed.write_text("".join(f"{sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in there))


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Return what changes a file of a bundle."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def without_line(number: int) -> Callable[[bytes], bytes]:
    """Return what takes a line out."""
    return lambda content: b"".join(line for n, line in enumerate(content.splitlines(True)) if n != number)


def in_manifest(member: str) -> Callable[[bytes], bytes]:
    """Return what changes a member of the second segment's entry."""

    def change(content: bytes) -> bytes:
        manifest = json.loads(content)
        manifest["segments"][1][member] = "0" * 64
        return json.dumps(manifest).encode()

    return change


def in_contents(change: Callable[[Any], object]) -> Callable[[Path], object]:
    """Return what changes bundle.json."""

    def changed(content: bytes) -> bytes:
        contents = json.loads(content)
        change(contents)
        return json.dumps(contents).encode()

    return edit("bundle.json", changed)


def replace_by_link(path: Path) -> None:
    """Put a symbolic link to the same content in a file's place."""
    aside = path.parents[2].with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


def replace_by_fifo(path: Path) -> None:
    """Put a FIFO, which nobody writes to, in a file's place."""
    path.unlink()
    os.mkfifo(path)


CHAIN, RECORDS = "orders/00/chain.ndjson", "orders/00/records.ndjson"
EDITS: dict[str, Callable[[Path], object]] = {
    "a byte of a record": edit(RECORDS, lambda content: content.replace(b"bob", b"rob", 1)),
    "a byte of the chain": edit(CHAIN, lambda content: content.replace(b"alice", b"alike", 1)),
    "a record is missing": edit(RECORDS, without_line(3)),
    "the last record is missing": edit(RECORDS, without_line(19)),
    "a record twice": edit(RECORDS, lambda content: content.splitlines(True)[0] + content),
    "a line of the chain is missing": edit(CHAIN, without_line(10)),
    "the chain's first line is missing": edit(CHAIN, without_line(0)),
    "the chain's last line is missing": edit(CHAIN, without_line(57)),
    "both are cut": lambda folder: (edit(CHAIN, without_line(57))(folder), edit(RECORDS, without_line(19))(folder)),
    "both are cut, and the count fits": lambda folder: (
        edit(CHAIN, without_line(57))(folder),
        edit(RECORDS, without_line(19))(folder),
        edit("bundle.json", lambda content: content.replace(b'"records": 20', b'"records": 19', 1))(folder),
    ),
    "two lines of the chain are swapped": edit(
        CHAIN, lambda content: b"".join((lines := content.splitlines(True))[:4] + lines[5:3:-1] + lines[6:])
    ),
    "a segment's SHA-256 in the manifest": edit("orders/00/manifest.json", in_manifest("sha256")),
    "a segment's last hash in the manifest": edit("orders/00/manifest.json", in_manifest("hash")),
    "a segment's prev_hash in the manifest": edit("orders/00/manifest.json", in_manifest("prev_hash")),
    "a segment's checksum": lambda folder: [
        path.write_text("0" * 64 + path.read_text()[64:]) for path in (folder / "orders/00").glob("*.sha256")
    ],
    "another log's chain": lambda folder: (folder / CHAIN).write_bytes(
        (folder / "orders/01/chain.ndjson").read_bytes()
    ),
    "a chain is missing": lambda folder: (folder / CHAIN).unlink(),
    "log.json is missing": lambda folder: (folder / "orders/00/log.json").unlink(),
    "log.json is another log's": lambda folder: (folder / "orders/00/log.json").write_bytes(
        (folder / "orders/01/log.json").read_bytes().replace(b'"log_id":"', b'"log_id":"0', 1)
    ),
    "no log is named": in_contents(lambda contents: contents["logs"].clear()),
    "a log is left out": in_contents(lambda contents: contents["logs"].pop()),
    "a log comes twice": in_contents(lambda contents: contents["logs"].append(contents["logs"][0])),
    "no records": lambda folder: (
        edit(RECORDS, lambda content: b"")(folder),
        in_contents(lambda contents: contents["logs"][0].update(records=0))(folder),
    ),
    "a matching record is left out, and the count fits": lambda folder: (
        edit(RECORDS, without_line(3))(folder),
        in_contents(lambda contents: contents["logs"][0].update(records=19))(folder),
    ),
    "a record that was not asked for, and the count fits": lambda folder: (
        edit(
            RECORDS,
            lambda content: (
                content.splitlines(True)[0]
                + (folder / CHAIN).read_bytes().splitlines(True)[1]
                + b"".join(content.splitlines(True)[1:])
            ),
        )(folder),
        in_contents(lambda contents: contents["logs"][0].update(records=21))(folder),
    ),
    "another question": in_contents(lambda contents: contents["query"].update(actor="alice")),
    "a question that the verifier does not know": in_contents(lambda contents: contents["query"].update(skip=3)),
    "more than the limit": in_contents(lambda contents: contents["query"].update(limit=39)),
    "a head that the log had before": in_contents(lambda contents: contents["logs"][0]["head"].update(seq=5)),
    "another head": in_contents(lambda contents: contents["logs"][0].update(head={"seq": 58, "hash": "0" * 64})),
    "a folder elsewhere": in_contents(lambda contents: contents["logs"][0].update(log="../orders/00")),
    "a link in the chain's place": lambda folder: replace_by_link(folder / CHAIN),
    "a FIFO in the manifest's place": lambda folder: replace_by_fifo(folder / "orders/00/manifest.json"),
    "a FIFO for the checksums": lambda folder: replace_by_fifo(folder / "MANIFEST.sha256"),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS.keys())
@pytest.mark.parametrize("resealed", [False, True], ids=["as it is", "checksums made to fit"])
def test_any_change_is_found(change: Callable[[Path], object], resealed: bool, trail: Path) -> None:
    """A bundle that was changed fails its verifier, also where its list of checksums was made to fit."""
    folder = unpacked(trail, AuditQuery(actor="bob"))
    change(folder)
    if resealed:
        reseal(folder)
    assert standalone.main([str(folder)]) == 1


QUERIES = [
    AuditQuery(),
    AuditQuery(actor="bob"),
    AuditQuery(actor="bo"),
    AuditQuery(actor="7"),
    AuditQuery(actor="evil\x1b[2J"),
    AuditQuery(resource_id="c-1"),
    AuditQuery(resource_id="7"),
    AuditQuery(event_types=("auth.*", "x.[yz]")),
    AuditQuery(event_types=("data.deleted",)),
    AuditQuery(critical=True),
    AuditQuery(critical=False),
    AuditQuery(start=datetime(2026, 11, 22, 12, 0, 0, 2000, tzinfo=UTC)),
    AuditQuery(end=datetime(2026, 11, 22, 14, 0, 0, 4000, tzinfo=timezone(timedelta(hours=2)))),
    AuditQuery(context={"tenant": "acme"}),
    AuditQuery(context={"tenant": "7", "n": "1"}),
    AuditQuery(text="/1"),
    AuditQuery(text="\x1b[2J"),
    AuditQuery(ip="203.0.113.9"),
    AuditQuery(ip="203.0.113.0/24"),
    AuditQuery(ip="2001:0db8::1"),
    AuditQuery(path="/1"),
    AuditQuery(path=Glob("/1*")),
    AuditQuery(actor=Glob("evil\x1b*")),
    AuditQuery(status="4xx,200"),
    AuditQuery(outcome="success"),
    AuditQuery(outcome="failure"),
    AuditQuery(outcome="completed"),
    AuditQuery(fields={"deep.a": "1.5", "actor_id": "7"}),
    AuditQuery(fields={"deep.a": ("true", "null")}),
    AuditQuery(fields={"context.tenant": "null"}),
    AuditQuery(fields={"attempted_user": "evil\x1b[2J"}),
    AuditQuery(after_seq=4),
    AuditQuery(after_seq=2, event_types=("auth.*",), limit=3),
]
EVENTS = [
    failure("bob", 1),
    erasure("c-1"),
    b'{"event_type":"x.y","actor":"bob","context_id":7}',
    b'{"event_type":"x.z","actor":{"user_id":7},"resource":{"resource_id":"c-1","parent_id":null}}',
    b'{"event_type":"x.w","user_id":"bob","actor_id":7,"deep":[{"a":["/1",1.5,null,true]}]}',
    b'{"event_type":"hold.x","set_by":"bob","subject":"c-1"},"context":{"tenant":"acme"}',
    b'{"event_type":"x.v","actor":7.0,"model_ref":"c-1"},"context":{"tenant":7,"n":1}',
    b'{"event_type":"x.u","user_id":true,"b_id":-7,"requester":"bob"},"context":{"tenant":null}',
    failure("evil\\x1b[2J"),
    failure("alice", 10),
    b'{"event_type":"http.request","path":"/1","status":200,"ip":"::ffff:203.0.113.9","route":"/{n}"}',
    b'{"event_type":"http.request","path":"/2","status":404,"actor":{"user_id":"bob","ip":"2001:db8::1"}}',
    b'{"event_type":"http.websocket_closed","path":"/3","status":101,"outcome":"failed"}',
    b'{"event_type":"task.completed","task_id":"t","result":{"status":"success"}}',
]


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_the_verifier_decides_as_the_query_does(
    query: AuditQuery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was asked for, the verifier finds the same records in the chain, and says what was asked for."""
    make_trail(tmp_path / "t", EVENTS)
    lines = b"".join(path.read_bytes() for path in (tmp_path / "t/orders/00").glob("*.audit")).splitlines(True)
    found = {line for line in lines if Filter(query).wants(line)}
    with suppress(ExportFailed):  # some find nothing
        folder = unpacked(tmp_path / "t", query)
        assert standalone.main([str(folder)]) == 0, capsys.readouterr().out
        assert json.dumps(query.asked()) in capsys.readouterr().out
        contents = json.loads((folder / "bundle.json").read_bytes())
        asks_for = standalone.Query(contents).asks_for
        if query.start is None and query.end is None and query.after_seq is None:
            assert {line for line in lines if asks_for(line)} == found
        return
    assert not found


SEALED = f"sealed:1:{'k' * 22}:{'b' * 80}:{'c' * 43}"
#: Two persons' records, in which all that names them is sealed, in the event or its context.
SEALED_RECORD = {
    "seq": 3,
    "timestamp": "2026-11-22T12:00:00.000000Z",
    "event": {
        "event_type": "http.request",
        "actor": {"user_id": SEALED, "ip": SEALED},
        "path": SEALED,
        "query": {"q": [SEALED]},
        "route": "/clear",
        "status": 200,
    },
    "context": {"tenant": SEALED},
}


@pytest.mark.parametrize(
    ("asked", "decided"),
    [
        ({"actor": "alice"}, None),
        ({"actor": {"pattern": "al*"}}, None),
        ({"ip": "203.0.113.9"}, None),
        ({"ip": "203.0.113.0/24"}, None),
        ({"path": "/users/alice"}, None),
        ({"context": {"tenant": "acme"}}, None),
        ({"fields": {"query.q": "x"}}, None),
        ({"fields": {"query.q.0.below": "x"}}, None),
        ({"fields": {"actor.user_id": ["null"]}}, None),
        ({"text": "alice"}, None),
        ({"text": SEALED[:20]}, None),
        ({"actor": "alice", "status": "404"}, False),
        ({"actor": "alice", "event_types": ["auth.*"]}, False),
        ({"resource_id": "alice"}, False),
        ({"path": "/clear"}, True),
        ({"text": "clear"}, True),
        ({"path": "/clear", "actor": "alice"}, None),
    ],
)
def test_the_verifier_decides_nothing_that_is_sealed(asked: dict[str, object], decided: bool | None) -> None:
    """What the export has opened the verifier can't; what is in the clear decides as ever."""
    line = json.dumps(SEALED_RECORD, separators=(",", ":")).encode()
    assert standalone.Query({"query": asked}).asks_for(line) is decided


def test_a_text_that_quotes_a_sealed_one_is_a_text() -> None:
    """Only a whole member counts as sealed: neither a text with one in it nor a member's name."""
    event = {"event_type": "x.y", "actor": f'"{SEALED}', "subject": f'{SEALED}"', "a": f'"{SEALED}"', SEALED: "bob"}
    line = json.dumps({"seq": 1, "timestamp": "", "event": event}, separators=(",", ":")).encode()
    assert standalone.Query({"query": {"actor": "alice"}}).asks_for(line) is False
    assert standalone.Query({"query": {"actor": f'"{SEALED}'}}).asks_for(line) is True


def test_an_export_follows_no_link(trail: Path, tmp_path: Path) -> None:
    """A link in a small file's place gets nothing into a bundle; the error names the file."""
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0")
    for name in ("manifest.json", "log.json", min((trail / "orders/00").glob("*.sha256")).name):
        path = trail / "orders/00" / name
        path.rename(tmp_path / "aside")
        path.symlink_to(secret)
        with pytest.raises(LogCorrupted, match=re.escape(name)):
            bundle(trail, AuditQuery(actor="bob"))
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(LogCorrupted, match=re.escape(name)):
            bundle(trail, AuditQuery(actor="bob"))
        path.unlink()
        (tmp_path / "aside").rename(path)
    assert b"root" not in bundle(trail, AuditQuery(actor="bob"))


def test_every_byte_counts(trail: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever file of the bundle one byte is changed in, the verifier says so, and names the file."""
    folder = unpacked(trail, AuditQuery(actor="bob", limit=3))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name in {"verify_trail.py", "MANIFEST.sha256"}:
            continue  # the one that checks, and the one that is checked by the SHA-256 of the zip
        content = path.read_bytes()
        at = len(content) // 2
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert standalone.main([str(folder)]) == 1
        assert path.name in capsys.readouterr().out
        path.write_bytes(content)
    assert verify(folder).returncode == 0


def test_a_file_that_does_not_belong_is_found(trail: Path) -> None:
    """Nothing can be slipped into a bundle, and its name can't reach the terminal raw."""
    folder = unpacked(trail, AuditQuery(actor="bob"))
    (folder / "more\x1b[31m.txt").write_text("trust me")
    verified = verify(folder)
    assert verified.returncode == 1
    assert "does not belong" in verified.stdout
    assert "\x1b" not in verified.stdout


def archive_all(store: LogStore) -> None:
    """Archive every sealed segment of an open log."""
    for step in store.plan_retention(RetentionPolicy(archive_after_days=0), NOW + timedelta(days=1)):
        store.archive_segments([compress_segment(store.directory, step.segment)])


def test_archived_segments_are_in_it(trail: Path) -> None:
    """A bundle of archived records has the same lines as before, and is checked without zstd."""
    query = AuditQuery(actor="bob")
    with zipfile.ZipFile(io.BytesIO(bundle(trail, query))) as before:
        lines = before.read(CHAIN)
    store = open_store(trail, max_bytes=5000)
    archive_all(store)
    store.close()
    assert list((trail / "orders/00/archive").glob("*.zst"))
    folder = unpacked(trail, query)
    assert (folder / CHAIN).read_bytes() == lines
    assert verify(folder).returncode == 0


def test_a_gap_in_the_chain_is_refused(trail: Path) -> None:
    """Where records between the ones asked for are missing, nothing can be proved, and the error says where."""
    last = max((trail / "orders" / "00").glob("*.audit"))
    lines = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(b"".join(lines[:1] + lines[2:]))
    first = json.loads(lines[0])["seq"]
    with pytest.raises(LogCorrupted) as caught:
        bundle(trail, AuditQuery())
    assert caught.value.seq == first + 1


def test_a_rewritten_piece_is_refused(trail: Path) -> None:
    """Records that were found, and are others when their chain is read, make no bundle."""
    query = AuditQuery()
    found: list[Found] = [f for f in Search(find_logs(trail), query, Damage(skip=False)).run() if f is not None]
    segment = max((trail / "orders" / "00").glob("*.audit"))
    segment.write_bytes(segment.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(LogCorrupted):
        write_bundle(found, query, io.BytesIO(), now=NOW)


@pytest.mark.parametrize("query", [AuditQuery(actor="nobody"), AuditQuery(newest_first=True)])
def test_what_makes_no_bundle(query: AuditQuery, trail: Path) -> None:
    """A bundle without a record, or against the chain, is refused."""
    with pytest.raises(ExportFailed):
        bundle(trail, query)


def test_a_log_with_an_odd_name(tmp_path: Path) -> None:
    """A log in a directory that the library would not have named gets a plain folder in the zip."""
    make_trail(tmp_path / "t", [failure("bob")])
    odd = tmp_path / "a b\x1b[31m"
    (tmp_path / "t" / "orders").rename(odd)
    (odd / "00" / "log.json").unlink()  # which would say its name
    with zipfile.ZipFile(io.BytesIO(bundle(odd / "00", AuditQuery()))) as archive:
        assert "log-0/chain.ndjson" in archive.namelist()
