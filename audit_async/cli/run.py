"""How every command runs and ends: its exit status, and its message if it can't do its work."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Final

import anyio
import typer

from audit_async._layout.regular_files import NO_DESCRIPTORS
from audit_async._query.audit_query import InvalidQuery
from audit_async._trail.log_files import why_unreadable
from audit_async.cli.terminal import Output
from audit_async.errors import AuditError, ConfigError, LogCorrupted

__all__ = ["ExitStatus", "Refused", "describe", "perform"]


#: What a question's parts are called here, of those that only the trail shows to be wrong.
_OPTIONS: Final = {"log": "--log", "after_seq": "--after-seq", "event_types": "--type", "disclose": "--disclose"}


class ExitStatus(IntEnum):
    """What a command reports to the program that started it."""

    OK = 0
    FINDINGS = 1  #: damage, a failed check
    USAGE = 2  #: what was asked for makes no sense
    UNREADABLE = 3  #: something can't be read, or can't be done
    INTERRUPTED = 130  #: Ctrl-C
    PIPE_CLOSED = 141  #: the reader of the output is gone; what a shell reports for SIGPIPE


class Refused(AuditError):
    """The command can't do what it was asked for; the message says why and what to do."""


def perform(output: Output, command: Callable[[], Awaitable[ExitStatus]]) -> None:
    """Run a command to its end and leave with its exit status; errors become one line on standard error."""
    handler = _Remarks(output)
    logger = logging.getLogger("audit_async")
    logger.addHandler(handler)
    try:
        status = _status_of(output, command)
    finally:
        logger.removeHandler(handler)
    raise typer.Exit(status)


class _Remarks(logging.Handler):
    """Shows the library's own warnings, such as damage that a query passed over, as remarks of the command."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.message(f"audit-async: {record.getMessage()}", "yellow")


def _status_of(output: Output, command: Callable[[], Awaitable[ExitStatus]]) -> ExitStatus:
    try:
        status = anyio.run(command)
        output.flush()
    except BrokenPipeError:
        _discard_output()
        return ExitStatus.PIPE_CLOSED
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except InvalidQuery as error:
        return _failed(output, f"{_OPTIONS.get(error.field, error.field)}: {error.reason}", ExitStatus.USAGE)
    except ConfigError as error:
        return _failed(output, str(error), ExitStatus.USAGE)
    except LogCorrupted as error:
        return _failed(output, str(error), ExitStatus.FINDINGS)
    except AuditError as error:
        return _failed(output, str(error), ExitStatus.UNREADABLE)
    except RecursionError:
        return _failed(output, "a record nests too deeply to be shown; export it as ndjson", ExitStatus.UNREADABLE)
    except OSError as error:
        return _failed(output, describe(error), ExitStatus.UNREADABLE)
    return status


def describe(error: AuditError | OSError) -> str:
    """Say what kept a command from its work, with the path if the error has one."""
    if isinstance(error, AuditError):
        return str(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    reason = why_unreadable(error) if error.errno in NO_DESCRIPTORS else error.strerror or str(error)
    return f"{where}{reason}"


def _failed(output: Output, text: str, status: ExitStatus) -> ExitStatus:
    """Say what went wrong, after what was written before."""
    try:
        output.flush()
    except BrokenPipeError:
        _discard_output()
    output.message(f"audit-async: {text}")
    return status


def _discard_output() -> None:
    """Let the interpreter's own flush at its end write to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)
