"""A program without an event loop that records, and ends in one of many ways.

`python -m tests.sync.sync_program HOW DIRECTORY`. On stdout, `!` and who it was about: that record was acknowledged
as durable; `~`: it was emitted.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audit_async import AuditConfig, Local
from audit_async.config import Batched
from audit_async.events import AuthFailure
from audit_async.sync import SyncAuditLogger


def say(line: str) -> None:
    """Tell the parent."""
    os.write(1, f"{line}\n".encode())


def failure(number: int) -> AuthFailure:
    """Return an event."""
    return AuthFailure(attempted_user=f"{os.getpid()}-{number}", reason="bad_password", ip="192.0.2.1", path="/login")


def record(audit: SyncAuditLogger, count: int = 20) -> None:
    """Emit some events, of which the first is waited for."""
    audit.emit_durable(failure(0), 30)
    say(f"!{os.getpid()}-0")
    for number in range(1, count):
        audit.emit(failure(number))
        say(f"~{os.getpid()}-{number}")


def child_records(audit: SyncAuditLogger) -> None:
    """Run in a child of multiprocessing that was forked."""
    record(audit)


def spawned_records(directory: str) -> None:
    """Run in a child of multiprocessing that has its own interpreter; the log is not closed."""
    audit = SyncAuditLogger(config_for(directory))
    audit.start()
    record(audit)


def config_for(directory: str) -> AuditConfig:
    """Return a configuration whose records wait for a minute, unless they are drained."""
    return AuditConfig(
        mode=Local(Path(directory)),
        service_id="shop",
        flush_mode=Batched(size=9_000, interval=60.0),
        drain_timeout=60.0,
    )


def end_by_signal(signum: int) -> None:
    """Send a signal to this process, and wait for it as a busy program does."""
    os.kill(os.getpid(), signum)
    time.sleep(120)


def in_processes(method: str) -> Callable[[SyncAuditLogger, str], None]:
    """Return what records in a child of multiprocessing as well."""

    def run(audit: SyncAuditLogger, directory: str) -> None:
        context: Any = multiprocessing.get_context(method)
        children = [
            context.Process(target=child_records, args=(audit,))
            if method == "fork"
            else context.Process(target=spawned_records, args=(directory,))
            for _ in range(2)
        ]
        for child in children:
            child.start()
        record(audit)
        for child in children:
            child.join()
            assert child.exitcode == 0

    return run


def fork_and_exit(audit: SyncAuditLogger, _: str) -> None:
    """Record in a child that ends by sys.exit, and in the parent."""
    record(audit, 5)
    if (pid := os.fork()) == 0:
        record(audit)
        sys.exit(0)
    record(audit, 5)
    os.waitpid(pid, 0)


def emit_in_threads(audit: SyncAuditLogger, _: str) -> None:
    """Leave threads behind that still emit as the interpreter ends."""

    def emit() -> None:
        for number in range(100, 1_000_000):
            try:
                audit.emit(failure(number))
            except Exception:  # noqa: BLE001 - closed by now
                return
            say(f"~{os.getpid()}-{number}")
            time.sleep(0.001)

    threading.Thread(target=emit, daemon=True).start()
    record(audit)
    time.sleep(0.2)


def handled(audit: SyncAuditLogger, _: str) -> None:
    """Have a handler of the application, set after ours, that ends the program in its own way."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    record(audit)
    end_by_signal(signal.SIGTERM)


def raise_error(audit: SyncAuditLogger, _: str) -> None:
    """End by an exception that nobody catches."""
    record(audit)
    raise RuntimeError("nobody catches it")


def by_signal(signum: int) -> Callable[[SyncAuditLogger, str], None]:
    """Return what ends by a signal."""

    def run(audit: SyncAuditLogger, _: str) -> None:
        record(audit)
        end_by_signal(signum)

    return run


def catch_interrupts(audit: SyncAuditLogger, _: str) -> None:
    """Go on after each Ctrl-C, as a shell does."""
    for _turn in range(2):
        record(audit)
        try:
            end_by_signal(signal.SIGINT)
        except KeyboardInterrupt:
            record(audit, 5)


def exit_now(audit: SyncAuditLogger, _: str) -> None:
    """End by sys.exit."""
    record(audit)
    sys.exit(3)


WAYS: dict[str, Callable[[SyncAuditLogger, str], None]] = {
    "end": lambda audit, _: record(audit),
    "exit": exit_now,
    "error": raise_error,
    "term": by_signal(signal.SIGTERM),
    "int": by_signal(signal.SIGINT),
    "caught": catch_interrupts,
    "handled": handled,
    "threads": emit_in_threads,
    "os-fork": fork_and_exit,
    "fork": in_processes("fork"),
    "forkserver": in_processes("forkserver"),
    "spawn": in_processes("spawn"),
}


def main() -> None:
    """Record, and end."""
    how, directory = sys.argv[1:]
    audit = SyncAuditLogger(config_for(directory))
    audit.start()
    WAYS[how](audit, directory)


if __name__ == "__main__":
    main()
