"""The key store of one host: what it keeps, refuses, destroys and forgets."""

from __future__ import annotations

import errno
import os
import random
import secrets
import sqlite3
import stat
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from audit_async._durable import disk
from audit_async.errors import AuditError, ConfigError
from audit_async.privacy import (
    UNATTRIBUTED,
    Destroyed,
    ErasureRefused,
    Forgotten,
    HeldBy,
    KeyMaker,
    KeyStoreDamaged,
    KeyStoreMissing,
    KeyStoreRefused,
    KeyStoreUnavailable,
    NewKey,
    SqliteKeyStore,
    Subject,
    create_key_store,
    new_master_key,
    open_key_store,
)
from audit_async.privacy.data_keys import date_of, day_number
from tests.privacy.key_stores import (
    ALICE,
    BOB,
    TODAY,
    copies_in_files,
    make_store,
    open_store,
    some_keys,
    wrapped_bytes,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a new key store's directory."""
    return make_store(tmp_path)


@pytest.fixture
def store(path: Path) -> Iterator[SqliteKeyStore]:
    """Return a new key store, open."""
    store = open_store(path)
    yield store
    store.close()


def as_dict(keys: list[NewKey]) -> dict[bytes, bytes]:
    """Return the keys by their ids, as the store returns them."""
    return {key.key_id: key.key for key in keys}


def erase(store: SqliteKeyStore, subject: Subject, erasure_id: str = "e1") -> list[bytes]:
    """Erase a subject as a log does, without the records; return the key ids."""
    erasure = store.begin_erasure(subject, erasure_id)
    assert store.destroy(erasure.key_ids, erasure_id=erasure_id) == len(erasure.key_ids)
    store.end_erasure(erasure_id)
    return erasure.key_ids


class TestKeeping:
    """What is stored is found again, by another opening, and by nobody without the master key."""

    def test_keys_come_back_after_reopening(self, path: Path, store: SqliteKeyStore) -> None:
        """Each key under its id; ids that were never stored are absent."""
        alices, bobs = some_keys(store, ALICE, 3), some_keys(store, BOB, 700, day=TODAY - 40)
        assert store.open_session("orders/00").insert([*alices, *bobs]) == []
        store.close()
        again = open_store(path)
        unknown = KeyMaker().make(bytes(16), TODAY, 0).key_id
        assert again.keys([unknown, *as_dict(alices), *as_dict(bobs)]) == {**as_dict(alices), **as_dict(bobs)}
        assert again.find(ALICE) == [key.key_id for key in alices]
        assert again.find(BOB) == [key.key_id for key in bobs]
        assert again.find(Subject("acme", "user", "alice")) == []
        again.close()

    def test_an_insert_may_be_repeated(self, store: SqliteKeyStore) -> None:
        """After an error that came too late the same keys are given once more, and twice in one call does no harm."""
        session = store.open_session("orders/00")
        keys = some_keys(store, ALICE, 3)
        assert session.insert([*keys, *keys]) == session.insert(keys) == session.insert([]) == []
        assert store.find(ALICE) == [key.key_id for key in keys]
        assert store.keys(as_dict(keys)) == as_dict(keys)

    def test_no_file_holds_a_key_or_a_name(self, path: Path, store: SqliteKeyStore) -> None:
        """Not the data keys, not the master key, not the subject's id; and only the owner can open any of them."""
        subject = Subject("tenant-of-alice", "user", "alice@example.com")
        keys = some_keys(store, subject, 20)
        store.open_session("orders/00").insert(keys)
        found = copies_in_files(path, [key.key for key in keys] + [b"alice", b"tenant-of"])
        assert found == {}
        for directory, directories, names in os.walk(path):
            for name in (*directories, *names):
                mode = os.stat(os.path.join(directory, name)).st_mode
                assert stat.S_IMODE(mode) & 0o077 == 0, name

    def test_a_damaged_key_is_missing_and_the_others_are_there(self, path: Path, store: SqliteKeyStore) -> None:
        """One flipped bit in a row: that key alone can't be opened."""
        keys = some_keys(store, ALICE, 3)
        store.open_session("orders/00").insert(keys)
        [file] = path.glob("keys-*.db")
        connection = sqlite3.connect(file)
        table = f"key_{TODAY}"
        [state] = connection.execute(f"SELECT state FROM {table} WHERE n = 2").fetchone()  # noqa: S608 - a table's name
        flipped = state[:-1] + bytes([state[-1] ^ 1])
        connection.execute(f"UPDATE {table} SET state = ? WHERE n = 2", (flipped,))  # noqa: S608 - a table's name
        connection.commit()
        connection.close()
        assert store.keys(as_dict(keys)) == as_dict([keys[0], keys[2]])

    def test_a_row_of_another_key_opens_nothing(self, path: Path, store: SqliteKeyStore) -> None:
        """A wrapped key is bound to its id: who can write to the file can't give one record's key to another."""
        keys = some_keys(store, ALICE, 2)
        store.open_session("orders/00").insert(keys)
        [file] = path.glob("keys-*.db")
        connection = sqlite3.connect(file)
        table = f"key_{TODAY}"
        connection.execute(f"UPDATE {table} SET state = (SELECT state FROM {table} WHERE n = 1)")  # noqa: S608 - a table's name
        connection.commit()
        connection.close()
        assert store.keys(as_dict(keys)) == as_dict([keys[0]])

    def test_a_store_keeps_how_ids_are_normalised(self, tmp_path: Path) -> None:
        """Readers and writers find the same keys, and a setting that would give a person others is refused."""
        source = f"file:{make_store(tmp_path).parent / 'master.key'}"
        create_key_store(tmp_path / "folded", source, normalize="NFC-casefold")
        store = open_key_store(tmp_path / "folded", source)
        assert store.pseudonym(Subject("", "user", "Alice")) == store.pseudonym(ALICE)
        store.close()
        open_key_store(tmp_path / "folded", source, normalize="NFC-casefold").close()
        with pytest.raises(KeyStoreRefused, match="made with normalize='NFC-casefold'"):
            open_key_store(tmp_path / "folded", source, normalize="NFC")
        with pytest.raises(ConfigError, match=r"privacy\.normalize"):
            create_key_store(tmp_path / "other", source, normalize="NFKC")  # type: ignore[arg-type]
        assert not (tmp_path / "other").exists()

    def test_a_closed_store_says_so(self, store: SqliteKeyStore) -> None:
        """Its calls and those of its sessions raise; closing again does nothing."""
        session = store.open_session("orders/00")
        store.close()
        store.close()
        assert "closed" in repr(store)
        assert "closed" in repr(session)
        with pytest.raises(ValueError, match="closed"):
            store.epoch()
        with pytest.raises(ValueError, match="closed"):
            session.insert([KeyMaker().make(bytes(16), TODAY, 0)])


class TestErasing:
    """A key that an erasure reached is gone, wherever it was at that moment."""

    def test_an_erased_subject_has_no_keys_and_the_others_have_theirs(self, path: Path, store: SqliteKeyStore) -> None:
        """The ids say when; nothing of the wrapped keys is in any file, journals included."""
        session = store.open_session("orders/00")
        alices, bobs = some_keys(store, ALICE, 50), some_keys(store, BOB, 50)
        older = some_keys(store, ALICE, 5, day=TODAY - 70)
        session.insert([*alices, *bobs, *older])
        gone = wrapped_bytes(path, [key.key_id for key in [*alices, *older]])
        assert copies_in_files(path, gone)
        before = datetime.now(UTC) - timedelta(seconds=1)
        assert sorted(erase(store, ALICE)) == sorted(as_dict([*alices, *older]))
        assert copies_in_files(path, gone) == {}
        states = store.keys(as_dict([*alices, *older, *bobs]))
        for key in (*alices, *older):
            state = states.pop(key.key_id)
            assert isinstance(state, Destroyed)
            assert before < state.at < datetime.now(UTC) + timedelta(seconds=1)
        assert states == as_dict(bobs)
        assert store.find(ALICE) == []

    def test_no_wrapped_key_survives_in_a_page_after_many_sessions(self, path: Path, store: SqliteKeyStore) -> None:
        """Many subjects, inserted by several makers in turns, erased in any order: SQLite left no copy of a row."""
        dice = random.Random(7)  # noqa: S311 - a scenario
        session = store.open_session("orders/00")
        makers = [KeyMaker() for _ in range(5)]
        subjects = [Subject("", "user", f"user{number}") for number in range(60)]
        ids: dict[Subject, list[bytes]] = {subject: [] for subject in subjects}
        for _ in range(25):
            batch = []
            for _ in range(dice.randint(1, 120)):
                subject = dice.choice(subjects)
                key = dice.choice(makers).make(store.pseudonym(subject), TODAY - dice.randint(0, 2), store.epoch())
                ids[subject].append(key.key_id)
                batch.append(key)
            session.insert(batch)
        erased = dice.sample(subjects, 40)
        gone = wrapped_bytes(path, [key_id for subject in erased for key_id in ids[subject]])
        kept = [key_id for subject in subjects if subject not in erased for key_id in ids[subject]]
        for number, subject in enumerate(erased):
            session.passed(store.epoch())
            assert sorted(erase(store, subject, f"e{number}")) == sorted(ids[subject])
            session.insert(some_keys(store, BOB, 3))  # life goes on in between
        assert copies_in_files(path, gone) == {}
        assert len(wrapped_bytes(path, kept)) == len(kept)
        assert all(isinstance(state, bytes) for state in store.keys(kept).values())

    def test_a_pending_key_of_an_erased_subject_is_refused(self, store: SqliteKeyStore) -> None:
        """It was made before the erasure and comes after it; its id is destroyed, not unknown."""
        session = store.open_session("orders/00")
        pending, other = some_keys(store, ALICE, 2), some_keys(store, BOB, 1)
        store.begin_erasure(ALICE, "e1")
        assert session.insert([*pending, *other]) == [key.key_id for key in pending]
        states = store.keys(as_dict([*pending, *other]))
        assert all(isinstance(states[key.key_id], Destroyed) for key in pending)
        assert states[other[0].key_id] == other[0].key
        assert session.insert(pending) == [key.key_id for key in pending]  # once more, as after an error

    def test_a_key_that_was_made_after_the_erasure_lives(self, store: SqliteKeyStore) -> None:
        """Who is erased may come back; his new keys are new."""
        session = store.open_session("orders/00")
        session.insert(some_keys(store, ALICE, 1))
        erase(store, ALICE)
        newer = some_keys(store, ALICE, 1)
        assert session.insert(newer) == []
        assert store.find(ALICE) == [newer[0].key_id]

    def test_the_store_forgets_whom_an_erasure_was_about(self, store: SqliteKeyStore, path: Path) -> None:
        """The tombstone is there until each session has passed the epoch, and no longer."""
        slow, fast = store.open_session("slow/00"), store.open_session("fast/00")
        erasure = store.begin_erasure(ALICE, "e1")
        fast.passed(erasure.epoch)
        assert store.lagging(erasure.epoch) == ["slow/00"]
        store.end_erasure("e1")
        assert store.changes_since(0).subjects == frozenset({store.pseudonym(ALICE)})
        slow.passed(erasure.epoch)
        assert store.lagging(erasure.epoch) == []
        store.end_erasure("e1")
        changes = store.changes_since(0)
        assert (changes.epoch, changes.subjects) == (1, None)
        assert store.changes_since(1).subjects == frozenset()
        assert copies_in_files(path, [store.pseudonym(ALICE)]) == {}

    def test_an_erasure_that_waits_keeps_no_other(self, store: SqliteKeyStore) -> None:
        """One that a hold has postponed, for example: whom the others were about is forgotten, its own is not."""
        session = store.open_session("orders/00")
        store.begin_erasure(ALICE, "waits")
        erasure = store.begin_erasure(BOB, "ended")
        session.passed(erasure.epoch)
        store.end_erasure("ended")
        assert store.unfinished_erasures() == ["waits"]
        assert store._main.view().erased == {store.pseudonym(ALICE): 1}
        assert store.changes_since(0).subjects is None
        assert session.insert(some_keys(store, ALICE, 1, epoch=0)) != []

    def test_a_closed_session_is_not_waited_for(self, store: SqliteKeyStore) -> None:
        """Nor does one that opens after the erasure lag behind it."""
        session = store.open_session("orders/00")
        erasure = store.begin_erasure(ALICE, "e1")
        later = store.open_session("later/00")
        session.close()
        assert store.lagging(erasure.epoch) == []
        later.close()

    def test_a_session_that_could_not_be_opened_does_not_lag(
        self, store: SqliteKeyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk at its opening: an error that is worth a retry, and nobody is waited for."""

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch, pytest.raises(KeyStoreUnavailable) as caught:
            patch.setattr(disk, "write_at", refuse)
            store.open_session("orders/00")
        assert caught.value.errno == errno.ENOSPC
        assert store.lagging(1 << 40) == []

    def test_an_erasure_that_was_not_ended_is_found_by_the_next_opening(self, path: Path) -> None:
        """Its steps can be repeated: the epoch is the same, what is gone stays gone."""
        store = open_store(path)
        keys = some_keys(store, ALICE, 4)
        store.open_session("orders/00").insert(keys)
        erasure = store.begin_erasure(ALICE, "e1")
        assert store.destroy(erasure.key_ids[:2], erasure_id="e1") == 2
        store.close()
        again = open_store(path)
        assert again.unfinished_erasures() == ["e1"]
        assert again.begin_erasure(ALICE, "e1").epoch == erasure.epoch == again.epoch()
        assert again.destroy(erasure.key_ids, erasure_id="e1") == 2
        assert again.destroy(erasure.key_ids, erasure_id="e1") == 0
        again.end_erasure("e1")
        assert again.unfinished_erasures() == []
        again.close()

    def test_nobody_in_particular_is_not_erased(self, store: SqliteKeyStore) -> None:
        """The unattributed keys of a day are everybody's."""
        with pytest.raises(ErasureRefused, match="by age"):
            store.begin_erasure(UNATTRIBUTED, "e1")

    def test_a_restored_store_learns_what_was_destroyed(self, store: SqliteKeyStore) -> None:
        """Ids that it never knew are destroyed from then on, and its epoch goes on from the chain's."""
        ids = [key.key_id for key in some_keys(store, ALICE, 3, day=TODAY - 100)]
        assert store.destroy([*ids, *ids], erasure_id="old") == 0
        store.catch_up(9)
        store.catch_up(4)
        assert all(isinstance(state, Destroyed) for state in store.keys(ids).values())
        assert len(store.keys(ids)) == 3
        assert store.begin_erasure(BOB, "e10").epoch == 10
        assert store.changes_since(8).subjects is None


class TestHolds:
    """A legal hold on any log that uses the store keeps every key."""

    def test_nothing_is_destroyed_under_a_hold(self, store: SqliteKeyStore) -> None:
        """Neither begun, nor destroyed if the hold came in between, nor forgotten by age."""
        session = store.open_session("orders/00")
        keys = some_keys(store, ALICE, 2, day=TODAY - 10)
        session.insert(keys)
        erasure = store.begin_erasure(ALICE, "e1")
        store.set_hold("log-a", "case-7")
        store.set_hold("log-a", "case-7")
        for refused in (
            lambda: store.begin_erasure(BOB, "e2"),
            lambda: store.destroy(erasure.key_ids, erasure_id="e1"),
            lambda: store.forget(date_of(TODAY)),
        ):
            with pytest.raises(ErasureRefused, match="case-7 of log log-a") as caught:
                refused()
            assert caught.value.holds == (HeldBy("log-a", "case-7"),)
        assert store.keys(as_dict(keys)) == as_dict(keys)
        store.lift_hold("log-b", "case-7")
        assert store.holds() == [HeldBy("log-a", "case-7")]
        store.lift_hold("log-a", "case-7")
        assert store.destroy(erasure.key_ids, erasure_id="e1") == 2

    def test_an_erasure_that_was_forced_is_completed_under_the_hold(self, store: SqliteKeyStore) -> None:
        """By whoever opens the log next, who does not know that it was forced."""
        store.open_session("orders/00").insert(some_keys(store, ALICE, 2))
        store.set_hold("log-a", "case-7")
        erasure = store.begin_erasure(ALICE, "e1", force=True)
        assert store.destroy(erasure.key_ids, erasure_id="e1") == 2
        assert store.forget(date_of(TODAY + 1), force=True) == [Forgotten(date_of(TODAY), 0)]


class TestForgetting:
    """Keys of days before a date are gone, exactly those, also from every file."""

    def test_days_before_the_date_are_gone(self, path: Path, store: SqliteKeyStore) -> None:
        """Whole months with their files; the days of the month in between; nothing of what is younger."""
        session = store.open_session("orders/00")
        limit = date(2026, 9, 15)
        days = [date(2026, 7, 31), date(2026, 8, 1), date(2026, 9, 1), date(2026, 9, 14), limit, date(2026, 10, 1)]
        keys = {day: some_keys(store, ALICE, 3, day=day) for day in days}
        session.insert([key for group in keys.values() for key in group])
        store.destroy([keys[days[0]][0].key_id], erasure_id="e1")
        gone = wrapped_bytes(path, [key.key_id for day in days if day < limit for key in keys[day]])
        gone += [store._main.wrapped(day_number(day)) or b"" for day in days if day < limit]  # the days' wrapped keys
        assert copies_in_files(path, gone)
        assert store.forget(limit) == [Forgotten(day, 2 if day == days[0] else 3) for day in days if day < limit]
        assert copies_in_files(path, gone) == {}
        assert sorted(file.name for file in path.glob("keys-*.db")) == ["keys-2026-09.db", "keys-2026-10.db"]
        for day, group in keys.items():
            states = store.keys(as_dict(group))
            if day < limit:
                assert all(isinstance(state, Destroyed) for state in states.values())
                assert len(states) == 3
            else:
                assert states == as_dict(group)
        assert store.find(ALICE) == [key.key_id for day in days if day >= limit for key in keys[day]]
        assert store.forget(limit) == []
        assert store.changes_since(0).forgotten_before == day_number(limit)

    def test_a_key_of_a_forgotten_day_is_refused(self, store: SqliteKeyStore, path: Path) -> None:
        """It is not stored, and no file of that month is made again."""
        session = store.open_session("orders/00")
        store.forget(date(2026, 9, 15))
        late, later = (
            some_keys(store, ALICE, 2, day=date(2026, 8, 1)),
            some_keys(store, ALICE, 1, day=date(2026, 9, 15)),
        )
        assert session.insert([*late, *later]) == [key.key_id for key in late]
        assert store.destroy([key.key_id for key in late], erasure_id="e1") == 0
        assert [file.name for file in path.glob("keys-*.db")] == ["keys-2026-09.db"]

    def test_forgetting_is_completed_by_the_next_call(
        self, store: SqliteKeyStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed after the days' keys were destroyed, before the rows were."""
        session = store.open_session("orders/00")
        keys = some_keys(store, ALICE, 3, day=date(2026, 8, 1))
        session.insert(keys)

        def killed(_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(store, "_remove_forgotten", killed)
            store.forget(date(2026, 9, 1))
        assert all(isinstance(state, Destroyed) for state in store.keys(as_dict(keys)).values())
        assert list(path.glob("keys-*.db"))
        store.forget(date(2026, 9, 1))
        assert not list(path.glob("keys-*.db*"))


class TestPlace:
    """A place that can't be trusted with keys is refused, with what to do."""

    def test_a_missing_store_is_not_made_silently(self, tmp_path: Path) -> None:
        """A lost store must be noticed: it is everybody's erasure."""
        (tmp_path / "empty").mkdir(mode=0o700)
        for place in ("nowhere", "empty"):
            with pytest.raises(KeyStoreMissing, match="restore it from its backup"):
                open_store(tmp_path / place)

    def test_a_store_is_never_made_over_another(self, path: Path) -> None:
        """Nor where its main file alone is lost."""
        source = f"file:{path.parent / 'master.key'}"
        store = open_store(path)
        store.open_session("orders/00").insert(some_keys(store, ALICE, 1))
        store.close()
        with pytest.raises(KeyStoreRefused, match="never overwritten"):
            create_key_store(path, source)
        (path / "main.db").unlink()
        with pytest.raises(KeyStoreRefused, match="restore the store"):
            create_key_store(path, source)

    def test_the_trail_holds_no_keys(self, tmp_path: Path) -> None:
        """Neither the store in the trail nor the trail in the store, also by a link, also if the trail is not named."""
        key = tmp_path / "master.key"
        key.write_bytes(new_master_key())
        key.chmod(0o600)
        trail = tmp_path / "audit"
        (trail / "orders" / "00").mkdir(parents=True)
        (trail / "orders" / "00" / "log.json").write_text("{}")
        (tmp_path / "link").symlink_to(trail)
        for place, base in (
            (trail / "keys", trail),
            (trail, trail),
            (tmp_path, trail),
            (tmp_path / "link" / "keys", trail),
            (trail / "orders" / "00" / "keys", None),
        ):
            with pytest.raises(KeyStoreRefused, match="choose a directory outside"):
                create_key_store(place, f"file:{key}", trail=base)

    def test_what_others_can_open_is_refused(self, path: Path, tmp_path: Path) -> None:
        """The directory, each file, and a link in a file's place."""
        for name, mode in (("", 0o750), ("main.db", 0o640)):
            place = path / name
            old = stat.S_IMODE(place.stat().st_mode)
            place.chmod(mode)
            with pytest.raises(KeyStoreRefused, match=r"run: chmod [67]00"):
                open_store(path)
            place.chmod(old)
        (tmp_path / "linked").symlink_to(path)
        with pytest.raises(KeyStoreRefused, match="symbolic link"):
            open_key_store(tmp_path / "linked", f"file:{tmp_path / 'master.key'}")
        (path / "main.db").rename(tmp_path / "elsewhere")
        (path / "main.db").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(KeyStoreRefused, match="symbolic link"):
            open_store(path)

    @pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
    def test_a_store_of_another_account_is_refused(self, path: Path) -> None:
        """Its owner could read what we put in."""
        os.chown(path, 12345, -1)
        with pytest.raises(KeyStoreRefused, match="uid 12345"):
            open_store(path)
        os.chown(path, os.geteuid(), -1)

    def test_a_store_that_was_restored_without_its_sessions_opens(self, path: Path) -> None:
        """By a copy of the databases alone, for example."""
        store = open_store(path)
        store.open_session("orders/00")
        store.close()
        (path / "sessions").rmdir()
        store = open_store(path)
        assert store.lagging(1) == []
        assert store.open_session("orders/00").insert(some_keys(store, ALICE, 1)) == []
        store.close()

    def test_an_sqlite_that_can_not_destroy_keys_is_refused(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before 3.24 a row that is overwritten moves, and its old bytes stay."""
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 22, 0))
        with pytest.raises(KeyStoreRefused, match=r"3\.24 or later"):
            open_store(path)

    def test_a_damaged_file_is_named(self, path: Path) -> None:
        """With what to do; no error of SQLite reaches the caller."""
        store = open_store(path)
        keys = some_keys(store, ALICE, 1)
        store.open_session("orders/00").insert(keys)
        store.close()
        [month] = path.glob("keys-*.db")
        month.write_bytes(secrets.token_bytes(8192))
        store = open_store(path)
        with pytest.raises(KeyStoreDamaged, match=r"keys-.*\.db is damaged .*restore"):
            store.keys(as_dict(keys))
        store.close()
        (path / "main.db").write_bytes(b"")
        with pytest.raises(AuditError, match=r"main\.db"):
            open_store(path)
