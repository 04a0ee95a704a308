"""Doing something to many logs: what goes wrong with one keeps no other waiting."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from audit_async._trail.log_files import Log
from audit_async.cli.run import ExitStatus, describe
from audit_async.cli.terminal import Output
from audit_async.errors import AuditError

__all__ = ["Failures", "for_each_log"]

_T = TypeVar("_T")


class Failures(NamedTuple):
    """What could not be done, and why: a text for each log, which names it."""

    texts: list[str]

    def show(self, output: Output) -> None:
        """Write them to standard error."""
        for text in self.texts:
            output.message(f"audit-async: {text}", "red")

    def status(self, otherwise: ExitStatus) -> ExitStatus:
        """Return the exit status: what it would be if all had been done is `otherwise`."""
        return ExitStatus.UNREADABLE if self.texts else otherwise


async def for_each_log(logs: Sequence[Log], do: Callable[[Log], Awaitable[_T]]) -> tuple[list[_T], Failures]:
    """Do something to each log, in order; return the results, and what failed.

    Raises what `do` raises if there is only one log, so that the command ends as it would for that error.
    """
    done: list[_T] = []
    texts: list[str] = []
    for log in logs:
        try:
            done.append(await do(log))
        except (AuditError, OSError) as error:
            if len(logs) == 1:
                raise
            text = describe(error)
            texts.append(text if log.name in text else f"{log.name}: {text}")
    return done, Failures(texts)
