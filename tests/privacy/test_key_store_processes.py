"""Several processes with one key store: at once, forked, killed, stopped, and copied while they work."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_async.privacy import (
    Destroyed,
    KeyStoreForked,
    KeyStoreRefused,
    KeyStoreUnavailable,
    Subject,
    copy_key_store,
    open_key_store,
)
from tests.privacy.busy_key_store import SUBJECTS
from tests.privacy.key_stores import ALICE, TODAY, make_store, open_store, some_keys

DEADLINE_S = 60.0


def until(reached: Callable[[], bool]) -> None:
    """Wait for a condition of other processes."""
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_child(work: Callable[[], None]) -> int:
    """Run something in a forked child; return 0 if it ended without an exception."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the status says it
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_no_key_outlives_an_erasure_whoever_stores_it(tmp_path: Path) -> None:
    """Three processes store keys while a fourth erases, and one of the three is killed."""
    path = make_store(tmp_path)
    command = [sys.executable, "-m", "tests.privacy.busy_key_store", str(path), f"file:{tmp_path / 'master.key'}"]
    outputs = [tmp_path / f"out{number}" for number in range(3)]
    busy = []
    for output in outputs:
        with output.open("wb") as file:
            busy.append(subprocess.Popen([*command, str(tmp_path / "stop")], stdout=file))
    store = open_store(path)
    erasures: list[tuple[int, int]] = []
    try:
        until(lambda: all(output.stat().st_size > 0 for output in outputs))
        for number in range(3 * SUBJECTS):
            who = number % SUBJECTS
            erasure = store.begin_erasure(Subject("", "user", f"user{who}"), f"e{number}")
            store.destroy(erasure.key_ids, erasure_id=erasure.erasure_id)
            if number == SUBJECTS:
                busy[0].kill()
            until(lambda epoch=erasure.epoch: store.lagging(epoch) == [])  # type: ignore[misc]
            store.end_erasure(erasure.erasure_id)
            erasures.append((who, erasure.epoch))
        (tmp_path / "stop").touch()
        assert [process.wait(DEADLINE_S) for process in busy] == [-signal.SIGKILL, 0, 0]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    seen = {"refused": 0, "stored": 0, "erased": 0}
    for output in outputs:
        for line in output.read_text().splitlines():
            key_id, who_text, epoch, said = line.split()
            seen[said] += 1
            erased = any(who == int(who_text) and at > int(epoch) for who, at in erasures)
            seen["erased"] += erased
            state = store.keys([bytes.fromhex(key_id)])[bytes.fromhex(key_id)]
            assert isinstance(state, Destroyed) is erased, line
            assert erased or said == "stored", line
    store.close()
    assert all(seen.values()), seen  # each of the three happened


def test_threads_share_a_store(tmp_path: Path) -> None:
    """Writers, a reader and an erasure in one process."""
    store = open_store(make_store(tmp_path))
    session = store.open_session("orders/00")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(15):
                keys = some_keys(store, Subject("", "user", f"user{number}"), 5)
                assert session.insert(keys) == []
                assert store.keys(key.key_id for key in keys) == {key.key_id: key.key for key in keys}
                store.epoch()
        except BaseException as failure:  # noqa: BLE001 - the test's own thread raises it
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(5):
        store.begin_erasure(ALICE, f"e{number}")
        store.end_erasure(f"e{number}")
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.find(Subject("", "user", "user3"))) == 75
    store.close()


def test_a_forked_child_uses_nothing_of_its_parent(tmp_path: Path) -> None:
    """It is told so, closes nothing of the parent's, and may open the store for itself."""
    path = make_store(tmp_path)
    store = open_store(path)
    session = store.open_session("orders/00")
    keys = some_keys(store, ALICE, 2)
    session.insert(keys)

    def child() -> None:
        for call in (store.epoch, lambda: store.find(ALICE), lambda: store.begin_erasure(ALICE, "e1")):
            with pytest.raises(KeyStoreForked, match="open it again"):
                call()
        assert "forked" in repr(store)
        store.close()
        own = open_store(path)
        assert own.lagging(1) == ["orders/00"]  # the parent's, which the child did not end
        assert own.keys([keys[0].key_id]) == {keys[0].key_id: keys[0].key}
        own.open_session("child/00").insert(some_keys(own, ALICE, 1))
        own.close()

    assert in_child(child) == 0
    assert session.insert(some_keys(store, ALICE, 1)) == []
    assert len(store.find(ALICE)) == 4
    store.close()


def test_a_fork_in_the_middle_of_a_transaction_harms_nothing(tmp_path: Path) -> None:
    """The child ends in the ordinary way, while another thread of the parent writes."""
    store = open_store(make_store(tmp_path))
    session = store.open_session("orders/00")
    stop = threading.Event()
    stored = []

    def write() -> None:
        while not stop.is_set():
            keys = some_keys(store, ALICE, 50)
            assert session.insert(keys) == []
            stored.extend(keys)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert [in_child(store.close) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        thread.join()
    assert store.keys(key.key_id for key in stored) == {key.key_id: key.key for key in stored}
    assert len(store.find(ALICE)) == len(stored)
    store.close()


def test_a_child_that_ends_in_the_ordinary_way_rolls_nothing_back(tmp_path: Path) -> None:
    """Its interpreter closes what it finds; a connection of the parent, in a transaction, is not among it."""
    path = make_store(tmp_path)
    code = (
        "import os, sys; from audit_async.privacy import open_key_store\n"
        "store = open_key_store(sys.argv[1], sys.argv[2])\n"
        "with store._directory.locked(), store._main.file.writing() as connection:\n"
        "    connection.execute('PRAGMA cache_size=2')  # so that pages are in the file before the commit\n"
        "    for n in range(2000): connection.execute('INSERT INTO holds VALUES (?, ?)', ('log', f'hold {n}'))\n"
        "    child = os.fork()\n"
        "    if child == 0: sys.exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    connection.execute('INSERT INTO holds VALUES (?, ?)', ('log', 'last'))\n"
        "assert len(store.holds()) == 2001\n"
        "store.close()"
    )
    command = [sys.executable, "-c", code, str(path), f"file:{tmp_path / 'master.key'}"]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False, text=True)
    assert done.returncode == 0, done.stderr
    store = open_store(path)
    assert len(store.holds()) == 2001
    with store._main.file.reading() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store.close()


def test_a_dead_parent_is_not_kept_alive_by_its_child(tmp_path: Path) -> None:
    """The session's lock is the parent's alone, so nobody waits for a process that is gone."""
    path = make_store(tmp_path)
    code = (
        "import os, sys, time; from audit_async.privacy import open_key_store\n"
        "store = open_key_store(sys.argv[1], sys.argv[2]); session = store.open_session('parent/00')\n"
        "child = os.fork()\n"
        "if child == 0: sys.stdin.read(); os._exit(0)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(path), f"file:{tmp_path / 'master.key'}"]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    store = open_store(path)
    try:
        assert parent.stdout.readline() == b"ready\n"
        erasure = store.begin_erasure(ALICE, "e1")
        assert store.lagging(erasure.epoch) == ["parent/00"]
        parent.kill()
        parent.wait()
        until(lambda: store.lagging(erasure.epoch) == [])
    finally:
        parent.stdin.close()  # ends the child
        parent.stdout.close()
        parent.kill()
        parent.wait()
        store.close()


def test_a_lock_that_is_held_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that was stopped, for example: an error that is worth another try, and no wait without an end."""
    path = make_store(tmp_path)
    store, other = open_store(path), open_store(path)
    keys = some_keys(store, ALICE, 1)
    session = store.open_session("orders/00")
    with other._directory.locked():
        locked = store._directory.locked
        monkeypatch.setattr(store._directory, "locked", lambda: locked(0.1))
        with pytest.raises(KeyStoreUnavailable, match="held the key store's lock") as caught:
            session.insert(keys)
        assert caught.value.errno == errno.EAGAIN
    assert session.insert(keys) == []
    other.close()
    store.close()


class TestCopies:
    """A copy of a store that is in use can be opened, and says how old it is."""

    def test_a_copy_has_every_key_that_was_stored_before(self, tmp_path: Path) -> None:
        """Its modes are private, its master key the same; it needs none to be made."""
        path = make_store(tmp_path)
        store = open_store(path)
        session = store.open_session("orders/00")
        keys = [key for back in (0, 40, 80) for key in some_keys(store, ALICE, 20, day=TODAY - back)]
        session.insert(keys)
        copied = copy_key_store(path, tmp_path / "copy")
        session.insert(some_keys(store, ALICE, 5))
        assert copied.files == 4
        copy = open_key_store(tmp_path / "copy", f"file:{tmp_path / 'master.key'}")
        assert copy.keys(key.key_id for key in keys) == {key.key_id: key.key for key in keys}
        assert copy.store_id == store.store_id
        assert copy.open_session("restored/00").insert(some_keys(copy, ALICE, 1)) == []
        copy.close()
        store.close()
        with pytest.raises(KeyStoreRefused, match="name a new directory"):
            copy_key_store(path, tmp_path / "copy")

    def test_two_copies_to_one_place_are_not_mixed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of different moments their files would not fit together; the second is refused once the first is whole."""
        path = make_store(tmp_path)
        store = open_store(path)
        store.open_session("orders/00").insert(some_keys(store, ALICE, 2))
        from audit_async.privacy import store_copy  # noqa: PLC0415 - to come in between

        copied = store_copy._copied
        refused: list[str] = []

        def copy_as_well() -> None:
            try:
                copy_key_store(path, tmp_path / "copy")
            except KeyStoreRefused as error:
                refused.append(str(error))

        other = threading.Thread(target=copy_as_well)

        def with_another(*of: object) -> int:
            if other.ident is None:
                other.start()
                other.join(0.2)  # it gets no further if it waits for us, as it has to
            return copied(*of)  # type: ignore[arg-type]

        monkeypatch.setattr(store_copy, "_copied", with_another)
        copy_key_store(path, tmp_path / "copy")
        other.join(60)
        assert [text for text in refused if "name a new directory" in text]
        open_key_store(tmp_path / "copy", f"file:{tmp_path / 'master.key'}").close()
        store.close()

    def test_a_copy_that_an_erasure_overtakes_says_the_older_epoch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It holds a key that is destroyed, so the log must see that it is old."""
        path = make_store(tmp_path)
        store = open_store(path)
        keys = some_keys(store, ALICE, 2)
        store.open_session("orders/00").insert(keys)
        from audit_async.privacy import store_copy  # noqa: PLC0415 - to come in between

        copied = store_copy._copied

        def and_then_erase(source: Path, *rest: object) -> int:
            size = copied(source, *rest)  # type: ignore[arg-type]
            if source.name.startswith("keys-"):
                erasure = store.begin_erasure(ALICE, "e1")
                store.destroy(erasure.key_ids, erasure_id="e1")
            return size

        monkeypatch.setattr(store_copy, "_copied", and_then_erase)
        assert copy_key_store(path, tmp_path / "copy").epoch == 0
        copy = open_key_store(tmp_path / "copy", f"file:{tmp_path / 'master.key'}")
        assert copy.keys([keys[0].key_id]) == {keys[0].key_id: keys[0].key}
        assert copy.epoch() == 0 < store.epoch()
        copy.destroy([key.key_id for key in keys], erasure_id="e1")
        copy.catch_up(store.epoch())
        assert copy.epoch() == store.epoch()
        assert all(isinstance(state, Destroyed) for state in copy.keys(key.key_id for key in keys).values())
        copy.close()
        store.close()

    def test_a_copy_that_was_interrupted_can_not_be_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half of the keys would be an erasure that nobody asked for."""
        path = make_store(tmp_path)
        store = open_store(path)
        store.open_session("orders/00").insert(some_keys(store, ALICE, 2))
        store.close()
        from audit_async.privacy import store_copy  # noqa: PLC0415 - to come in between

        copied = store_copy._copied

        def killed(source: Path, *rest: object) -> int:
            if source.name == "main.db":
                raise KeyboardInterrupt
            return copied(source, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(store_copy, "_copied", killed)
        with pytest.raises(KeyboardInterrupt):
            copy_key_store(path, tmp_path / "copy")
        with pytest.raises(Exception, match="there is no key store"):
            open_key_store(tmp_path / "copy", f"file:{tmp_path / 'master.key'}")
