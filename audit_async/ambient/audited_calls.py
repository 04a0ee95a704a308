"""`@audited`: calls of a function as events of their own type, and how they ended.

The event says what was observed: that the function returned, or which class of exception it raised. Neither what it
returned nor the exception's message is recorded, and of its arguments only those that are chosen by name.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import new_class
from typing import Any, ClassVar, Final, ParamSpec, TypeVar, cast

from audit_async._fork_lock import ForkLock
from audit_async._sanitize.foreign_values import exception_name, plain
from audit_async.ambient.ambient_actor import current_actor
from audit_async.ambient.ambient_log import AnyLogger, get_audit
from audit_async.errors import BufferFull, ConfigError, InvalidEvent
from audit_async.events import ActorInfo, AuditEvent
from audit_async.events.class_rules import class_of
from audit_async.status import describe_error

__all__ = ["AuditedCall", "audited"]

_log = logging.getLogger("audit_async")

_P = ParamSpec("_P")
_R = TypeVar("_R")


class AuditedCall(AuditEvent, abstract=True):
    """A call of a function that `@audited` records; each type of event has a subclass.

    Args:
        actor: On whose behalf it was called; left out if that is not known.
        function: The function's module and qualified name.
        arguments: Those that were chosen, by name, as plain data; redacted by their names, as all free-form data.
        error: The class of the exception that it raised; only in the type for failures.
    """

    actor: ActorInfo | None = None
    function: str
    arguments: Mapping[str, Any] | None = None
    error: str | None = None


def audited(
    event_type: str, *, failure: str | None = None, arguments: Sequence[str] = (), critical: bool = False
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Record each call of a function: how it ended, on whose behalf, and chosen arguments.

        @audited("order.approved", failure="order.approval_failed", arguments=("order_id",))
        def approve(order_id: str, note: str) -> None: ...

    For `def` and `async def`; of a `def` that returns a coroutine the end of that is recorded. The log is `get_audit()`
    and the actor `current_actor()`, both as the call begins. If there is no log, the call raises before the function
    runs. After the function has run, the log's own failures are not raised, since the caller would take them for the
    function's: what could not be recorded is counted as lost, recorded as such, and reported in the log `audit_async`.
    `emit` never waits, so on return the event is not durable yet.

    Generators are refused: their call returns before anything was done. Put it below `@staticmethod`, `@classmethod`
    and `@property`, and below a framework's decorators that register the function.

    Args:
        event_type: The type of the event if the function returns, as event classes have it: `order.approved`. It must
            not be that of an event class.
        failure: The type if it raises; left out, `event_type` with `.failed` at its end.
        arguments: The names of the parameters whose values are recorded, as they are when the call begins; members
            of objects that are no plain data are not looked at, only the name of their type is recorded.
        critical: Whether the events are made durable at once in hybrid mode, and refused last if the buffer is full.

    Returns:
        The decorator.

    Raises:
        ConfigError: A parameter is not the function's, or the function can't be recorded.
        InvalidEvent: A type is malformed, reserved, or an event class has it.
    """
    if isinstance(arguments, str):
        raise ConfigError("arguments", f'must be several names; write arguments=("{arguments}",)')
    succeeded = _event_class(event_type, critical=critical)
    failed = _event_class(f"{event_type}.failed" if failure is None else failure, critical=critical)
    if succeeded is failed:
        raise ConfigError("failure", "must not be the type of success: a reader could not see which it was")

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        _check_function(function)
        call = _Recording(function, succeeded, failed, tuple(arguments))
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def audited_coroutine(*args: _P.args, **kwargs: _P.kwargs) -> object:
                under_way = call.begin(args, kwargs)
                return await under_way.end_of(function(*args, **kwargs))

            return cast("Callable[_P, _R]", audited_coroutine)

        @functools.wraps(function)
        def audited_function(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            under_way = call.begin(args, kwargs)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                under_way.failed(error)
                raise
            if inspect.iscoroutine(result):  # nothing of it has run yet
                return cast("_R", under_way.end_of(result))
            under_way.succeeded()
            return result

        return audited_function

    return decorate


class _Recording:
    """What is recorded of one decorated function."""

    def __init__(
        self,
        function: Callable[..., object],
        succeeded: type[AuditedCall],
        failed: type[AuditedCall],
        arguments: tuple[str, ...],
    ) -> None:
        self.succeeded: Final = succeeded
        self.failed: Final = failed
        self.name: Final = f"{function.__module__}.{function.__qualname__}"
        self._arguments: Final = arguments
        self._signature: Final = inspect.signature(function)
        unknown = [name for name in arguments if name not in self._signature.parameters]
        if unknown:
            has = ", ".join(self._signature.parameters) or "none"
            raise ConfigError("arguments", f"{self.name} has no parameter {unknown[0]!r}; it has {has}")

    def begin(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> _Call:
        """Return a call that begins; raises if there is no log."""
        audit = get_audit()
        try:
            actor, actor_is_known = current_actor(), True
        except Exception as error:  # noqa: BLE001 - it is the application's own code; the call counts for more
            actor, actor_is_known = None, False
            _log.error("the actor of a call of %s is left out: its function raised %s", self.name, type(error).__name__)
        return _Call(self, audit, actor, self._chosen(args, kwargs) if self._arguments else None, actor_is_known)

    def _chosen(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object] | None:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:
            return None  # the call itself raises the same
        bound.apply_defaults()
        return {name: plain(bound.arguments[name]) for name in self._arguments}


class _Call:
    """One call that is under way. Exactly one of `succeeded` and `failed` is called."""

    __slots__ = ("_actor", "_actor_is_known", "_arguments", "_audit", "_recording")

    def __init__(
        self,
        recording: _Recording,
        audit: AnyLogger,
        actor: ActorInfo | None,
        arguments: dict[str, object] | None,
        actor_is_known: bool,
    ) -> None:
        self._recording = recording
        self._audit = audit
        self._actor = actor
        self._arguments = arguments
        self._actor_is_known = actor_is_known

    def succeeded(self) -> None:
        """Record that the function has returned."""
        self._emit(self._recording.succeeded, None)

    def failed(self, error: BaseException) -> None:
        """Record that the function has raised."""
        self._emit(self._recording.failed, exception_name(type(error)))

    async def end_of(self, coroutine: Coroutine[Any, Any, object]) -> object:
        """Await the function's coroutine and record how it ends."""
        try:
            result = await coroutine
        except BaseException as error:
            self.failed(error)
            raise
        self.succeeded()
        return result

    def _emit(self, event_class: type[AuditedCall], error: str | None) -> None:
        tag = cast("str", event_class.__struct_config__.tag)
        try:
            event = event_class(
                actor=self._actor, function=self._recording.name, arguments=self._arguments, error=error
            )
            self._audit.emit(event)
        except BufferFull as refusal:  # the log has counted it
            _log.error("a call of %s could not be recorded: %s", self._recording.name, refusal)
        except Exception as failure:  # noqa: BLE001 - raised here, it would look like the function's own
            self._audit.count_lost(tag, "invalid_event" if isinstance(failure, InvalidEvent) else "emit_failed")
            _log.error("a call of %s could not be recorded: %s", self._recording.name, describe_error(failure))
        else:
            if not self._actor_is_known:
                self._audit.count_lost(tag, "recorded_without_actor")


def _check_function(function: object) -> None:
    if isinstance(function, staticmethod | classmethod | property):
        raise ConfigError("function", f"put @audited below @{type(function).__name__}, at the function itself")
    if isinstance(function, type) or not callable(function) or not hasattr(function, "__qualname__"):
        raise ConfigError("function", f"@audited takes a function, not a {type(function).__name__}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(
            "function",
            f"{function.__qualname__} is a generator, whose call returns before anything was done; put @audited at a "
            "function that goes through it",
        )


_lock: Final = ForkLock()
_classes: Final[dict[str, type[AuditedCall]]] = {}


def _event_class(tag: str, *, critical: bool) -> type[AuditedCall]:
    """Return the class of the events of this type; several functions may have the same."""
    with _lock.current:
        known = _classes.get(tag)
        if known is None:
            other = class_of(tag)
            if other is not None:
                raise InvalidEvent(
                    tag, "", f"is the type of {other.__module__}.{other.__qualname__}; choose another type for @audited"
                )
            known = _classes[tag] = _define(tag, critical=critical)
        if known.critical is not critical:
            raise ConfigError("critical", f"{tag} is critical in one place and not in another; give the same value")
        return known


def _define(tag: str, *, critical: bool) -> type[AuditedCall]:
    name = "".join(word.capitalize() for word in tag.replace(".", "_").split("_"))
    body = {
        "__module__": __name__,
        "__doc__": f"A call that `@audited` records as `{tag}`.",
        "__annotations__": {"critical": ClassVar[bool]},
        "critical": critical,
    }
    return cast("type[AuditedCall]", new_class(name, (AuditedCall,), {"tag": tag}, lambda names: names.update(body)))
