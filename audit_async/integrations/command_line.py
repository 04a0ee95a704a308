"""`audited_command`: each run of a command in the trail, for click, Typer, argparse or none of them.

    @commands.command()
    @audited_command(AuditConfig(mode=Local("/var/lib/audit"), service_id="admin"), parameters=("user",))
    def lock(user: str, reason: str) -> None: ...

The record says who ran it, by the operating system's account, with which of its parameters, and with what exit status.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, ParamSpec, TypeVar
from uuid import uuid4

from audit_async._sanitize.foreign_values import exception_name, plain
from audit_async.ambient import AnyLogger, AuditSource, acting_as, get_audit, use_audit
from audit_async.ambient.ambient_log import check_audit_source
from audit_async.config import AuditConfig
from audit_async.errors import AuditError, ConfigError
from audit_async.events import ActorInfo, ActorKind, AuditEvent, CommandEnded, CommandStarted
from audit_async.status import describe_error
from audit_async.sync import SyncAuditLogger

if sys.platform != "win32":
    import pwd

__all__ = ["audited_command", "os_user"]

_log: Final = logging.getLogger("audit_async")
_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Where click keeps the command that runs; Typer has a copy of click of its own.
_CONTEXTS: Final = ("click.globals", "typer._click.globals")
_INTERRUPTED: Final = 130
_TIMEOUT_S: Final = 30.0


def audited_command(
    audit: AuditConfig | AuditSource | None = None,
    *,
    parameters: tuple[str, ...] = (),
    name: str | None = None,
    actor: Callable[[], ActorInfo] | None = None,
    started: bool = False,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Record each run of a command as `command.ended`; to be put directly at its function, below `@app.command()`.

    The record is on stable storage before the command ends. In it `get_audit()` is the log, and `current_actor()`
    whoever runs it. If the log can't be opened the command does not run.

    Args:
        audit: The log, a function that returns it, or the configuration of one that is open while the command runs; by
            default `get_audit()`.
        parameters: The names of the parameters that are recorded; passwords and keys in them are taken out.
        name: What the command is called; by default as click knows it ("admin users lock"), otherwise the function's
            name.
        actor: Says who runs it; by default `os_user`.
        started: Record `command.started` as well, durably, before the command runs.

    Raises:
        ConfigError: An argument is wrong, or the function is a coroutine function or a generator.
    """
    if isinstance(parameters, str):
        raise ConfigError("parameters", f"must be several, such as ({parameters!r},)")
    if actor is not None and not callable(actor):
        raise ConfigError("actor", "must be a function that returns an ActorInfo")
    source = audit if audit is None or isinstance(audit, AuditConfig) else check_audit_source(audit)

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)
        if missing := [parameter for parameter in parameters if parameter not in signature.parameters]:
            raise ConfigError("parameters", f"the command has no parameter {missing[0]!r}")
        if (
            inspect.iscoroutinefunction(function)
            or inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            raise ConfigError("command", "is a coroutine function or a generator; record what it does with audit.emit")
        own_name = name or function.__name__.replace("_", "-")

        @functools.wraps(function)
        def audited(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            chosen = {parameter: plain(bound.arguments[parameter]) for parameter in parameters} or None
            who = os_user() if actor is None else actor()
            run = _Run(who, own_name if name is not None else _command_path() or own_name, chosen)
            with _open(source) as log, use_audit(log), acting_as(who):
                if started:
                    _make_durable(log, run.start())
                try:
                    result = function(*args, **kwargs)
                except BaseException as error:
                    _record(log, run.end(error))
                    raise
                _record(log, run.end(None))
            return result

        return audited

    return decorate


def os_user() -> ActorInfo:
    """Return the account of the operating system that this process runs as: a user, by its name.

    What the environment says (`LOGNAME`, `SUDO_USER`) is not asked: whoever runs the command can set it.
    """
    if sys.platform == "win32":
        return ActorInfo(user_id=os.getlogin(), kind=ActorKind.USER)
    uid = os.getuid()
    try:
        return ActorInfo(user_id=pwd.getpwuid(uid).pw_name, kind=ActorKind.USER)
    except KeyError:  # an account without an entry, as in containers
        return ActorInfo(user_id=f"uid:{uid}", kind=ActorKind.USER)


class _Run:
    """One run of a command."""

    def __init__(self, actor: ActorInfo, command: str, parameters: dict[str, object] | None) -> None:
        self._actor: Final = actor
        self._command: Final = command
        self._parameters: Final = parameters
        self._id: Final = uuid4().hex
        self._began: Final = time.monotonic()

    def start(self) -> CommandStarted:
        return CommandStarted(actor=self._actor, command=self._command, run_id=self._id, parameters=self._parameters)

    def end(self, error: BaseException | None) -> CommandEnded:
        status = _exit_status(error)
        return CommandEnded(
            actor=self._actor,
            command=self._command,
            run_id=self._id,
            exit_status=status,
            duration_ms=round((time.monotonic() - self._began) * 1000),
            parameters=self._parameters,
            error=None if error is None or isinstance(error, SystemExit) or _is_exit(error) else _name(error),
        )


def _name(error: BaseException) -> str:
    return exception_name(type(error))


def _is_exit(error: BaseException) -> bool:
    """Return whether an exception is how click's and Typer's commands end by themselves: `Exit`."""
    return type(error).__name__ == "Exit" and isinstance(getattr(error, "exit_code", None), int)


def _exit_status(error: BaseException | None) -> int:
    """Return the status that the process ends with, as click, Typer and Python make it of an exception."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        code = error.code
        return code if isinstance(code, int) else 0 if code is None else 1
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    status = getattr(error, "exit_code", None)  # click's Exit and ClickException
    return status if isinstance(status, int) else 1


def _command_path() -> str | None:
    """Return how the command was called, if click or Typer calls it."""
    for module in _CONTEXTS:
        found = sys.modules.get(module)
        current = None if found is None else getattr(found, "get_current_context", None)
        context = None if current is None else current(silent=True)
        if context is not None:
            return str(context.command_path)
    return None


@contextmanager
def _open(source: AuditConfig | AuditSource | None) -> Iterator[AnyLogger]:
    with ExitStack() as stack:
        if isinstance(source, AuditConfig):
            yield stack.enter_context(SyncAuditLogger(source))
        elif source is None:
            yield get_audit()
        else:
            yield source if isinstance(source, AnyLogger) else source()


def _make_durable(log: AnyLogger, event: AuditEvent) -> None:
    if isinstance(log, SyncAuditLogger):
        log.emit_durable(event, _TIMEOUT_S)
    else:
        log.emit(event).wait(_TIMEOUT_S)


def _record(log: AnyLogger, event: CommandEnded) -> None:
    """Record what came of a run; the command has run, so what fails here is counted and logged, and raises nothing."""
    try:
        _make_durable(log, event)
    except (AuditError, OSError, RuntimeError, TimeoutError) as error:
        if isinstance(error, AuditError):
            log.count_lost(event.event_type, "emit_failed")
        _log.error(
            "the command %s has run, and its record is not known to be durable: %s",
            event.command,
            describe_error(error),
        )
