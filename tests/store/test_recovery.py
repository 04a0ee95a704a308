"""Opening after a crash: what a crash leaves is put right without help, what no crash explains is refused."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_async._durable import disk
from audit_async._layout.access_modes import PRIVATE, Access
from audit_async._layout.manifest import read_manifest
from audit_async._store.log_store import LogStore
from audit_async._store.set_aside import TornTail
from audit_async.config import RotationPolicy
from audit_async.errors import LogCorrupted
from tests.store.chained import SERVICE, Chain, log_path, open_store, segments, stored_lines

REAL = {"write_at": disk.write_at, "sync_data": disk.sync_data}


@pytest.fixture
def chain() -> Chain:
    """A chain that every helper below extends."""
    return Chain()


def write_log(base_dir: Path, chain: Chain, records: int, *, max_bytes: int = 1 << 20) -> None:
    """Write a log of so many records and close it."""
    store = open_store(base_dir, max_bytes=max_bytes)
    for _ in range(records):
        store.commit(chain.batch(), sync=True)
    store.close()


def active(base_dir: Path) -> Path:
    """Return the path of the last segment."""
    return log_path(base_dir) / segments(base_dir)[-1]


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file of a log but its lock: mode and content."""
    return {
        str(path.relative_to(directory)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def goes_on(base_dir: Path, chain: Chain, *, max_bytes: int = 1 << 20) -> LogStore:
    """Open the log, write on, and check everything; return the store, closed."""
    store = open_store(base_dir, max_bytes=max_bytes)
    assert store.head == chain.head
    store.commit(chain.batch(2), sync=True)
    store.close()
    assert stored_lines(base_dir) == chain.lines
    return store


def put_aside(base_dir: Path, tail: bytes, torn: tuple[TornTail, ...]) -> None:
    """Assert that exactly `tail` was put aside, and reported as it is."""
    (reported,) = torn
    assert (reported.bytes, reported.sha256) == (len(tail), hashlib.sha256(tail).hexdigest())
    assert (log_path(base_dir) / reported.file).read_bytes() == tail
    assert reported.file.startswith("torn/")


@pytest.mark.parametrize("kept", [1, 50, -2, -1])
def test_a_torn_last_line_is_put_aside_and_recorded(tmp_path: Path, chain: Chain, kept: int) -> None:
    """Part of a line at the end goes to torn/; every whole record stays; a second opening finds nothing to do."""
    write_log(tmp_path, chain, 5)
    torn = chain.batch().lines[0][:kept]
    chain.rewind_to(chain.heads[-2])
    with active(tmp_path).open("ab") as file:
        file.write(torn)
    store = goes_on(tmp_path, chain)
    put_aside(tmp_path, torn, store.recovered)
    assert store.recovered[0].segment == segments(tmp_path)[0]
    assert goes_on(tmp_path, chain).recovered == ()


def test_a_log_that_has_only_a_torn_line_begins_anew(tmp_path: Path, chain: Chain) -> None:
    """A first record that was torn leaves an empty log, and its bytes under torn/."""
    write_log(tmp_path, chain, 1)
    torn = chain.lines[0][:77]
    active(tmp_path).write_bytes(torn)
    chain = Chain()
    put_aside(tmp_path, torn, goes_on(tmp_path, chain).recovered)


@pytest.mark.parametrize("zeros", [1, 300, 4096, 100_000])
def test_a_zero_filled_tail_is_put_aside(tmp_path: Path, chain: Chain, zeros: int) -> None:
    """Zeros behind the last record, which a file system leaves of an interrupted write, are no damage."""
    write_log(tmp_path, chain, 5)
    with active(tmp_path).open("ab") as file:
        file.write(b"\0" * zeros)
    put_aside(tmp_path, b"\0" * zeros, goes_on(tmp_path, chain).recovered)


def test_blocks_that_never_reached_the_disk_end_the_log_there(tmp_path: Path, chain: Chain) -> None:
    """From a block that reads as zeros on, all is put aside, also with later blocks there (writes are reordered)."""
    write_log(tmp_path, chain, 40)
    path = active(tmp_path)
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\0" * 4096
    path.write_bytes(content)
    seq = content[:4096].count(b"\n") - 1
    at = content[:4096].rindex(b"\n") + 1
    chain.rewind_to(chain.heads[seq])
    put_aside(tmp_path, bytes(content[at:]), goes_on(tmp_path, chain).recovered)


def test_an_empty_segment_is_removed(tmp_path: Path, chain: Chain) -> None:
    """A file that a crash left without a single record, at any point of the log, does not stop the opening."""
    (log_path(tmp_path)).mkdir(parents=True, mode=0o700)
    tmp_path.chmod(0o700)
    (tmp_path / "orders").chmod(0o700)
    (log_path(tmp_path) / "000000000000-2026-11-21.audit").touch(0o600)
    with pytest.raises(LogCorrupted, match=r"log\.json"):
        open_store(tmp_path)
    (log_path(tmp_path) / "000000000000-2026-11-21.audit").unlink()
    write_log(tmp_path, chain, 3)
    (log_path(tmp_path) / "000000000003-2026-11-30.audit").touch(0o600)
    store = goes_on(tmp_path, chain)
    assert store.recovered == ()
    assert len(segments(tmp_path)) == 1


def test_interrupted_sealing_is_completed(tmp_path: Path, chain: Chain) -> None:
    """Missing seals are made again: manifest, checksum files, modes, whichever of them a crash left undone."""
    write_log(tmp_path, chain, 40, max_bytes=1500)
    log = log_path(tmp_path)
    whole = snapshot(log)
    sealed = segments(tmp_path)[:-1]

    def undo(*what: Callable[[], object]) -> None:
        for step in what:
            step()
        store = goes_on(tmp_path, chain, max_bytes=1 << 20)
        assert store.recovered == ()
        now = snapshot(log)
        assert {name: now[name] for name in whole if name != segments(tmp_path)[-1]} == {
            name: whole[name] for name in whole if name != segments(tmp_path)[-1]
        }

    undo((log / "manifest.json").unlink)
    undo((log / f"{sealed[1]}.sha256").unlink, lambda: (log / sealed[2]).chmod(0o600))
    undo((log / "manifest.json").unlink, *((log / f"{name}.sha256").unlink for name in sealed))
    undo(lambda: (log / "manifest.json.unfinished").write_bytes(b"{"), (log / "manifest.json").unlink)
    assert not (log / "manifest.json.unfinished").exists()


def test_a_manifest_that_is_behind_is_brought_up_to_date(tmp_path: Path, chain: Chain) -> None:
    """Segments that the manifest doesn't have are read, verified and added, several at once, too."""
    write_log(tmp_path, chain, 6, max_bytes=1500)
    log = log_path(tmp_path)
    behind = (log / "manifest.json").read_bytes()
    assert len(read_manifest(log)) == 1
    write_log(tmp_path, chain, 30, max_bytes=1500)
    upto_date = read_manifest(log)
    (log / "manifest.json").write_bytes(behind)
    store = goes_on(tmp_path, chain, max_bytes=1 << 20)
    assert [entry.segment for entry in read_manifest(log)] == [entry.segment for entry in upto_date]
    assert read_manifest(log)[1:] == upto_date[1:]
    assert {entry.segment for entry in store.opening.sealed} == {entry.segment for entry in upto_date}


def fail_over(base_dir: Path, chain: Chain, copies: bytes) -> None:
    """Leave behind what a failed fsync and a cut that failed, too, leave: copies behind the first segment's records."""
    write_log(base_dir, chain, 4)
    first = active(base_dir)
    begun = chain.batch(6)
    second = log_path(base_dir) / f"{4:012d}-2026-11-22.audit"
    second.write_bytes(b"".join(begun.lines))
    second.chmod(0o600)
    with first.open("ab") as file:
        file.write(copies)


def copies_of(lines: list[bytes]) -> dict[str, bytes]:
    """Return what may stand behind the acknowledged records of a segment whose fsync failed."""
    whole = b"".join(lines)
    return {
        "all": whole,
        "part of a line": whole[:500],
        "zeros": b"\0" * 700,
        "a hole": whole[:100] + b"\0" * 512 + whole[612:],
    }


@pytest.mark.parametrize("kind", ["all", "part of a line", "zeros", "a hole"])
def test_copies_that_a_failed_fsync_left_are_put_aside(tmp_path: Path, kind: str) -> None:
    """Identical copies of records of the next segment, whole or in part, are void: they go to torn/."""
    chain = Chain()
    fail_over(tmp_path, chain, b"")
    copies = copies_of(chain.lines[4:])[kind]
    with (log_path(tmp_path) / segments(tmp_path)[0]).open("ab") as file:
        file.write(copies)
    put_aside(tmp_path, copies, goes_on(tmp_path, chain).recovered)
    first = log_path(tmp_path) / segments(tmp_path)[0]
    assert first.read_bytes() == b"".join(chain.lines[:4])
    assert stat.S_IMODE(first.stat().st_mode) == 0o400


def test_copies_behind_a_sealed_segment_are_put_aside(tmp_path: Path, chain: Chain) -> None:
    """A power cut may undo the cut of a segment that was sealed since; its copies are put aside, its seal holds."""
    fail_over(tmp_path, chain, b"")
    goes_on(tmp_path, chain)
    first = log_path(tmp_path) / segments(tmp_path)[0]
    first.chmod(0o600)
    with first.open("ab") as file:
        file.write(b"".join(chain.lines[4:7]))
    first.chmod(0o400)
    put_aside(tmp_path, b"".join(chain.lines[4:7]), goes_on(tmp_path, chain).recovered)
    assert hashlib.sha256(first.read_bytes()).hexdigest() == read_manifest(log_path(tmp_path))[0].sha256
    assert stat.S_IMODE(first.stat().st_mode) == 0o400


def test_copies_may_reach_further_than_what_the_next_segment_kept(tmp_path: Path, chain: Chain) -> None:
    """When a crash took the next segment's unsynced end, or all of it, longer copies before it are still no damage."""
    fail_over(tmp_path, chain, b"")
    whole = b"".join(chain.lines[4:])
    first, second = (log_path(tmp_path) / name for name in segments(tmp_path))
    kept = chain.lines[4] + chain.lines[5]
    with first.open("ab") as file:
        file.write(whole)
    second.write_bytes(kept + chain.lines[6][:40])
    torn = chain.lines[6][:40]
    chain.rewind_to(chain.heads[5])
    store = goes_on(tmp_path, chain)
    assert {t.bytes for t in store.recovered} == {len(whole), len(torn)}


def test_foreign_bytes_behind_a_segments_records_are_a_finding(tmp_path: Path, chain: Chain) -> None:
    """Behind the first record of the next segment only copies are void; anything else is refused, and left alone."""
    fail_over(tmp_path, chain, b'{"seq":4,"forged":true}\n')
    before = snapshot(log_path(tmp_path))
    with pytest.raises(LogCorrupted) as caught:
        open_store(tmp_path)
    assert (caught.value.segment, caught.value.line) == (segments(tmp_path)[0], 5)
    assert snapshot(log_path(tmp_path)) == before


def damage(log: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change the content of a file, whatever its mode."""
    path = log / name
    path.chmod(0o600)
    path.write_bytes(change(path.read_bytes()))


def cut_line(content: bytes, number: int) -> bytes:
    """Return the content without one line."""
    lines = content.splitlines(keepends=True)
    return b"".join(lines[:number] + lines[number + 1 :])


@pytest.mark.parametrize(
    ("change", "line", "seq"),
    [
        (lambda c: cut_line(c, 2), 3, 22),
        (lambda c: c.replace(b"xxx", b"xyx", 1), 1, 20),
        (lambda c: c[:-1] + b" \n", 4, 23),
        (lambda c: c[:300] + b"\0" + c[301:], 1, 20),
        (lambda c: c + b"\n", 5, 24),
        (lambda c: c + b"{}\n", 5, 24),
        (lambda c: b"\n" + c, 1, 20),
    ],
    ids=["line cut out", "text changed", "end changed", "zero byte", "empty line", "foreign line", "line put first"],
)
def test_damage_that_no_crash_explains_is_refused(
    tmp_path: Path, chain: Chain, change: Callable[[bytes], bytes], line: int, seq: int
) -> None:
    """Damage in the active segment: `LogCorrupted` names segment, line, seq; nothing on disk is changed."""
    write_log(tmp_path, chain, 24, max_bytes=1700)
    log = log_path(tmp_path)
    name = segments(tmp_path)[-1]
    assert name.startswith(f"{20:012d}")
    damage(log, name, change)
    (log / "stale.unfinished").write_bytes(b"left by a crash")
    before = snapshot(log)
    with pytest.raises(LogCorrupted) as caught:
        open_store(tmp_path)
    assert (caught.value.segment, caught.value.line, caught.value.seq) == (name, line, seq)
    assert caught.value.reason
    assert "xxx" not in str(caught.value)
    assert snapshot(log) == before


@pytest.mark.parametrize("access", [PRIVATE, Access(0o750, 0o640)])
def test_what_others_rename_while_it_is_opened(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch, access: Access
) -> None:
    """A hold is placed, or a receipt written, by a process that has no lock: the new file is there and then is not."""
    write_log(tmp_path, chain, 3)
    log, real = log_path(tmp_path), os.listdir
    listed = []

    def listdir(where: int | str) -> list[str]:
        names = real(where)
        if isinstance(where, int) and "log.json" in names:
            listed.append(where)
            names.append("hold.json.0123456789abcdef.unfinished")  # what was there a moment ago
        return names

    monkeypatch.setattr(os, "listdir", listdir)
    store = LogStore.open(tmp_path, SERVICE, "00", rotation=RotationPolicy(), access=access)
    store.commit(chain.batch(), sync=True)
    store.close()
    assert listed
    assert log.joinpath("log.json").stat().st_mode & 0o777 == access.file_mode


@pytest.mark.parametrize(
    "harm",
    [
        lambda log, names: (log / names[1]).unlink(),
        lambda log, names: (log / names[-1]).unlink(),
        lambda log, names: damage(log, names[1], lambda c: c[:-10]),
        lambda log, names: damage(log, names[1], lambda c: c + b"x"),
        lambda log, _: damage(log, "manifest.json", lambda c: c[:-30]),
        lambda log, _: damage(log, "manifest.json", lambda c: c.replace(b'"last_seq": ', b'"last_seq": 1', 1)),
        lambda log, _: damage(log, "manifest.json", lambda _: b""),
        lambda log, _: damage(log, "log.json", lambda _: b""),
        lambda log, _: (log / "log.json").unlink(),
        lambda log, _: damage(log, "log.json", lambda c: c.replace(b"orders", b"others")),
        lambda log, names: (log / names[-1]).rename(log / f"{99:012d}-2026-11-22.audit"),
        lambda log, names: (log / names[-1]).rename(log / names[-1].replace("2026", "2027")),
        lambda log, names: shutil.copy(log / names[-1], log / names[-1].replace("2026", "2027")),
        lambda log, names: ((log / names[1]).unlink(), (log / names[1]).mkdir()),
        lambda log, names: ((log / names[-1]).unlink(), (log / names[-1]).symlink_to(log / names[0])),
    ],
)
def test_a_log_that_was_tampered_with_is_refused_and_left_alone(
    tmp_path: Path, chain: Chain, harm: Callable[[Path, list[str]], object]
) -> None:
    """Files removed, cut, lengthened, renamed, copied or replaced: `LogCorrupted`, and nothing is changed."""
    write_log(tmp_path, chain, 24, max_bytes=1500)
    log = log_path(tmp_path)
    harm(log, segments(tmp_path))
    before = snapshot(log)
    with pytest.raises(LogCorrupted):
        open_store(tmp_path)
    assert snapshot(log) == before


def test_damage_in_a_segment_that_is_not_sealed_yet_is_refused(tmp_path: Path, chain: Chain) -> None:
    """When the manifest is rebuilt every record is verified: one that was changed is named."""
    write_log(tmp_path, chain, 24, max_bytes=1500)
    log = log_path(tmp_path)
    names = segments(tmp_path)
    (log / "manifest.json").unlink()
    damage(log, names[1], lambda c: c.replace(b"xxx", b"xyx", 1))
    before = snapshot(log)
    with pytest.raises(LogCorrupted) as caught:
        open_store(tmp_path)
    assert (caught.value.segment, caught.value.line) == (names[1], 1)
    assert snapshot(log) == before


@pytest.mark.parametrize("content", [b"", b"{", b'{"format_version":1,"log_id":"'])
def test_a_log_json_torn_at_its_making_is_written_again(tmp_path: Path, chain: Chain, content: bytes) -> None:
    """A crash before the first segment may leave a torn log.json; no record is lost by writing it again."""
    open_store(tmp_path).close()
    (log_path(tmp_path) / "log.json").write_bytes(content)
    goes_on(tmp_path, chain)


def test_another_format_version_is_refused_without_touching_the_log(tmp_path: Path) -> None:
    """A log of a newer format is left to the release that writes it, also while it has no segment."""
    open_store(tmp_path).close()
    path = log_path(tmp_path) / "log.json"
    path.write_bytes(path.read_bytes().replace(b'"format_version":1', b'"format_version":2'))
    with pytest.raises(LogCorrupted, match="format version 2"):
        open_store(tmp_path)


def test_an_opening_that_is_interrupted_is_finished_by_the_next(tmp_path: Path, chain: Chain) -> None:
    """A tail that was copied to torn/ and not cut off yet, because of a crash, is put aside again; nothing is lost."""
    write_log(tmp_path, chain, 3)
    with active(tmp_path).open("ab") as file:
        file.write(b'{"seq":3')
    at = active(tmp_path).stat().st_size - 8
    (log_path(tmp_path) / "torn").mkdir(0o700)
    (log_path(tmp_path) / "torn" / f"{active(tmp_path).name}.{at}").write_bytes(b'{"se')
    put_aside(tmp_path, b'{"seq":3', goes_on(tmp_path, chain).recovered)
    assert len(list((log_path(tmp_path) / "torn").iterdir())) == 2


@pytest.mark.parametrize("call", ["write_at", "sync_data"])
def test_openings_on_a_full_disk_leave_nothing_behind(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A torn tail that can't be put aside yet leaves no parts of copies in torn/, however often it is tried."""
    write_log(tmp_path, chain, 5)
    with active(tmp_path).open("ab") as file:
        file.write(b'{"seq":5')

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        real = disk.create_file

        def create(name: str, *, dir_fd: int) -> int:
            if name.startswith(active(tmp_path).name):  # from here on the disk is full
                patch.setattr(disk, call, refuse)
            return real(name, dir_fd=dir_fd)

        patch.setattr(disk, "create_file", create)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                open_store(tmp_path)
            patch.setattr(disk, call, REAL[call])
    assert list((log_path(tmp_path) / "torn").iterdir()) == []
    put_aside(tmp_path, b'{"seq":5', goes_on(tmp_path, chain).recovered)
