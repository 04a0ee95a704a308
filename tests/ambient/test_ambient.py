"""The log and the actor of the moment: which one code gets that is given none, in threads, tasks and children."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from audit_async import (
    ActorInfo,
    AuditConfig,
    AuditLogger,
    ConfigError,
    Disabled,
    Local,
    acting_as,
    current_actor,
    get_audit,
    set_audit,
    use_audit,
)
from audit_async.ambient import AnyLogger, bind_actor, unbind_actor
from audit_async.events import AuthFailure
from audit_async.sync import SyncAuditLogger
from audit_async.testing import AuditTrail

DISABLED = AuditConfig(mode=Disabled())
DANA = ActorInfo(user_id="dana")
FAILURE = AuthFailure(attempted_user="mallory", reason="bad_password", ip="203.0.113.9", path="/login")


def test_without_a_log_the_error_says_what_to_do() -> None:
    """Nothing is set: the error names the two ways of setting it."""
    with pytest.raises(ConfigError, match=r"set_audit\(audit\) once .* `with use_audit\(audit\)`"):
        get_audit()


def test_the_log_of_the_process_is_found_in_every_thread_and_task() -> None:
    """`set_audit` reaches threads that were started before it, which no context variable does."""
    found: list[AnyLogger] = []
    go = threading.Event()

    def ask() -> None:
        go.wait(120)
        found.append(get_audit())

    thread = threading.Thread(target=ask)
    thread.start()
    audit = AuditLogger(DISABLED)
    assert set_audit(audit) is None
    go.set()
    thread.join()

    async def ask_in_a_task() -> AnyLogger:
        return get_audit()

    assert found == [audit]
    assert asyncio.run(ask_in_a_task()) is audit


def test_setting_another_log_returns_the_one_before() -> None:
    """So a test or a command can put back what it found."""
    first, second = AuditLogger(DISABLED), SyncAuditLogger(DISABLED)
    set_audit(first)
    assert set_audit(second) is first
    assert get_audit() is second
    assert set_audit(None) is second


def test_a_block_has_a_log_of_its_own() -> None:
    """`use_audit` goes before `set_audit`, nests, is seen by tasks that are begun inside, and by no other thread."""
    of_process, outer, inner = (AuditLogger(DISABLED) for _ in range(3))
    set_audit(of_process)

    async def nested() -> None:
        with use_audit(outer):
            task = asyncio.create_task(asyncio.to_thread(get_audit))
            with use_audit(inner):
                assert get_audit() is inner
                assert await asyncio.create_task(asyncio.to_thread(get_audit)) is inner
            assert get_audit() is outer
            assert await task is outer
            elsewhere: list[AnyLogger] = []
            thread = threading.Thread(target=lambda: elsewhere.append(get_audit()))
            thread.start()
            thread.join()
        assert elsewhere == [of_process]
        assert get_audit() is of_process

    asyncio.run(nested())


def test_a_block_that_raises_gives_the_log_back() -> None:
    """The end of the block counts, however it ends."""
    with pytest.raises(KeyError), use_audit(AuditLogger(DISABLED)):
        raise KeyError
    with pytest.raises(ConfigError):
        get_audit()


def test_a_function_is_asked_each_time() -> None:
    """A log may be made at its first use; what the function raises comes through."""
    made: list[AuditLogger] = []

    def open_once() -> AuditLogger:
        if not made:
            made.append(AuditLogger(DISABLED))
        return made[0]

    set_audit(open_once)
    assert made == []
    assert get_audit() is get_audit() is made[0]

    def refuse() -> AuditLogger:
        raise OSError("the directory is missing")

    with pytest.raises(OSError, match="directory is missing"), use_audit(refuse):
        get_audit()


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [(DISABLED, "a AuditConfig: make a log of it"), (AuditLogger, "the class AuditLogger"), ("audit", "a str")],
)
def test_what_is_no_log_is_refused_where_it_is_set(wrong: object, shown: str) -> None:
    """And not at the first event."""
    with pytest.raises(ConfigError, match=shown):
        set_audit(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=shown), use_audit(wrong):  # type: ignore[arg-type]
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_records_to_a_log_of_its_own(tmp_path: Path) -> None:
    """What was set before the fork serves the child as well: a SyncAuditLogger opens the next slot there."""
    config = AuditConfig(mode=Local(tmp_path), service_id="shop", handle_signals=False)
    with SyncAuditLogger(config) as audit:
        set_audit(audit)
        get_audit().emit(FAILURE)
        child = os.fork()
        if not child:
            try:
                get_audit().emit(FAILURE)
                audit.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [len(list((tmp_path / "shop" / slot).glob("*.audit"))) for slot in ("00", "01")] == [1, 1]


# The actor.


def test_nobody_is_guessed() -> None:
    """Without an actor the answer is None."""
    assert current_actor() is None


def test_the_actor_of_a_block() -> None:
    """Actors nest, and a function is asked only when somebody wants to know."""
    asked = 0

    def look_up() -> ActorInfo | None:
        nonlocal asked
        asked += 1
        return DANA

    with acting_as(ActorInfo(user_id="cron")):
        with acting_as(look_up):
            assert asked == 0
            assert current_actor() == DANA
        assert (current_actor(), asked) == (ActorInfo(user_id="cron"), 1)
        token = bind_actor(None)
        assert current_actor() is None
        unbind_actor(token)
        assert current_actor() == ActorInfo(user_id="cron")
    assert current_actor() is None


@pytest.mark.parametrize("wrong", ["dana", ActorInfo, 17])
def test_what_is_no_actor_is_refused(wrong: object) -> None:
    """A name alone says neither what kind of actor it is nor how it was authenticated, so it must be an ActorInfo."""
    with pytest.raises(ConfigError, match="must be an ActorInfo, or a function"), acting_as(wrong):  # type: ignore[arg-type]
        pass


def test_an_event_of_domain_code(tmp_path: Path) -> None:
    """Code that is given neither log nor actor records both."""
    with AuditTrail(tmp_path) as trail:
        set_audit(trail.audit)
        with acting_as(DANA):
            get_audit().emit(FAILURE)
        trail.assert_recorded(AuthFailure, attempted_user="mallory")
