"""What takes a lock in a forked child, or in a signal handler, and must not wait for it for ever."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from types import new_class
from typing import Any

import pytest

from audit_async import AuditEvent
from audit_async._verify.background_pass import VerifyingProcess
from audit_async.ambient import audited_calls
from audit_async.events import class_rules, registry

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def in_child(call: Callable[[], object]) -> int:
    """Return how a forked child ended that makes this call; a signal ends one that waits for ever."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_that_is_forked_while_a_thread_defines_events_defines_its_own() -> None:
    """A lock that a thread of the parent holds is not the child's: neither for classes nor for `@audited`."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with registry._lock.current, class_rules._lock.current, audited_calls._lock.current:
            held.set()
            over.wait(180)

    def define() -> None:
        class Defined(AuditEvent, tag="test_interrupted.defined"):
            """An event of the child."""

        assert registry.describe(Defined).tag == "test_interrupted.defined"
        audited_calls.audited("test_interrupted.called", failure="test_interrupted.call_failed")(define)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(60)
        assert in_child(define) == 0
    finally:
        over.set()
        holder.join()


def test_a_child_that_is_forked_while_a_verification_begins_is_not_blocked() -> None:
    """The child leaves the parent's process alone, and can stop its own copy of what starts such processes."""
    process = VerifyingProcess()
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with process._lock:
            held.set()
            over.wait(180)

    def stop() -> None:
        process.forked()
        process.stop()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(60)
        assert in_child(stop) == 0
    finally:
        over.set()
        holder.join()


def test_a_signal_handler_that_decorates_while_its_thread_does() -> None:
    """As one that imports a module with `@audited`."""
    handled: list[type[AuditEvent]] = []

    def handle(*_: object) -> None:
        handled.append(audited_calls._event_class("test_interrupted.inner", critical=False))

    def interrupted_new_class(*args: Any) -> type[Any]:
        if not handled:
            handled.append(AuditEvent)
            signal.raise_signal(signal.SIGUSR1)
        return new_class(*args)

    def decorate() -> None:
        signal.signal(signal.SIGUSR1, handle)
        vars(audited_calls)["new_class"] = interrupted_new_class
        outer = audited_calls._event_class("test_interrupted.outer", critical=False)
        assert registry.describe(handled[1]).tag == "test_interrupted.inner"
        assert registry.describe(outer).tag == "test_interrupted.outer"

    assert in_child(decorate) == 0
