"""A log on an honest disk: what is committed is there, in order, in files that anybody can check."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from audit_async._chain import START, Batch
from audit_async._durable import disk
from audit_async._layout.lock_file import pid_in
from audit_async._layout.manifest import read_manifest
from audit_async._store.log_store import LogStore
from audit_async.config import RotationPolicy
from audit_async.errors import ConfigError, LogLocked
from tests.open_files import open_files_below
from tests.store.chained import (
    DAY_NS,
    SERVICE,
    Chain,
    log_path,
    open_store,
    segments,
    stored_lines,
)


def test_what_is_committed_is_there_after_reopening(tmp_path: Path) -> None:
    """Every committed record is found again, byte for byte, and the chain goes on from it."""
    chain = Chain()
    for _ in range(3):
        store = open_store(tmp_path)
        assert store.head == chain.head
        for _ in range(5):
            committed = store.commit(chain.batch(3), sync=True)
            assert committed == (chain.head, chain.head, (), (), None)
        store.close()
    assert stored_lines(tmp_path) == chain.lines
    assert len(segments(tmp_path)) == 1


def test_without_sync_a_record_is_written_but_not_called_synced(tmp_path: Path) -> None:
    """`written` runs ahead of `synced`, and what is not synced is kept in memory, until a sync."""
    chain = Chain()
    store = open_store(tmp_path)
    committed = store.commit(chain.batch(4), sync=False)
    assert (committed.written, committed.synced) == (chain.head, START)
    assert store.unsynced_bytes == sum(map(len, chain.lines))
    assert b"".join(chain.lines) == (log_path(tmp_path) / segments(tmp_path)[0]).read_bytes()
    assert store.commit(None, sync=True).synced == chain.head
    assert store.unsynced_bytes == 0
    store.close()


def test_synced_means_that_every_name_and_byte_was_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a commit says synced it has synced the file after its last write, and a new file's directory."""
    chain = Chain()
    calls: list[str] = []

    def recorded(name: str) -> None:
        real = getattr(disk, name)

        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(disk, name, call)

    store = open_store(tmp_path)
    for name in ("create_file", "write_at", "write_and_sync_at", "sync_data", "sync_directory"):
        recorded(name)
    store.commit(chain.batch(), sync=True)
    assert [c for c in calls if c != "write_at"] == ["create_file", "write_and_sync_at", "sync_directory"]
    calls.clear()
    store.commit(chain.batch(), sync=True)
    assert calls == ["write_and_sync_at"]
    calls.clear()
    store.commit(chain.batch(), sync=False)
    store.commit(chain.batch(), sync=True)
    assert calls == ["write_at", "write_at", "sync_data"]
    store.close()


def test_a_batch_out_of_order_is_refused(tmp_path: Path) -> None:
    """A batch that would leave a hole in the chain, or repeat a part of it, is not accepted."""
    chain = Chain()
    store = open_store(tmp_path)
    first, second = chain.batch(), chain.batch()
    with pytest.raises(ValueError, match="begins at seq 1, but 0 is due"):
        store.commit(second, sync=True)
    store.commit(first, sync=True)
    with pytest.raises(ValueError, match="but 1 is due"):
        store.commit(first, sync=True)
    assert store.commit(second, sync=True).synced == chain.head
    store.close()


def test_the_day_and_the_size_end_a_segment_between_two_records(tmp_path: Path) -> None:
    """A later UTC date or the size limit begins a segment at a record; one batch may span several segments."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=2000)
    batch = chain.batch(12, step_ns=DAY_NS // 5)
    committed = store.commit(batch, sync=True)
    assert committed.synced == chain.head
    store.close()
    names = segments(tmp_path)
    first_dates = [line.split(b'"timestamp":"')[1][:10].decode() for line in chain.lines]
    for name in names:
        lines = (log_path(tmp_path) / name).read_bytes().splitlines(keepends=True)
        assert sum(map(len, lines)) <= 2000
        assert len({line.split(b'"timestamp":"')[1][:10] for line in lines}) == 1
        seq = int(lines[0].split(b":")[1].split(b",")[0])
        assert name == f"{seq:012d}-{first_dates[seq]}.audit"
    assert len(names) >= 3
    assert [sealed.segment for sealed in committed.sealed] == names[:-1]
    assert stored_lines(tmp_path) == chain.lines


def test_a_record_larger_than_the_limit_stands_alone(tmp_path: Path) -> None:
    """A record that no segment has room for gets one of its own; its neighbours keep to the limit."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=1024)
    for size in (100, 5000, 100, 100, 6000, 7000, 100):
        store.commit(chain.batch(event_bytes=size), sync=True)
    store.close()
    counts = [len((log_path(tmp_path) / name).read_bytes().splitlines()) for name in segments(tmp_path)]
    assert counts == [1, 1, 2, 1, 1, 1]
    assert stored_lines(tmp_path) == chain.lines


def test_a_clock_that_is_set_back_begins_no_segment(tmp_path: Path) -> None:
    """Only a later date ends a segment; records of an earlier one stay in the chain's order."""
    chain = Chain()
    store = open_store(tmp_path)
    store.commit(chain.batch(2), sync=True)
    chain.now_ns -= 3 * DAY_NS
    store.commit(chain.batch(3, step_ns=DAY_NS), sync=True)
    assert len(segments(tmp_path)) == 1
    store.commit(chain.batch(2, step_ns=2 * DAY_NS), sync=True)
    store.close()
    assert [name[13:23] for name in segments(tmp_path)] == ["2026-11-22", "2026-11-24"]
    assert stored_lines(tmp_path) == chain.lines


def test_without_daily_rotation_the_date_does_not_matter(tmp_path: Path) -> None:
    """With `daily=False` only the size ends a segment."""
    chain = Chain()
    store = open_store(tmp_path, daily=False)
    store.commit(chain.batch(5, step_ns=DAY_NS), sync=True)
    store.close()
    assert len(segments(tmp_path)) == 1


def test_sealed_segments_pass_sha256sum_and_stand_in_the_manifest(tmp_path: Path) -> None:
    """Each sealed file has mode 0400, a checksum file that `sha256sum -c` accepts, and a true manifest entry."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=1500)
    reported = [sealed for _ in range(12) for sealed in store.commit(chain.batch(2), sync=True).sealed]
    store.close()
    log = log_path(tmp_path)
    *sealed, active = segments(tmp_path)
    assert len(sealed) >= 3
    check = subprocess.run(
        ["sha256sum", "--strict", "-c", *(f"{name}.sha256" for name in sealed)],
        cwd=log,
        capture_output=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr
    manifest = read_manifest(log)
    assert [entry.segment for entry in manifest] == sealed == [entry.segment for entry in reported]
    for entry in manifest:
        lines = (log / entry.segment).read_bytes().splitlines(keepends=True)
        assert lines == chain.lines[entry.first_seq : entry.last_seq + 1]
        assert (entry.records, entry.bytes) == (len(lines), sum(map(len, lines)))
        assert entry.hash.encode() == chain.heads[entry.last_seq].hash
        assert entry.first_timestamp.encode() in lines[0]
        assert entry.last_timestamp.encode() in lines[-1]
        assert stat.S_IMODE((log / entry.segment).stat().st_mode) == 0o400
    assert stat.S_IMODE((log / active).stat().st_mode) == 0o600


def test_nobody_else_may_enter_or_read(tmp_path: Path) -> None:
    """Every directory is 0700 and every file 0600, sealed ones 0400, whatever the umask."""
    before = os.umask(0)
    try:
        chain = Chain()
        store = open_store(tmp_path / "new" / "audit", max_bytes=1024)
        for _ in range(8):
            store.commit(chain.batch(), sync=True)
        store.close()
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.name.startswith("0"):
            assert mode == (0o600 if path.name == segments(tmp_path / "new" / "audit")[-1] else 0o400), path
        else:
            assert mode == 0o600, path


def test_a_second_writer_is_told_the_pid(tmp_path: Path) -> None:
    """A log has one writer: the second gets `LogLocked` with the first one's pid; closing frees the log."""
    store = open_store(tmp_path)
    with pytest.raises(LogLocked) as caught:
        open_store(tmp_path)
    assert caught.value.pid == os.getpid()
    assert str(os.getpid()) in str(caught.value)
    store.close()
    open_store(tmp_path).close()


def test_without_an_instance_each_takes_the_first_free_slot(tmp_path: Path) -> None:
    """Processes of one service get slots 00, 01, ...; one that is free again is taken again, and its chain goes on."""
    first, second, third = (open_store(tmp_path, instance=None) for _ in range(3))
    assert [store.instance for store in (first, second, third)] == ["00", "01", "02"]
    chain = Chain()
    second.commit(chain.batch(2), sync=True)
    second.close()
    again = open_store(tmp_path, instance=None)
    assert (again.instance, again.head) == ("01", chain.head)
    for store in (first, again, third):
        store.close()


def test_the_lock_of_a_dead_process_is_no_lock(tmp_path: Path) -> None:
    """A lock file that names a killed process, or any other, keeps nobody out."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from audit_async._store.log_store import LogStore; from audit_async.config import RotationPolicy\n"
        "store = LogStore.open(Path(sys.argv[1]), 'orders', '00', rotation=RotationPolicy())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    dead = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert dead.returncode == -9
    named = pid_in((log_path(tmp_path) / "lock").read_bytes())
    assert named is not None
    assert named != os.getpid()
    store = open_store(tmp_path)
    assert pid_in((log_path(tmp_path) / "lock").read_bytes()) == os.getpid()
    store.close()


def test_a_forked_child_that_abandons_leaves_the_parents_lock(tmp_path: Path) -> None:
    """After `abandon` in a child the parent still holds the lock and writes on."""
    chain = Chain()
    store = open_store(tmp_path)
    store.commit(chain.batch(), sync=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            store.abandon()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(LogLocked):
        open_store(tmp_path)
    assert store.commit(chain.batch(), sync=True).synced == chain.head
    store.close()
    assert stored_lines(tmp_path) == chain.lines


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """A base directory that group or others can write to is refused with the field's name, unless overridden."""
    base = tmp_path / "audit"
    base.mkdir()
    base.chmod(mode)
    with pytest.raises(ConfigError, match="chmod go-w") as caught:
        open_store(base)
    assert caught.value.field == "mode.base_dir"
    assert list(base.iterdir()) == []
    store = LogStore.open(base, SERVICE, "00", rotation=RotationPolicy(), allow_insecure_dir=True)
    store.close()
    assert stat.S_IMODE(base.stat().st_mode) == mode, "the library never changes the mode of a directory it finds"


def test_symbolic_links_below_the_base_directory_are_refused(tmp_path: Path) -> None:
    """A link in place of the service's, the instance's directory or a file of the log is never followed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for link in ("audit1/orders", "audit2/orders/00"):
        path = tmp_path / link
        path.parent.mkdir(parents=True)
        path.symlink_to(elsewhere)
        with pytest.raises(ConfigError, match="symbolic link"):
            open_store(tmp_path / link.split("/")[0])
    assert list(elsewhere.iterdir()) == []
    (tmp_path / "link").symlink_to(elsewhere)
    open_store(tmp_path / "link").close()
    assert (elsewhere / SERVICE).is_dir(), "the base directory itself may be a link: the operator chose it"


def test_no_descriptor_is_left_open_or_inherited(tmp_path: Path) -> None:
    """A closed log, and one that was refused, holds no descriptor; an open one hands none to a program it starts."""
    before = set(os.listdir("/proc/self/fd"))
    chain = Chain()
    store = open_store(tmp_path, max_bytes=1024)
    for _ in range(5):
        store.commit(chain.batch(2), sync=True)
    for fd in set(os.listdir("/proc/self/fd")) - before:
        try:
            assert not os.get_inheritable(int(fd))
        except OSError:
            continue  # the listing's own
    with pytest.raises(LogLocked):
        open_store(tmp_path)
    store.close()
    (log_path(tmp_path) / "log.json").write_bytes(b"{}")
    with pytest.raises(Exception, match=r"log\.json"):
        open_store(tmp_path)
    assert open_files_below(tmp_path) == []


def test_log_json_is_written_once(tmp_path: Path) -> None:
    """The log's identity is made with the log and never changes."""
    store = open_store(tmp_path)
    identity = (store.log_id, store.created)
    content = (log_path(tmp_path) / "log.json").read_bytes()
    store.close()
    assert len(store.log_id) == 32
    again = open_store(tmp_path)
    assert (again.log_id, again.created) == identity
    again.close()
    assert (log_path(tmp_path) / "log.json").read_bytes() == content
    other = open_store(tmp_path / "other")
    assert other.log_id != store.log_id
    other.close()


def sealing_record(segment: str) -> bytes:
    """Return the event by which the chain tells of a seal."""
    return b'{"event_type":"audit.segment_sealed","segment":"%s","records":1}' % segment.encode()


def test_opening_reads_the_last_segment_alone(tmp_path: Path) -> None:
    """Of sealed segments only the size is looked at, so an opening takes no longer where the trail is longer."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=2000)
    for _ in range(20):
        store.commit(chain.batch(), sync=True)
    store.close()
    *sealed, _ = segments(tmp_path)
    assert len(sealed) > 2
    for name in sealed:
        path = log_path(tmp_path) / name
        path.chmod(0o600)
        path.write_bytes(b"?" * path.stat().st_size)
        path.chmod(0o400)
    store = open_store(tmp_path, max_bytes=2000)
    assert store.head == chain.head
    store.close()


def test_a_seal_that_the_chain_does_not_tell_of_is_told_at_the_next_opening(tmp_path: Path) -> None:
    """`opening.sealed` names the sealed segments without their record, and those only, also seals later."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=2000)
    sealed = list(store.commit(chain.batch(20), sync=True).sealed)
    assert len(sealed) > 2
    store.commit(chain.batch_of([sealing_record(sealed[0].segment)]), sync=True)
    store.close()
    store = open_store(tmp_path, max_bytes=2000)
    assert [s.segment for s in store.opening.sealed] == [s.segment for s in sealed[1:]]
    more = list(store.commit(chain.batch_of([sealing_record(s.segment) for s in sealed[1:]]), sync=True).sealed)
    more += [s for _ in range(8) for s in store.commit(chain.batch(3), sync=True).sealed]
    assert more
    store.close()
    store = open_store(tmp_path, max_bytes=2000)
    assert [s.segment for s in store.opening.sealed] == [s.segment for s in more]
    store.close()


def test_a_text_that_looks_like_a_seals_record_is_none(tmp_path: Path) -> None:
    """An application's event cannot stand in for the library's own record of a seal."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=1024)
    (sealed,) = [s for _ in range(5) for s in store.commit(chain.batch(), sync=True).sealed][:1]
    forged = b'{"event_type":"test.forged","changes":{"event":%s}}' % sealing_record(sealed.segment)
    store.commit(chain.batch_of([forged]), sync=True)
    store.close()
    store = open_store(tmp_path, max_bytes=1024)
    assert sealed.segment in [s.segment for s in store.opening.sealed]
    store.close()


def test_empty_commits_change_nothing(tmp_path: Path) -> None:
    """Committing nothing, or a batch without lines, makes no file and moves no head."""
    store = open_store(tmp_path)
    assert store.commit(None, sync=True).synced == START
    assert store.commit(Batch(START), sync=True).written == START
    store.close()
    assert segments(tmp_path) == []


def test_free_bytes_is_what_the_file_system_leaves_us(tmp_path: Path) -> None:
    """`free_bytes` is the space that an unprivileged process may still fill."""
    store = open_store(tmp_path)
    status = os.statvfs(tmp_path)
    assert 0 < store.free_bytes() <= status.f_blocks * status.f_frsize
    store.close()
