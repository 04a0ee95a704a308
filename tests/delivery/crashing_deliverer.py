"""A deliverer that is killed, with SIGKILL, at each point between the sending of a batch and its stored position.

    python -m tests.delivery.crashing_deliverer deliver.toml

Each point is a process of its own, with a state directory of its own, and a deliverer after it that delivers the rest;
what became of the first is a line of standard output.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from audit_async._durable import disk
from audit_async.delivery import Deliverer, DeliverSettings, http_sink, position_file, read_deliver_settings
from audit_async.delivery.stored_position import StoredPosition


def die(*_: object) -> None:
    """End without a word, as a power cut or the system's killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, number: int) -> Callable[[], None]:
    """Return what makes a process die before a call of a function, the first or a later one."""

    def prepare() -> None:
        original, calls = getattr(owner, name), iter(range(1_000_000))

        def call(*arguments: Any, **more: Any) -> Any:
            if next(calls) == number:
                die()
            return original(*arguments, **more)

        setattr(owner, name, call)

    return prepare


def before_renaming(end: str, number: int) -> Callable[[], None]:
    """Return what makes a process die before a file with this ending gets its name."""

    def prepare() -> None:
        original, calls = disk.rename, iter(range(1_000_000))

        def rename(source: str, target: str, **more: Any) -> None:
            if target.endswith(end) and not target.endswith("status.json") and next(calls) == number:
                die()
            original(source, target, **more)

        disk.rename = rename

    return prepare


POINTS: dict[str, Callable[[], None]] = {
    "before the first batch": before(http_sink.HttpSink, "send", 0),
    "before a later batch": before(http_sink.HttpSink, "send", 2),
    "after an answer, before anything is stored": before(StoredPosition, "move", 1),
    "before a record is set aside": before(position_file, "append_lines", 0),
    "after a record is set aside, before the position": before(StoredPosition, "store", 2),
    "with a position that has not got its name": before_renaming(".json", 1),
    "after the position has its name": before(StoredPosition, "move", 3),
}


def main(config: str) -> None:
    """Die at each point; then deliver the rest."""
    for number, (name, prepare) in enumerate(POINTS.items()):
        settings = at_point(read_deliver_settings(config), number)
        child = os.fork()
        if not child:
            prepare()
            anyio.run(Deliverer(settings).run_once)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{name}: {'killed' if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)}\n")
        anyio.run(Deliverer(settings).run_once)


def at_point(settings: DeliverSettings, number: int) -> DeliverSettings:
    """Return the settings with state and URL of their own."""
    [sink] = settings.sinks
    own = msgspec.structs.replace(sink, url=f"{sink.url}/{number}")
    return msgspec.structs.replace(settings, state_dir=f"{settings.state_dir}/{number}", sinks=(own,))


if __name__ == "__main__":
    main(sys.argv[1])
