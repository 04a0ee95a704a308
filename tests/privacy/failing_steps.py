"""One step of a key store, with each of its system calls failing once, or its process killed at it.

Started under the shim of `tests.store`: `python -m tests.privacy.failing_steps STEP DIRECTORY EVERY`. It lets each call
fail after it was done; at one of every so many a call fails undone, or the process is killed. A line on stdout for each
fault: its kind and call.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from audit_async.privacy import (
    KeyStoreUnavailable,
    MasterKeyError,
    SqliteKeyStore,
    create_key_store,
    master_key,
    new_master_key,
    open_key_store,
    recover_key_store,
)
from audit_async.privacy.data_keys import date_of, day_number, day_of
from tests.privacy.key_stores import ALICE, BOB, TODAY, copies_in_files, some_keys, wrapped_bytes

LIMIT = day_number(date_of(TODAY).replace(day=15))  # in the middle of a month's file
DAYS = (LIMIT - 70, LIMIT - 2, LIMIT - 1, LIMIT, LIMIT + 1)
ERROR_KINDS = ("error", "after")
KILL_KINDS = ("kill-after",)
Answer = TypeVar("Answer")


class Step(NamedTuple):
    """What is done, and what must be gone afterwards."""

    call: Callable[[Path], object]  #: on the store below a directory; may raise `KeyStoreUnavailable`
    expected: object  #: what it returns, also from a second try
    secrets: list[bytes]  #: in no file of the store after the step
    finish: Callable[[Path], object]  #: what somebody does after it was killed


def old_key(place: Path) -> str:
    """Return the source of the master key that the store was made with."""
    return f"file:{place / 'master.key'}"


def new_key(place: Path) -> str:
    """Return the source of the next one."""
    return f"file:{place / 'new.key'}"


@contextmanager
def opened(place: Path, key: str | None = None) -> Iterator[SqliteKeyStore]:
    """Open the store below a directory by the key that it has now."""
    if key is not None:
        store = open_key_store(place / "keys", key)
    else:
        try:
            store = open_key_store(place / "keys", new_key(place))
        except MasterKeyError:
            store = open_key_store(place / "keys", old_key(place))
    try:
        yield store
    finally:
        store.close()


def tried(call: Callable[[], Answer]) -> tuple[Answer, int]:
    """Make a call again as long as the store is unavailable; return its answer, and how often it failed."""
    for failed in range(5):
        try:
            return call(), failed
        except KeyStoreUnavailable:
            continue
    raise AssertionError("unavailable five times, after one fault")


def prepare(place: Path) -> None:
    """Make a store with keys of two persons on days before and after a limit, and an erasure that has begun."""
    place.mkdir()
    for name in ("master.key", "new.key"):
        (place / name).write_bytes(new_master_key())
        (place / name).chmod(0o600)
    # A short one: each try to recover checks that its factors are primes, which takes longer than all else.
    vars(master_key)["_LEAST_RSA_BITS"] = 1024
    escrow = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it guards nothing
    (place / "escrow.pem").write_bytes(
        escrow.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    (place / "escrow.pem").chmod(0o600)
    public = escrow.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    create_key_store(place / "keys", old_key(place), escrow=public)
    with opened(place) as store:
        session = store.open_session("failing/00")
        for day in DAYS:
            session.insert(some_keys(store, ALICE, 3, day=day) + some_keys(store, BOB, 4, day=day))


def wraps(place: Path, *, before: int | None = None) -> list[bytes]:
    """Return the wrapped keys of all days, or of those before one, as the main file has them."""
    connection = sqlite3.connect(place / "keys" / "main.db")
    try:
        rows = connection.execute("SELECT day, wrapped FROM wraps").fetchall()
    finally:
        connection.close()
    chosen = [wrapped for day, wrapped in rows if before is None or 0 <= day < before]
    return [wrapped[2 : 2 + int.from_bytes(wrapped[:2], "big")] for wrapped in chosen]


# -- the steps -----------------------------------------------------------------------------------------------------


def rotating(place: Path) -> Step:
    """Another master key."""

    def rotate(below: Path) -> object:
        with opened(below, old_key(below)) as store:
            days, _ = tried(lambda: store.rotate_master_key(new_key(below)))
            later = some_keys(store, BOB, 1, day=TODAY + 50)  # a new day's key is wrapped by the new master key
            assert tried(lambda: store.open_session("failing/00").insert(later))[0] == []
            return days

    def finish(below: Path) -> None:
        with opened(below) as store:
            store.rotate_master_key(new_key(below))

    return Step(rotate, len(DAYS), wraps(place), finish)


def recovering(place: Path) -> Step:
    """Another master key, by the escrow key."""

    def recover(below: Path) -> object:
        return tried(lambda: recover_key_store(below / "keys", str(below / "escrow.pem"), new_key(below)))[0]

    return Step(recover, len(DAYS), wraps(place), recover)


def forgetting(place: Path) -> Step:
    """Forgetting the days before one that is in the middle of a month's file."""
    gone = [day for day in DAYS if day < LIMIT]
    with opened(place) as store:
        key_ids = store.find(ALICE) + store.find(BOB)
        old = [key_id for key_id in key_ids if day_of(key_id) < LIMIT]
    secrets = wraps(place, before=LIMIT) + wrapped_bytes(place / "keys", old)

    def forget(below: Path) -> object:
        with opened(below) as store:
            forgotten, _ = tried(lambda: store.forget(date_of(LIMIT)))
            return [(day.day, day.keys) for day in forgotten]

    def finish(below: Path) -> None:
        with opened(below) as store:
            store.forget(date_of(LIMIT))

    return Step(forget, [(date_of(day), 7) for day in gone], secrets, finish)


def destroying(place: Path) -> Step:
    """Destroying the keys of somebody."""
    with opened(place) as store:
        key_ids = store.begin_erasure(ALICE, "e1").key_ids
    secrets = wrapped_bytes(place / "keys", key_ids)

    def destroy(below: Path) -> None:
        with opened(below) as store:
            tried(lambda: store.destroy(key_ids, erasure_id="e1"))
            assert len(store.find(BOB)) == 4 * len(DAYS)

    return Step(destroy, None, secrets, destroy)


def ending(place: Path) -> Step:
    """Forgetting whom an erasure was about."""
    with opened(place) as store:
        erasure = store.begin_erasure(ALICE, "e1")
        store.destroy(erasure.key_ids, erasure_id="e1")
        pseudonym = store.pseudonym(ALICE)

    def end(below: Path) -> None:
        with opened(below) as store:
            tried(lambda: store.end_erasure("e1"))
            assert store.unfinished_erasures() == []

    return Step(end, None, [pseudonym], end)


def holding(place: Path) -> Step:
    """A hold that is set and lifted: nothing is destroyed, and nothing is done twice."""

    def hold(below: Path) -> object:
        with opened(below) as store:
            tried(lambda: store.set_hold("log", "hold"))
            held = [tuple(one) for one in store.holds()]
            tried(lambda: store.lift_hold("log", "hold"))
            return held, store.holds()

    def finish(below: Path) -> None:
        hold(below)

    return Step(hold, ([("log", "hold")], []), [], finish)


STEPS = {
    "rotate": rotating,
    "recover": recovering,
    "forget": forgetting,
    "destroy": destroying,
    "end": ending,
    "hold": holding,
}


# -- the faults ----------------------------------------------------------------------------------------------------


def arm(kind: str, call: int, hit: Path) -> None:
    """Choose the call that goes wrong; it makes the file `hit` when it is reached."""
    os.environ.update(FAULT_KIND=kind, FAULT_CALL=str(call), FAULT_HIT=str(hit))
    ctypes.CDLL(None).fault_arm()


def is_opened_by_old_key(below: Path) -> bool:
    """Return whether the first master key opens the store."""
    try:
        with opened(below, old_key(below)):
            return True
    except MasterKeyError:
        return False


def check(name: str, step: Step, below: Path) -> None:
    """Nothing that was destroyed is in any file, and everything else can be read."""
    assert copies_in_files(below / "keys", step.secrets) == {}
    assert is_opened_by_old_key(below) == (name not in {"rotate", "recover"})
    with opened(below) as store:
        left = store.find(BOB)
        assert all(isinstance(key, bytes) for key in store.keys(left).values())
        assert len(left) >= 4 * len([day for day in DAYS if name != "forget" or day >= LIMIT])


def fail_at_calls(name: str, step: Step, place: Path, number: Iterator[int], every: int) -> None:
    """Let a call fail once; the step is repeated and leaves what it leaves without a fault.

    Each call fails after it was done, which is what a second try may not expect, and one of so many without being done.
    """
    for kind in ERROR_KINDS:
        for call in range(1, 1000, 1 if kind == "after" else every):
            below = place.with_name(f"copy-{next(number)}")
            shutil.copytree(place, below)
            arm(kind, call, below / "hit")
            try:
                answer = tried(partial(step.call, below))
            finally:
                arm("none", 0, below / "hit")
            assert answer[0] == step.expected, (kind, call, answer)
            check(name, step, below)
            was_hit = (below / "hit").exists()
            shutil.rmtree(below)
            if not was_hit:
                break
            os.write(1, f"{kind} {call}\n".encode())


def kill_at_calls(name: str, step: Step, place: Path, number: Iterator[int], every: int) -> None:
    """Kill the process at one of so many calls; what it left is finished by the next."""
    for kind in KILL_KINDS:
        for call in range(1, 1000, every):
            below = place.with_name(f"copy-{next(number)}")
            shutil.copytree(place, below)
            child = os.fork()
            if not child:
                arm(kind, call, below / "hit")
                step.call(below)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            assert was_killed or status == 0, (kind, call, status)
            step.finish(below)
            check(name, step, below)
            shutil.rmtree(below)
            if not was_killed:
                break
            os.write(1, f"{kind} {call}\n".encode())


def main() -> None:
    """Go through the faults of one step."""
    name, directory, every = sys.argv[1:]
    place = Path(directory, "prepared")
    prepare(place)
    step = STEPS[name](place)
    number = iter(range(1 << 20))
    fail_at_calls(name, step, place, number, int(every))
    kill_at_calls(name, step, place, number, int(every))
    os.write(1, b"done\n")


if __name__ == "__main__":
    main()
