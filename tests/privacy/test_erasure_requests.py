"""Erasures that wait: the rules are in the key store, and nothing goes around them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from audit_async.errors import ConfigError
from audit_async.privacy import (
    ErasureRefused,
    ErasureRules,
    KeyStoreDamaged,
    Privacy,
    SqliteKeyStore,
    copy_key_store,
    open_key_store,
)
from audit_async.privacy.data_keys import date_of
from audit_async.privacy.erasure_requests import folded_name
from tests.privacy.key_stores import ALICE, BOB, TODAY, copies_in_files, make_store, open_store, some_keys

ASKED: dict[str, Any] = {"requested_by": "Officer Krupke", "reason": "her wish", "log_id": "log"}
DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteKeyStore]:
    """Return a new key store, open."""
    store = open_store(make_store(tmp_path))
    yield store
    store.close()


def stored(store: SqliteKeyStore, *days: int) -> list[bytes]:
    """Store a key of Alice for each of these days; return their ids."""
    keys = [key for day in days for key in some_keys(store, ALICE, 1, day=day)]
    session = store.open_session("orders/00")
    assert session.insert(keys) == []
    session.close()
    return [key.key_id for key in keys]


def requested(store: SqliteKeyStore, request_id: str = "r1") -> None:
    """Request Alice's erasure as a log does it, up to the end."""
    store.requests.request(ALICE, request_id, **ASKED)
    store.requests.confirm(request_id, "requested")


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let time pass for the requests."""
    now_ns = time.time_ns
    passed_ns = int(seconds * 1e9)
    monkeypatch.setattr("audit_async.privacy.sqlite_requests.time.time_ns", lambda: now_ns() + passed_ns)
    monkeypatch.setattr("audit_async.privacy.sqlite_requests.today", lambda: TODAY + int(seconds // DAY_S))


def test_a_store_without_rules_is_as_it_was(store: SqliteKeyStore) -> None:
    """Nothing is asked for, nothing waits, and the file has the format that older versions read."""
    assert store.requests.rules() == ErasureRules()
    assert not store.requests.due()
    assert not store.requests.waiting()
    assert not store.requests.unconfirmed("log")
    stored(store, TODAY)
    assert len(store.begin_erasure(ALICE, "e1").key_ids) == 1


@pytest.mark.parametrize(
    "rules", [ErasureRules(delay_s=1), ErasureRules(two_person=True)], ids=["delay", "two persons"]
)
def test_no_erasure_in_one_call_goes_around_the_rules(store: SqliteKeyStore, rules: ErasureRules) -> None:
    """Force is for legal holds, and a copy of the settings is not asked: only the store is."""
    stored(store, TODAY)
    store.requests.set_rules(rules)
    for force in (False, True):
        with pytest.raises(ErasureRefused, match="requested first"):
            store.begin_erasure(ALICE, "e1", force=force)
    assert store.unfinished_erasures() == []


def test_a_request_waits_for_its_time_and_then_ends_once(
    store: SqliteKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be seen and is not due before; a second execution finds nothing to do."""
    (key_id,) = stored(store, TODAY)
    store.requests.set_rules(ErasureRules(delay_s=7 * DAY_S))
    requested(store)
    (waiting,) = store.requests.waiting()
    assert (waiting.request_id, waiting.requested_by, waiting.reason) == ("r1", "Officer Krupke", "her wish")
    assert (waiting.not_before - waiting.requested_at).days == 7
    assert store.requests.due() == []
    with pytest.raises(ErasureRefused, match="has to wait: until 20"):
        store.requests.begin("r1", "e1")
    later(monkeypatch, 7 * DAY_S + 1)
    assert store.requests.due() == ["r1"]
    begun = store.requests.begin("r1", "e1")
    assert begun is not None
    assert begun.erasure.key_ids == [key_id]
    assert store.requests.due() == []
    assert store.requests.begin("r1", "e2") is None
    with pytest.raises(ErasureRefused, match="is being executed"):
        store.requests.cancel("r1", cancelled_by="judge", reason="no", log_id="log")
    store.destroy(begun.erasure.key_ids, erasure_id="e1")
    store.end_erasure("e1")
    assert store.requests.waiting() == []
    assert store.requests.begin("r1", "e2") is None


def test_what_is_not_confirmed_does_not_count(store: SqliteKeyStore) -> None:
    """A step whose record may be missing is neither executed nor taken as approval, and the log finds it again."""
    stored(store, TODAY)
    noted = store.requests.request(ALICE, "r1", **ASKED)
    assert store.requests.due() == []
    assert store.requests.unconfirmed("other") == []
    assert store.requests.unconfirmed("log") == [noted]
    assert (noted.step, noted.by, noted.reason, noted.keys) == ("requested", "Officer Krupke", "her wish", 1)
    store.requests.confirm("r1", "requested")
    store.requests.confirm("r1", "requested")
    assert store.requests.due() == ["r1"]
    store.requests.set_rules(ErasureRules(two_person=True))
    assert store.requests.due() == []  # a rule that came later counts as well
    (approved,) = [store.requests.approve(ALICE, "r1", approved_by="judge", log_id="other")]
    assert store.requests.due() == []
    assert store.requests.unconfirmed("other") == [approved]
    store.requests.confirm("r1", "approved")
    assert store.requests.due() == ["r1"]
    assert store.requests.waiting()[0].approved_by == "judge"


def test_a_cancelled_request_is_never_executed(store: SqliteKeyStore) -> None:
    """From the call on, also before its record; and it leaves nothing of the names in the files."""
    stored(store, TODAY)
    requested(store)
    cancelled = store.requests.cancel("r1", cancelled_by="judge", reason="evidence", log_id="other")
    assert store.requests.begin("r1", "e1") is None
    assert not store.requests.due()
    assert not store.requests.waiting()
    assert store.requests.unconfirmed("other") == [cancelled]
    with pytest.raises(ErasureRefused, match="no erasure r1 waits"):
        store.requests.cancel("r1", cancelled_by="judge", reason="evidence", log_id="other")
    store.requests.confirm("r1", "cancelled")
    assert store.requests.unconfirmed("other") == []
    assert store.requests.begin("r1", "e1") is None
    assert store.unfinished_erasures() == []


@pytest.mark.parametrize(
    "name",
    ["Officer Krupke", " officer  krupke ", "OFFICER KRUPKE", "Officer\u00a0Krupke", "O\u200bfficer Krupke",
     "\uff2fфficer Krupke".replace("ф", "f")],
    ids=["same", "spaces", "case", "no-break", "unseen", "wide"],
)  # fmt: skip
def test_a_spelling_of_the_same_name_is_nobody_else(store: SqliteKeyStore, name: str) -> None:
    """Who asked can't approve under his own name with other letters, spaces or forms."""
    store.requests.set_rules(ErasureRules(two_person=True))
    requested(store)
    with pytest.raises(ErasureRefused, match="second person"):
        store.requests.approve(ALICE, "r1", approved_by=name, log_id="log")
    store.requests.approve(ALICE, "r1", approved_by="Officer Krupka", log_id="log")


def test_names_are_folded_whatever_form_they_are_in() -> None:
    """Composed or not, sharp s or two, ligatures: what a person reads as the same name."""
    assert folded_name("Åsa Straße ﬁ") == folded_name("A\u030aSA  STRASSE FI")
    assert folded_name("\u200b \u00ad\t") == ""


def test_an_approval_names_whom_it_is_about(store: SqliteKeyStore) -> None:
    """Nobody approves blindly, and not twice."""
    store.requests.set_rules(ErasureRules(two_person=True))
    requested(store)
    for subject, request_id in ((BOB, "r1"), (ALICE, "r2")):
        with pytest.raises(ErasureRefused, match="of this person waits"):
            store.requests.approve(subject, request_id, approved_by="judge", log_id="log")
    store.requests.approve(ALICE, "r1", approved_by="judge", log_id="log")
    store.requests.confirm("r1", "approved")
    with pytest.raises(ErasureRefused, match="approved already"):
        store.requests.approve(ALICE, "r1", approved_by="jury", log_id="log")


def test_the_person_is_not_named(store: SqliteKeyStore, tmp_path: Path) -> None:
    """Not as the one who asks, approves or cancels, in any spelling; and no name is legible in the store's files."""
    request = store.requests.request(ALICE, "r1", requested_by=" Alice", reason="mine", log_id="log")
    assert request.by == request.request.requested_by == "[the subject]"
    store.requests.confirm("r1", "requested")
    assert store.requests.approve(ALICE, "r1", approved_by="ALICE", log_id="log").by == "[the subject]"
    store.requests.confirm("r1", "approved")
    assert store.requests.cancel("r1", cancelled_by="alice", reason="no", log_id="log").by == "[the subject]"
    requested(store, "r2")
    assert copies_in_files(tmp_path / "keys", [b"alice", b"Alice", b"Krupke", b"her wish"]) == {}


def test_young_keys_are_kept(store: SqliteKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request waits until the keys of its time are old enough; what is younger then stays, and is still stored."""
    old, recent = stored(store, TODAY - 40, TODAY)
    store.requests.set_rules(ErasureRules(not_before_days=30))
    with pytest.raises(ErasureRefused, match=f"from {date_of(TODAY + 31)} on"):
        store.begin_erasure(ALICE, "e1")
    requested(store)
    assert store.requests.waiting()[0].not_before == datetime.combine(date_of(TODAY + 31), datetime.min.time(), UTC)
    later(monkeypatch, 31 * DAY_S)
    assert store.requests.due() == ["r1"]
    (young,) = stored(store, TODAY + 20)
    on_its_way = some_keys(store, ALICE, 2, day=TODAY + 31)  # made before the erasure, and stored after it
    begun = store.requests.begin("r1", "e1")
    assert begun is not None
    assert (begun.erasure.key_ids, begun.kept_keys) == ([old, recent], 1)
    assert begun.before is not None
    assert begun.before.date() == date_of(TODAY + 1)
    resumed = store.resume_erasure("e1")
    assert resumed is not None
    assert resumed.key_ids == [old, recent]
    session = store.open_session("billing/00")
    assert session.insert(on_its_way) == []
    stale = some_keys(store, ALICE, 1, day=TODAY - 1, epoch=0)
    assert session.insert(stale) == [stale[0].key_id]
    session.close()
    store.destroy(begun.erasure.key_ids, erasure_id="e1")
    store.end_erasure("e1")
    assert store.find(ALICE) == [young, *(key.key_id for key in on_its_way)]


def test_young_keys_are_not_forgotten(store: SqliteKeyStore) -> None:
    """The window holds for destroying by age as well, in the settings and in the store."""
    stored(store, TODAY - 5)
    store.requests.set_rules(ErasureRules(not_before_days=30))
    with pytest.raises(ErasureRefused, match="can't be forgotten yet"):
        store.forget(date_of(TODAY - 4))
    assert store.forget(date_of(TODAY - 30)) == []
    with pytest.raises(ConfigError, match="forget_after_days"):
        Privacy(key_store="k", master_key="file:m", forget_after_days=10, erase_not_before_days=30)


def test_an_execution_that_recorded_nothing_lets_the_request_wait_again(store: SqliteKeyStore) -> None:
    """As after a kill between the first step and the first record."""
    stored(store, TODAY)
    requested(store)
    assert store.requests.begin("r1", "e1") is not None
    store.requests.release("e1")
    store.end_erasure("e1")
    assert store.requests.due() == ["r1"]
    assert store.requests.begin("r1", "e2") is not None


def test_a_restored_store_executes_nothing_without_being_asked_again(store: SqliteKeyStore, tmp_path: Path) -> None:
    """What was requested before the copy may have been cancelled since; so it needs an approval, and can be deleted."""
    stored(store, TODAY)
    requested(store)
    before = store.epoch()
    copy_key_store(tmp_path / "keys", tmp_path / "copy")
    store.requests.cancel("r1", cancelled_by="judge", reason="evidence", log_id="log")
    assert store.epoch() == before + 1  # by which the copy is seen to be older
    copy = open_key_store(tmp_path / "copy", f"file:{tmp_path / 'master.key'}")
    assert copy.requests.due() == []
    with pytest.raises(ErasureRefused, match="approval"):
        copy.requests.begin("r1", "e1")
    copy.requests.withdraw(["r1", "r2"])
    assert copy.requests.waiting() == []
    copy.close()


def test_other_copies_are_doubted_once_a_chain_says_that_they_are_old(store: SqliteKeyStore) -> None:
    """A snapshot says nothing itself, so the log that finds it too old makes it doubtful."""
    stored(store, TODAY)
    requested(store)
    store.catch_up(store.epoch() + 3)
    assert store.requests.due() == []
    store.requests.approve(ALICE, "r1", approved_by="Officer Krupke", log_id="log")  # one person is enough here
    store.requests.confirm("r1", "approved")
    assert store.requests.due() == ["r1"]


def test_the_rules_are_the_store_s(store: SqliteKeyStore, tmp_path: Path) -> None:
    """Each is kept with the strictest value that was asked for; another process sees them at once."""
    other = open_store(tmp_path / "keys")
    store.requests.set_rules(ErasureRules(delay_s=5, not_before_days=1))
    tightened = other.requests.rules().tightened(ErasureRules(delay_s=3, two_person=True))
    assert tightened == ErasureRules(delay_s=5, not_before_days=1, two_person=True)
    other.requests.set_rules(tightened)
    assert store.requests.rules() == tightened
    other.close()


def test_an_older_version_would_refuse_a_store_with_rules(store: SqliteKeyStore, tmp_path: Path) -> None:
    """It would erase without them; and this version refuses a format that it does not know."""
    store.requests.set_rules(ErasureRules(two_person=True))
    connection = sqlite3.connect(tmp_path / "keys" / "main.db")
    assert connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() == (2,)
    connection.execute("UPDATE meta SET value = 3 WHERE name = 'format'")
    connection.commit()
    connection.close()
    with pytest.raises(KeyStoreDamaged, match="upgrade"):
        open_store(tmp_path / "keys")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(7, 7 * DAY_S), ("7", 7 * DAY_S), ("P7D", 7 * DAY_S), ("P1W", 7 * DAY_S), ("PT12H", DAY_S // 2),
     ("P1DT1H1M1S", DAY_S + 3661), (0, 0)],
)  # fmt: skip
def test_a_delay_is_days_or_a_duration(given: int | str, seconds: int) -> None:
    """As in ISO 8601, without months and years, whose lengths differ."""
    privacy = Privacy(key_store="k", master_key="file:m", erasure_delay=given)
    assert privacy.erasure_rules().delay_s == seconds


@pytest.mark.parametrize("given", [-1, 367, True, 1.5, "", "P", "PT", "P1M", "P1Y", "1w", "P1DT", "P999W"])
def test_another_delay_is_refused(given: object) -> None:
    """It is never taken for none."""
    with pytest.raises(ConfigError, match="erasure_delay"):
        Privacy(key_store="k", master_key="file:m", erasure_delay=given)  # type: ignore[arg-type]
