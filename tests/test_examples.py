"""The examples, each run as its users run it; and the independent check, against good logs and damaged ones.

The logs in the first half are made by hand from the format's definition, so they pin it independently of the package.
"""

from __future__ import annotations

import errno
import html
import io
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from examples.demo import DemoFailed, planned_visits, running_service
from examples.sshd_import import MAX_LINE_BYTES, Clock, Importer, Unrecognised, lines_of, message_in
from tests.integrations.servers import serving
from tests.trails import VERIFY_TRAIL, check_trail, read_events, run_verify_trail

PROJECT = Path(__file__).parents[1]
SEALED, ACTIVE = "000000000000-2026-11-22.audit", "000000000004-2026-11-23.audit"


# A log made by hand.


def made_record(seq: int, prev_hash: str, event: str | None = None) -> tuple[bytes, str]:
    """Return a line as the format defines it, and its hash."""
    event = event or f'{{"event_type":"test.counted","n":{seq}}}'
    body = (
        f'{{"seq":{seq},"audit_id":"5f0c1e9b7a3d2c48-{seq:x}","timestamp":"2026-11-{22 + seq // 4}T04:35:12.{seq:06}Z",'
        f'"service_id":"orders","event":{event},"prev_hash":"{prev_hash}"'
    )
    own = sha256(f"{body}}}".encode()).hexdigest()
    return f'{body},"hash":"{own}"}}\n'.encode(), own


def made_lines(count: int, *, events: dict[int, str] | None = None) -> list[bytes]:
    """Return the lines of a chain; `events` replaces the events of some of them."""
    lines, prev_hash = [], "0" * 64
    for seq in range(count):
        line, prev_hash = made_record(seq, prev_hash, (events or {}).get(seq))
        lines.append(line)
    return lines


CLOSED = '{"event_type":"audit.log_closed"}'
LOG_ID = "5f" * 16


def seal(segment: Path) -> str:
    """Write the checksum file of a segment; return what it says."""
    checksum = f"{sha256(segment.read_bytes()).hexdigest()}  {segment.name}\n"
    segment.with_name(f"{segment.name}.sha256").write_text(checksum)
    return checksum


def write_log(directory: Path, lines: list[bytes]) -> Path:
    """Write a log of two segments, the first one (seq 0 to 3) sealed; return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    identity = {"format_version": 1, "log_id": LOG_ID, "service_id": "orders", "created": "2026-11-22T04:35:12.000000Z"}
    (directory / "log.json").write_text(json.dumps(identity))
    (directory / SEALED).write_bytes(b"".join(lines[:4]))
    (directory / ACTIVE).write_bytes(b"".join(lines[4:]))
    seal(directory / SEALED)
    return directory


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A sound log of eight records, shut down cleanly."""
    return write_log(tmp_path / "orders" / "00", made_lines(8, events={7: CLOSED}))


def test_a_sound_log_is_found_sound(log: Path) -> None:
    """A log as the format defines it gives status 0, and its head is printed."""
    verified = run_verify_trail(log)
    head = json.loads((log / ACTIVE).read_bytes().splitlines()[-1])["hash"]
    assert (verified.returncode, verified.stderr) == (0, "")
    assert f"seq 7, hash {head} (closed)" in verified.stdout


def test_the_check_needs_only_python_and_an_hour() -> None:
    """The independent check imports nothing but the standard library, and can be read by whoever relies on it."""
    source = VERIFY_TRAIL.read_text(encoding="utf-8")
    imports = [line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))]
    imported = {name.partition(".")[0] for name in imports}
    assert imported <= sys.stdlib_module_names
    assert len(source.splitlines()) < 1200


def test_a_tree_is_checked_log_by_log(tmp_path: Path) -> None:
    """Every log below a directory is checked; a finding in one does not hide the others."""
    for name in ("a", "b"):
        write_log(tmp_path / name / "00", made_lines(8))
    edit_line(tmp_path / "a" / "00" / ACTIVE, 1, lambda line: line.replace(b'"n":5', b'"n":6'))
    verified = run_verify_trail(tmp_path)
    assert verified.returncode == 1
    assert f"{tmp_path / 'b' / '00'}: head: seq 7" in verified.stdout


@pytest.mark.parametrize("arguments", [["nowhere"], ["."], ["one", "two"]])
def test_nothing_to_verify_is_status_2(arguments: list[str], tmp_path: Path) -> None:
    """A directory without a log must not pass for a sound one."""
    verified = run_verify_trail(*(tmp_path / argument for argument in arguments))
    assert verified.returncode == 2


def test_a_session_without_an_end_is_noted(tmp_path: Path) -> None:
    """A log that was not shut down cleanly is sound, and the check says how it ended."""
    verified = run_verify_trail(write_log(tmp_path, made_lines(8)))
    assert verified.returncode == 0
    assert "no audit.log_closed" in verified.stdout


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    """U+2028, U+2029 and U+0085 within a record are part of it, as the format says."""
    text = '{"event_type":"test.text","text":"a\u2028b\u2029c\u0085d"}'
    assert run_verify_trail(write_log(tmp_path, made_lines(8, events={2: text, 7: CLOSED}))).returncode == 0


def edit_line(segment: Path, index: int, edit: Callable[[bytes], bytes]) -> None:
    """Change one line of a segment in place."""
    lines = segment.read_bytes().split(b"\n")
    lines[index] = edit(lines[index] + b"\n").removesuffix(b"\n")
    segment.write_bytes(b"\n".join(lines))


def rehashed(line: bytes) -> bytes:
    """Give a line the hash that its changed text asks for, as somebody would who covers his tracks."""
    return line[:-67] + sha256(line[:-76] + b"}").hexdigest().encode() + b'"}\n'


def truncated(path: Path, size: int) -> None:
    """Cut a file to a size, below zero from its end."""
    data = path.read_bytes()
    path.write_bytes(data[:size])


def without_line(path: Path, index: int) -> None:
    """Take one line out."""
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[index]
    path.write_bytes(b"".join(lines))


def swap_lines(path: Path) -> None:
    """Exchange the second and the third line."""
    first, second, third, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, third, second, *rest]))


def upper_case_hash(line: bytes) -> bytes:
    """Spell the hash in upper case."""
    return line[:-67] + line[-67:-3].upper() + line[-3:]


#: what is done to the active segment, and the finding that is due: (line, a part of the reason)
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit of an event": (lambda p: edit_line(p, 1, lambda ln: ln.replace(b'"n":5', b'"n":4')), ":2: its hash"),
    "an event, its hash made again": (
        lambda p: edit_line(p, 1, lambda ln: rehashed(ln.replace(b'"n":5', b'"n":4'))),
        ":3: seq 6 does not follow",
    ),
    "a line taken out": (lambda p: without_line(p, 1), ":2: seq 6 does not follow"),
    "the first line taken out": (lambda p: without_line(p, 0), ":1: seq 5 does not follow"),
    "two lines exchanged": (swap_lines, ":2: seq 6 does not follow"),
    "a line twice": (lambda p: edit_line(p, 1, lambda ln: ln * 2), ":3: seq 5 does not follow"),
    "another seq, its hash made again": (
        lambda p: edit_line(p, 1, lambda ln: rehashed(ln.replace(b'"seq":5', b'"seq":9'))),
        ":2: seq 9 does not follow",
    ),
    "a seq with a leading zero": (
        lambda p: edit_line(p, 1, lambda ln: rehashed(ln.replace(b'"seq":5', b'"seq":05'))),
        ":2: not a whole record",
    ),
    "a tail of garbage": (
        lambda p: p.write_bytes(p.read_bytes() + bytes(range(256)) * 8),
        ":5: not a whole record",
    ),
    "nothing but garbage": (lambda p: p.write_bytes(bytes(range(256)) * 64), ":1: not a whole record"),
    "an empty line": (lambda p: edit_line(p, 1, lambda ln: b"\n" + ln), ":2: not a whole record"),
    "a CR before the newline": (lambda p: edit_line(p, 1, lambda ln: ln[:-1] + b"\r\n"), ":2: not a whole record"),
    "a CR for a newline": (lambda p: edit_line(p, 1, lambda ln: ln[:-1] + b"\r" + ln), ":2: not a whole record"),
    "a CR within the event, its hash made again": (
        lambda p: edit_line(p, 3, lambda ln: rehashed(ln.replace(b'"event_type"', b'"event_type":"x",\r"y"'))),
        ":4: not a whole record",
    ),
    "a hash in upper case": (lambda p: edit_line(p, 1, upper_case_hash), ":2: not a whole record"),
    "a member after the hash": (
        lambda p: edit_line(p, 1, lambda ln: ln[:-2] + b',"note":"x"}\n'),
        ":2: not a whole record",
    ),
    "text after the record": (lambda p: edit_line(p, 1, lambda ln: ln[:-1] + b" {}\n"), ":2: not a whole record"),
    "white space in the record": (
        lambda p: edit_line(p, 1, lambda ln: rehashed(ln.replace(b',"audit_id"', b', "audit_id"'))),
        ":2: not a whole record",
    ),
    "no seq": (
        lambda p: edit_line(p, 1, lambda ln: rehashed(ln.replace(b'"seq":5,', b""))),
        ":2: not a whole record",
    ),
    "a seq of five thousand digits": (
        lambda p: edit_line(p, 1, lambda ln: ln.replace(b'"seq":5', b'"seq":' + b"5" * 5000)),
        ":2: not a whole record",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_a_segment_is_found(damage: str, log: Path) -> None:
    """Damage is reported with segment, line and reason; status 1, and nothing crashes."""
    inflict, finding = DAMAGE[damage]
    inflict(log / ACTIVE)
    verified = run_verify_trail(log)
    assert (verified.returncode, verified.stderr) == (1, "")
    first = next(line for line in verified.stdout.splitlines() if f"/{ACTIVE}:" in line)
    assert f"/{ACTIVE}{finding}" in first


TORN: dict[str, Callable[[Path], object]] = {
    "a torn last line": lambda p: truncated(p, -9),
    "a last line without its end": lambda p: truncated(p, -1),
    "a tail of zeros": lambda p: p.write_bytes(p.read_bytes() + bytes(4096)),
}


@pytest.mark.parametrize("tear", TORN)
def test_an_end_that_a_crash_has_torn_is_no_finding(tear: str, log: Path) -> None:
    """As `audit-async verify` says: the records before it hold, and the head is the last of them."""
    TORN[tear](log / ACTIVE)
    verified = run_verify_trail(log)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "by a crash; the next opening repairs it" in verified.stdout
    assert f"head: seq {7 if tear == 'a tail of zeros' else 6}" in verified.stdout


def remove(*paths: Path) -> None:
    """Remove files."""
    for path in paths:
        path.unlink()


def cut_and_sealed(segment: Path) -> str:
    """Take the last record out of a segment and seal what is left."""
    without_line(segment, -1)
    return seal(segment)


#: what is done to the directory of a log, and a part of the finding that is due
DIRECTORY_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "the sealed segment is gone": (lambda log: (log / SEALED).unlink(), "records are missing from seq 0"),
    "the sealed segment has lost its last record": (
        lambda log: cut_and_sealed(log / SEALED),
        "records are missing from seq 3",
    ),
    "the sealed segment has lost a record and the next one its name": (
        lambda log: (cut_and_sealed(log / SEALED), (log / ACTIVE).rename(log / "000000000003-2026-11-23.audit")),
        ":1: seq 4 does not follow",
    ),
    "the sealed segment is not what its checksum says": (
        lambda log: (log / f"{SEALED}.sha256").write_text(f"{'0' * 64}  {SEALED}\n"),
        "not what its .sha256 says",
    ),
    "the checksum is binary": (lambda log: (log / f"{SEALED}.sha256").write_bytes(b"\xff" * 99), "cannot be checked"),
    "a segment's name is none": (lambda log: (log / ACTIVE).rename(log / "newest.audit"), "cannot be checked"),
    "a segment is a directory": (lambda log: (log / "000000000008-2026-11-24.audit").mkdir(), "cannot be checked"),
    "the manifest is no JSON": (lambda log: (log / "manifest.json").write_bytes(b"\xff\0{["), "cannot be checked"),
    "the manifest is something else": (lambda log: (log / "manifest.json").write_bytes(b"[1]"), "cannot be checked"),
    "no segment is left": (lambda log: remove(*log.glob("*.audit")), "no records"),
    "the segments hold two chains": (
        lambda log: (log / ACTIVE).write_bytes(b"".join(made_lines(8, events={0: CLOSED})[4:])),
        ":1: seq 4 does not follow",
    ),
}


@pytest.mark.parametrize("damage", DIRECTORY_DAMAGE)
def test_damage_to_the_directory_is_found(damage: str, log: Path) -> None:
    """What is missing, misnamed or exchanged is reported; status 1, and nothing crashes."""
    inflict, finding = DIRECTORY_DAMAGE[damage]
    inflict(log)
    verified = run_verify_trail(log)
    assert (verified.returncode, verified.stderr) == (1, "")
    assert finding in verified.stdout


def test_copies_that_a_failed_fsync_left_are_no_damage(log: Path) -> None:
    """Lines at or past the next segment's first seq are void, and fine while they are copies of its records."""
    lines = (log / ACTIVE).read_bytes().splitlines(keepends=True)
    with (log / SEALED).open("ab") as segment:
        segment.writelines(lines[:2])
    seal(log / SEALED)
    assert run_verify_trail(log).returncode == 0


def test_void_lines_that_are_no_copies_are_found(log: Path) -> None:
    """A void line that is not a copy of the record with its seq is a finding."""
    last = json.loads((log / SEALED).read_bytes().splitlines()[-1])["hash"]
    forged, _ = made_record(4, last, '{"event_type":"test.counted","n":400}')
    with (log / SEALED).open("ab") as segment:
        segment.write(forged)
    seal(log / SEALED)
    verified = run_verify_trail(log)
    assert verified.returncode == 1
    assert f"{SEALED}: from byte" in verified.stdout


def manifest_entry(state: str = "live", **members: object) -> dict[str, Any]:
    """Return what the manifest says of the first segment, as `write_log` writes it."""
    content = b"".join(made_lines(4))
    times = [json.loads(line)["timestamp"] for line in made_lines(4)]
    entry = {
        "segment": SEALED, "state": state, "first_seq": 0, "last_seq": 3, "first_timestamp": times[0],
        "last_timestamp": times[-1], "records": 4, "bytes": len(content), "sha256": sha256(content).hexdigest(),
        "prev_hash": "0" * 64, "hash": content[-67:-3].decode(),
    }  # fmt: skip
    return entry | members


def write_manifest(log: Path, entry: dict[str, Any]) -> None:
    """Write a manifest of the first segment, and take the segment away."""
    (log / "manifest.json").write_text(json.dumps({"format_version": 1, "log_id": LOG_ID, "segments": [entry]}))
    for name in (SEALED, f"{SEALED}.sha256"):
        (log / name).unlink()


def with_event(directory: Path, event_type: str, **members: object) -> Path:
    """Write a log whose chain records something of its first segment."""
    event = json.dumps({"event_type": event_type, "segment": SEALED, **members}, separators=(",", ":"))
    return write_log(directory, made_lines(8, events={5: event, 7: CLOSED}))


def test_the_chain_is_joined_over_a_deleted_segment(tmp_path: Path) -> None:
    """A segment that retention deleted is no finding if the chain records it, and one if it does not."""
    entry = manifest_entry("deleted")
    recorded = {name: entry[name] for name in ("first_seq", "last_seq", "sha256", "hash")}
    log = with_event(tmp_path / "a", "audit.segment_deleted", reason="age", **recorded)
    write_manifest(log, entry)
    verified = run_verify_trail(log)
    assert verified.returncode == 0, verified.stdout
    assert "seq 0 on is 'deleted': not read here" in verified.stdout
    log = with_event(tmp_path / "b", "audit.segment_deleted", reason="age", **(recorded | {"last_seq": 2}))
    write_manifest(log, entry)
    assert run_verify_trail(log).returncode == 1
    log = write_log(tmp_path / "c", made_lines(8))
    write_manifest(log, entry)
    verified = run_verify_trail(log)
    assert verified.returncode == 1
    assert "the chain does not record it" in verified.stdout


def test_an_archive_is_the_one_that_the_chain_records(tmp_path: Path) -> None:
    """Without a decompressor by its SHA-256; if the chain does not record it, it was not checked, which is status 3."""
    archive = b"stands for a zstd file"
    recorded = {"archive": f"archive/{SEALED}.zst", "archive_sha256": sha256(archive).hexdigest()}
    log = with_event(tmp_path / "a", "audit.segment_archived", **recorded)
    write_manifest(log, manifest_entry("archived"))
    path = log / "archive" / f"{SEALED}.zst"
    path.parent.mkdir()
    path.write_bytes(archive)
    verified = run_verify_trail(log)
    assert verified.returncode == 0, verified.stdout
    assert "seq 0 on is 'archived': not read here (zstd)" in verified.stdout
    path.write_bytes(archive[:-1])
    assert run_verify_trail(log).returncode == 1
    path.unlink()
    verified = run_verify_trail(log)
    assert verified.returncode == 1
    assert "its archive is missing" in verified.stdout
    log = write_log(tmp_path / "b", made_lines(8))
    write_manifest(log, manifest_entry("archived"))
    path = log / "archive" / f"{SEALED}.zst"
    path.parent.mkdir()
    path.write_bytes(archive)
    verified = run_verify_trail(log)
    assert verified.returncode == 3
    assert "its archive was not checked" in verified.stdout


@pytest.mark.parametrize("state", ["archived", "deleted"])
def test_a_retired_segment_must_join(state: str, log: Path) -> None:
    """What comes after a retired segment must link to the hash that the manifest keeps of it."""
    write_manifest(log, manifest_entry(state, hash="0" * 64))
    verified = run_verify_trail(log)
    assert verified.returncode == 1
    assert f"{ACTIVE}:1: seq 4 does not follow" in verified.stdout


@pytest.mark.parametrize("state", ["live", "lost", "damaged"])
def test_a_segment_that_should_be_there_is_missed(state: str, log: Path) -> None:
    """Only retention may take a segment away, whatever else the manifest says of it."""
    write_manifest(log, manifest_entry(state))
    verified = run_verify_trail(log)
    assert verified.returncode == 1
    assert f"{SEALED}: {'missing' if state == 'live' else state}" in verified.stdout


@pytest.mark.parametrize("name", ["log.json", "manifest.json", SEALED, ACTIVE, f"{SEALED}.sha256", "hold.json"])
@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "endless"])
def test_the_check_waits_for_nothing_and_reads_no_more_than_fits(kind: str, name: str, log: Path) -> None:
    """A FIFO, a link, a directory, or a sparse file that is far too long in a file's place is a finding."""
    (log / "manifest.json").write_text(
        json.dumps({"format_version": 1, "log_id": LOG_ID, "segments": [manifest_entry()]})
    )
    assert run_verify_trail(log).returncode == 0
    path = log / name
    if path.exists():
        path.rename(log.parent / "aside")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(log.parent / "aside" if name != "hold.json" else "/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(256 << 20 if path.suffix == ".audit" else 4 << 30)  # a segment is read, in pieces
    verified = run_verify_trail(log)
    if (kind, name) == ("endless", ACTIVE):  # zeros, which a crash may leave
        assert verified.returncode == 0
        return
    assert (verified.returncode, verified.stderr) == (1, "")
    assert name in verified.stdout


def test_what_may_not_be_read_is_status_3(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no finding that a file can't be read."""
    module = runpy.run_path(str(VERIFY_TRAIL))

    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    for name in ("main", "find_logs"):
        assert name in module
    monkeypatch.setattr(os, "open", refuse)
    assert module["main"]([str(log)]) == 3


def test_every_flipped_bit_is_found(log: Path) -> None:
    """One flipped bit at any byte of a log is found, but for its very last line feed: a line without one is torn."""
    for name in (SEALED, ACTIVE):
        good = (log / name).read_bytes()
        for at in range(len(good) - (name == ACTIVE)):
            (log / name).write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
            with pytest.raises(AssertionError):
                check_trail(log)
        (log / name).write_bytes(good)
    check_trail(log)


# The programs.


def run_example(name: str, *arguments: str | Path, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    """Run an example as its docstring says, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-m", f"examples.{name}", *map(str, arguments)]
    path = filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def event_types(directory: Path) -> list[str]:
    """Return the types of a log's events, without the library's own."""
    types: list[str] = [record["event"]["event_type"] for record in read_events(directory)]
    return [event_type for event_type in types if not event_type.startswith("audit.")]


def test_quickstart_records_its_event(tmp_path: Path) -> None:
    """The README's shortest use leaves one event in a sound trail, and prints its place."""
    run = run_example("quickstart", tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    check_trail(tmp_path)
    assert event_types(tmp_path) == ["auth.failure"]
    (record,) = [record for record in read_events(tmp_path) if record["event"]["event_type"] == "auth.failure"]
    assert record["audit_id"] in run.stdout
    assert f"record {record['seq']} of" in run.stdout
    assert record["hash"] in run.stdout


def test_quickstart_writes_to_audit_in_the_current_directory(tmp_path: Path) -> None:
    """Without an argument the trail is where the README says, `./audit`."""
    assert run_example("quickstart", cwd=tmp_path).returncode == 0
    check_trail(tmp_path / "audit" / "orders")


def test_events_of_ones_own_are_recorded(tmp_path: Path) -> None:
    """The documented user-defined events are in the trail with their tags and every field."""
    run = run_example("custom_event", tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    check_trail(tmp_path)
    actor = {"user_id": "dana", "ip": "198.51.100.7", "auth_method": "bearer_token"}
    events = [record["event"] for record in read_events(tmp_path)]
    assert [event for event in events if event["event_type"].startswith("billing.")] == [
        {
            "event_type": "billing.invoice_paid",
            "actor": actor,
            "invoice_id": "2026-0117",
            "amount_cents": 12900,
            "currency": "EUR",
        },
        {
            "event_type": "billing.refund_over_limit",
            "actor": actor,
            "invoice_id": "2026-0098",
            "amount_cents": 500000,
            "limit_cents": 100000,
        },
    ]


def test_the_fastapi_lifespan_records_both_kinds_of_handlers(tmp_path: Path) -> None:
    """Async and `def` handlers of a FastAPI application under a real server record; SIGTERM closes the log."""
    command = ["uvicorn", "examples.fastapi_lifespan:app", "--port", "0"]
    audit = tmp_path / "audit"
    with serving(tmp_path, command, environment={"AUDIT_DIR": str(audit)}) as server:
        with server.asking() as http:
            assert http.post("/login/alice").status_code == 200
            assert http.get("/orders/17").json() == {"order": "17"}
        assert server.stop(signal.SIGTERM) == -signal.SIGTERM, server.said()
    check_trail(audit)
    assert event_types(audit) == ["auth.success", "authz.granted"]
    assert read_events(audit)[-1]["event"]["event_type"] == "audit.log_closed"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_application_shows_its_trail_to_its_own_users_alone(tmp_path: Path) -> None:
    """An auditor all of it, a customer theirs in a frame, nobody anything else; and who looked is recorded."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        uvicorn = ["-m", "uvicorn", "examples.viewer_in_app:app", "--log-level", "warning"]
        process = await anyio.open_process(
            [sys.executable, *uvicorn, "--fd", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            cwd=PROJECT,
            env={**os.environ, "AUDIT_DIR": str(tmp_path), "APP_URL": url, "APP_PASSWORD": "a long one"},
            stderr=None,
        )

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, follow_redirects=True)

    try:
        async with client() as nobody, client() as olga, client() as ada, client() as uma:
            assert (await nobody.post("/sign-in", json={"name": "olga", "password": "olga"})).status_code == 401
            for name, http in (("olga", olga), ("ada", ada), ("uma", uma)):
                assert (await http.post("/sign-in", json={"name": name, "password": "a long one"})).status_code == 200
            for name, http in (("ada", ada), ("uma", uma)):
                assert (await http.post(f"/orders/of-{name}")).status_code == 200
            for http in (nobody, ada):
                assert (await http.get("/audit/records")).status_code == 401
            seen = await olga.get("/audit/")
            assert seen.status_code == 200
            assert {"of-ada", "of-uma"} <= set(re.findall(r"of-\w+", seen.text))
            assert (await olga.get("/your-trail")).status_code == 401
            page = (await ada.get("/your-trail")).text
            framed = await nobody.get(html.unescape(re.findall(r'src="([^"]+)"', page)[0]))  # no cookie counts there
            assert framed.status_code == 200
            assert set(re.findall(r"of-\w+", framed.text)) == {"of-ada"}
            assert f"frame-ancestors {url}" in framed.headers["content-security-policy"]
            await olga.post("/sign-out")
            assert (await olga.get("/audit/records")).status_code == 401
        process.terminate()
        with anyio.fail_after(60):
            assert await process.wait() == -signal.SIGTERM
    finally:
        if process.returncode is None:
            process.kill()
        await process.aclose()
    assert event_types(tmp_path / "shop") == [
        "auth.failure", *["auth.success"] * 3, *["resource.created"] * 2
    ]  # fmt: skip
    looked = [record["event"] for record in read_events(tmp_path / "audit-view")]
    accesses = [event for event in looked if event["event_type"] == "audit.log_accessed"]
    assert [(event["actor"], event["query"].get("embed")) for event in accesses] == [("olga", None), ("ada", True)]


# The web service and the demo.


def test_the_demo_holds_what_it_says(tmp_path: Path) -> None:
    """The demo ends with 0, its trail is sound, and it prints the figures that the trail has."""
    run = run_example("demo", "--requests", "150", "--dir", tmp_path / "trail")
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    log = tmp_path / "trail" / "documents" / "00"
    check_trail(log)
    records = read_events(log)
    assert records[-1]["hash"] in run.stdout
    assert "150 in " in run.stdout
    assert f"{len(records):,} " in run.stdout
    assert "\033" not in run.stdout
    commands = run.stdout[run.stdout.index("\naudit-async verify\n") :]
    shown = (
        "every hash and every link holds",
        "audit-async stats",
        "By actor",
        "audit-async query --critical",
        "5 records",
    )
    assert sorted(map(commands.index, shown)) == [commands.index(text) for text in shown]
    assert run.stdout.rstrip().endswith(f"All held. The trail is kept in {log}")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # of the test; the demo chooses its own
@pytest.mark.parametrize(("target", "sent", "status"), [("demo", "SIGTERM", 130), ("service", "SIGKILL", 1)])
async def test_the_demo_leaves_no_process_behind(target: str, sent: str, status: int, tmp_path: Path) -> None:
    """Told to stop, or its service killed, the demo ends with an error status, and the service ends with it."""
    command = [sys.executable, "-m", "examples.demo", "--requests", "1000000", "--dir", str(tmp_path)]
    async with await anyio.open_process(command, cwd=PROJECT) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        printed = b""
        try:
            with anyio.fail_after(60):
                while not (found := re.search(rb"process (\d+)\n", printed)):
                    printed += await demo.stdout.receive()
            service = int(found[1])
            os.kill(service if target == "service" else demo.pid, signal.Signals[sent])
            with anyio.fail_after(60):
                assert await demo.wait() == status
        finally:
            if demo.returncode is None:
                demo.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(service, 0)


def test_the_demo_refuses_a_directory_in_use(tmp_path: Path) -> None:
    """A run's trail is that run's alone: a directory that is not empty is refused and left alone."""
    (tmp_path / "notes.txt").write_text("keep me")
    run = run_example("demo", "--requests", "1", "--dir", tmp_path)
    assert run.returncode == 1
    assert "is not empty" in run.stderr
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_the_demo_plans_the_same_requests_for_the_same_seed() -> None:
    """The requests are the same in every run, as many as asked for, and hold each kind of misbehaviour."""
    visits = planned_visits(4000, seed=2026)
    assert visits == planned_visits(4000, seed=2026)
    assert sum(map(len, visits)) == 4000
    due = Counter(event for visit in visits for request in visit for event in request.events)
    misbehaviour = {
        "auth.failure",
        "authz.denied",
        "security.path_traversal_attempt",
        "security.invalid_token_used",
        "token.revoked",
        "data.deleted",
    }
    assert {event for event in misbehaviour if due[event] >= 5} == misbehaviour


@pytest.mark.anyio
async def test_the_service_records_what_it_refuses_and_no_secret(tmp_path: Path) -> None:
    """Each refusal is recorded before it is answered, and neither password nor token is in the trail."""
    with (tmp_path / "stderr").open("wb") as errors:
        async with running_service(tmp_path / "trail", errors) as service:
            async with httpx.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as http:
                password = service.passwords["alice"]
                answers = [
                    await http.post("/login", json={"user": "alice\x1b[2J", "password": "guess-one"}),
                    await http.post("/login", json={"user": "nobody", "password": "guess-two"}),
                    await http.post("/login", json={"user": ["alice"], "password": password}),
                    await http.post("/login", content=b"x" * 100_000),
                    await http.get("/documents/doc-1"),
                    await http.get("/documents/doc-1", headers={"Authorization": "Bearer made-up-token"}),
                    await http.get("/files/%2e%2e/%2e%2e/etc/passwd"),
                    await http.get("/files/%2fetc/passwd"),
                    await http.get("/files/a%00b"),
                    await http.get("/files/" + "a" * 5000),
                    await http.get("/nowhere"),
                    await http.put("/login"),
                ]
                token = (await http.post("/login", json={"user": "alice", "password": password})).json()["token"]
                headers = {"Authorization": f"Bearer {token}"}
                answers += [
                    await http.delete("/documents/doc-1", headers=headers),
                    await http.post("/logout", headers=headers),
                    await http.get("/documents/doc-1", headers=headers),
                ]
            assert await service.stop() == -signal.SIGTERM
    assert [answer.status_code for answer in answers] == [
        *[401, 401, 400, 400, 401, 401, 404, 404, 404, 404, 404, 404],
        *[403, 204, 401],
    ]
    check_trail(tmp_path / "trail")
    by_id = {record["audit_id"]: record["event"]["event_type"] for record in read_events(tmp_path / "trail")}
    assert [by_id[answer.headers["X-Audit-Id"]] for answer in answers] == [
        *["auth.failure", "auth.failure", "auth.failure", "auth.failure", "auth.failure"],
        "security.invalid_token_used",
        *["security.path_traversal_attempt"] * 3,
        *["authz.denied"] * 4,
        *["token.revoked", "security.invalid_token_used"],
    ]
    written = b"".join(path.read_bytes() for path in (tmp_path / "trail").rglob("*.audit"))
    for secret in (password, token, "guess-one", "guess-two", "made-up-token"):
        assert secret.encode() not in written
    assert (tmp_path / "stderr").read_bytes() == b""


@pytest.mark.anyio
async def test_a_service_that_does_not_start_leaves_no_process(tmp_path: Path) -> None:
    """Where the service can't open its trail the demo says so, with the service's own words, and nothing hangs."""
    (tmp_path / "trail").mkdir()
    (tmp_path / "trail" / "documents").write_text("a file where the service's directory must be")
    with (tmp_path / "stderr").open("wb") as errors, pytest.raises(DemoFailed, match="before it listened"):
        async with running_service(tmp_path / "trail", errors):
            pytest.fail("it must not start")
    assert (tmp_path / "stderr").read_bytes() != b""


# The import of a real log.


def test_520_failed_passwords_become_520_events(sshd_log: Path, tmp_path: Path) -> None:
    """A real server's log becomes a sound trail in which no failed password is missing and no line passed over."""
    run = run_example("sshd_import", sshd_log, "--dir", tmp_path, "--year", "2017")
    assert (run.returncode, run.stderr) == (0, "")
    check_trail(tmp_path)
    failed = [line for line in sshd_log.read_text().splitlines() if "Failed password" in line]
    types = Counter(event_types(tmp_path))
    assert len(failed) == 520
    assert types == {"auth.failure": 520, "auth.success": 1, "security.suspicious_activity": 105}
    assert "2,000 lines\n" in run.stdout
    assert "520 auth.failure\n" in run.stdout
    assert " 0 lines not recognised\n" in run.stdout
    events = [record["event"] for record in read_events(tmp_path)]
    failures = [event for event in events if event["event_type"] == "auth.failure"]
    assert [event["ip"] for event in failures] == [line.rpartition(" from ")[2].split()[0] for line in failed]
    assert {event["occurred_at"][:10] for event in failures} == {"2017-12-10"}
    (accepted,) = [event for event in events if event["event_type"] == "auth.success"]
    assert accepted["actor"]["user_id"] == "fztu"
    assert accepted["actor"]["ip"] == "119.137.62.142"
    suspicions = [event for event in events if event["event_type"] == "security.suspicious_activity"]
    assert all(event["actor"].get("ip") for event in suspicions)


def test_lines_that_are_not_understood_are_counted_and_named(tmp_path: Path) -> None:
    """What the importer can't read is said, line by line; what other programs say is counted apart."""
    (tmp_path / "auth.log").write_bytes(
        b"Dec 10 06:55:46 host CRON[1]: pam_unix(cron:session): session opened for user root\n"
        b"Dec 10 06:55:46 host sshd[2]: something that no server has said so far\n"
        b"not a line of syslog \xff\n"
        b"Feb 30 06:55:46 host sshd[3]: Failed password for root from 192.0.2.1 port 22 ssh2\n"
        b"Dec 10 06:55:46 host sshd[4]: Failed password for root from 192.0.2.1 port 22 ssh2"
    )
    run = run_example("sshd_import", tmp_path / "auth.log", "--dir", tmp_path / "trail")
    assert (run.returncode, run.stderr) == (0, "")
    assert "1 auth.failure\n" in run.stdout
    assert "1 lines of other programs\n" in run.stdout
    assert "3 lines not recognised\n" in run.stdout
    assert [word for word in ("line 2:", "line 3:", "line 4:", "line 5:") if word in run.stdout] == [
        "line 2:",
        "line 3:",
        "line 4:",
    ]
    assert "no server has said" not in run.stdout
    check_trail(tmp_path / "trail")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A wrong file name is an error with a message, not a traceback."""
    run = run_example("sshd_import", tmp_path / "nothing.log", "--dir", tmp_path / "trail")
    assert run.returncode == 1
    assert "nothing.log" in run.stderr
    assert "Traceback" not in run.stderr


def imported(*messages: str) -> list[dict[str, Any] | None]:
    """Return what becomes of messages of one sshd process, as plain data."""
    importer, clock = Importer(), Clock(year=2026, now=datetime(2026, 11, 23, tzinfo=UTC))
    events = []
    for text in messages:
        message = message_in(f"Nov 22 10:00:00 host sshd[7]: {text}", clock.time_of)
        assert message is not None
        event = importer.event_of(message)
        events.append(None if event is None else {"event_type": event.event_type, **msgspec.structs.asdict(event)})
    return events


FORGED = "root from 192.0.2.66 port 1 ssh2"


@pytest.mark.parametrize(
    "text",
    [
        "Failed password for {user} from 203.0.113.9 port 52683 ssh2",
        "Failed password for invalid user {user} from 203.0.113.9 port 52683 ssh2",
        "message repeated 3 times: [ Failed password for {user} from 203.0.113.9 port 52683 ssh2]",
        "Failed publickey for {user} from 203.0.113.9 port 52683 ssh2: RSA SHA256:abcdef",
    ],
)
@pytest.mark.parametrize("user", ["root", FORGED, f"{FORGED}: RSA SHA256:x", "a b  c", "", " from 192.0.2.66 port 1"])
def test_a_user_name_cannot_forge_the_address(text: str, user: str) -> None:
    """Whatever the user name says, the address is the one that the server wrote, and the name is kept whole."""
    (event,) = imported(text.format(user=user))
    assert event is not None
    assert (event["event_type"], event["ip"], event["attempted_user"]) == ("auth.failure", "203.0.113.9", user)


def test_an_accepted_user_name_cannot_forge_the_address() -> None:
    """The same holds if the password was right."""
    (event,) = imported(f"Accepted password for {FORGED} from 203.0.113.9 port 52683 ssh2")
    assert event is not None
    assert event["actor"].ip == "203.0.113.9"
    assert event["actor"].user_id == FORGED


def test_a_message_without_an_address_takes_its_connections() -> None:
    """A connection's address, named by one line, is in the event of another line that names none."""
    _, event = imported(
        f"Invalid user {FORGED} from 203.0.113.9",
        "Disconnecting: Too many authentication failures for root [preauth]",
    )
    assert event is not None
    assert event["activity_type"] == "too_many_failures"
    assert event["actor"].ip == "203.0.113.9"


def test_a_folded_line_says_how_many() -> None:
    """If syslog has folded several tries into one line, the event says how many there were."""
    (event,) = imported("message repeated 5 times: [ Failed password for root from 203.0.113.9 port 1 ssh2]")
    assert event is not None
    assert event["reason"] == "wrong_password (5 times)"


def test_asking_for_methods_is_no_failed_try() -> None:
    """`Failed none` gives no event: no credentials were shown."""
    assert imported("Failed none for invalid user admin from 203.0.113.9 port 1 ssh2") == [None]


@pytest.mark.parametrize(
    ("stamps", "year", "years"),
    [
        (["Nov 23", "Nov 24", "Nov 25", "Dec 31"], None, [2026, 2026, 2025, 2025]),
        (["Dec 31", "Jan  1"], 2016, [2016, 2017]),
        (["Jan  2", "Jan  1"], 2016, [2016, 2016]),
        (["Feb 29"], None, [2024]),
        (["2019-03-01T00:00:00+00:00"], None, [2019]),
    ],
)
def test_lines_get_their_year(stamps: list[str], year: int | None, years: list[int]) -> None:
    """Without a year in the file it is the newest that is not in the future, or it counts on from the one given."""
    clock = Clock(year=year, now=datetime(2026, 11, 23, 12, tzinfo=UTC))
    found = []
    for stamp in stamps:
        time = stamp if "T" in stamp else f"{stamp} 10:00:00"
        message = message_in(f"{time} host sshd[7]: Connection closed by 203.0.113.9 [preauth]", clock.time_of)
        assert message is not None
        found.append(message.at.year)
    assert found == years


@pytest.mark.parametrize("year", ["Feb 29", "Foo 10", "Nov 31"])
def test_a_day_that_there_is_not_is_not_recognised(year: str) -> None:
    """A line with an impossible date is reported, not given another date."""
    clock = Clock(year=2026, now=datetime(2026, 11, 23, tzinfo=UTC))
    with pytest.raises(Unrecognised, match="a time that there is not"):
        message_in(f"{year} 10:00:00 host sshd[7]: Connection closed by 203.0.113.9", clock.time_of)


def test_lines_end_at_newlines_and_are_bounded() -> None:
    """Carriage returns and U+2028 within a line stay in it, bad bytes become visible, no line is read without bound."""
    file = io.BytesIO(b"a\rb\r\n" + "c\u2028d\n".encode() + b"\xff\n" + b"x" * (MAX_LINE_BYTES + 1))
    assert list(lines_of(file)) == ["a\rb", "c\u2028d", "\\xff", "x" * MAX_LINE_BYTES, "x"]


def test_agent_tools_records_decisions_before_calls(tmp_path: Path) -> None:
    """One tool runs, one is rejected by a person, one denied by the policy; the trail has all of it."""
    run = run_example("agent_tools", tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert "refunded 500 cents for o-7" in run.stdout
    assert run.stdout.count("it has not run") == 2
    assert event_types(tmp_path / "support" / "00") == [
        "agent.decision",
        "agent.tool_called",
        "agent.decision",
        "agent.approval",
        "agent.decision",
    ]
