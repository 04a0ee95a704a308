"""Whose log records a connection: what FastAPI's overrides say, what the middleware was given, or the life span's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from audit_async.ambient import AnyLogger, get_audit
from audit_async.ambient.ambient_log import audit_if_set, stand_in
from audit_async.errors import ConfigError
from audit_async.integrations._logger_source import shown
from audit_async.integrations.asgi.connection import STATE_KEY, logger_of_scope
from audit_async.integrations.asgi.messages import Scope
from audit_async.logger import AuditLogger

__all__ = ["OVERRIDABLE", "LogFinder"]

#: The dependencies whose override is meant for the middleware as well; `integrations.fastapi` adds its own.
OVERRIDABLE: Final[set[Callable[..., object]]] = {get_audit}


class LogFinder:
    """Finds the log for each connection.

    Args:
        app: The application that the middleware is around.
        audit: What the middleware was given: a log, a function of the scope, or None for the life span's.

    Raises:
        ConfigError: `audit` is something else.
    """

    def __init__(self, app: object, audit: object) -> None:
        self._app: Final = app
        self._given: Final = _finder(audit)
        self._fixed: Final = audit if isinstance(audit, AnyLogger) else None
        self._is_of_life_span: Final = audit is None

    def find_at_once(self, scope: Scope) -> AnyLogger | None:
        """Return the log that was given, or that the life span has left in the scope; None asks for `find`.

        What nearly every request finds, without a coroutine.
        """
        if stand_in() is not None or getattr(scope.get("app", self._app), "dependency_overrides", None):
            return None
        if self._fixed is not None or not self._is_of_life_span:
            return self._fixed
        state = scope.get("state")
        audit = state.get(STATE_KEY) if type(state) is dict else None
        return audit if type(audit) is AuditLogger else None

    async def find(self, scope: Scope) -> AnyLogger:
        """Return the log; raises `ConfigError` if there is none."""
        app = scope.get("app", self._app)
        overrides = getattr(app, "dependency_overrides", None)
        if overrides:
            override = _override_in(overrides)
            if override is not None:
                return await _result_of(override, scope)
        return stand_in() or self._given(scope)


def _finder(audit: object) -> Callable[[Scope], AnyLogger]:
    if audit is None:
        return _of_life_span
    if isinstance(audit, AnyLogger):
        return lambda _scope: audit
    if callable(audit) and not isinstance(audit, type):
        return audit  # what it returns is used as a logger at each request
    raise ConfigError("audit", f"must be an AuditLogger or a function that returns it for a scope, not {shown(audit)}")


def _of_life_span(scope: Scope) -> AnyLogger:
    try:
        return logger_of_scope(scope)
    except ConfigError:
        audit = audit_if_set()
        if audit is None:
            raise
        return audit


def _override_in(overrides: object) -> Callable[..., object] | None:
    """Return what takes the place of one of our dependencies (FastAPI's `app.dependency_overrides`)."""
    if not isinstance(overrides, Mapping):  # another framework's attribute of that name
        return None
    for dependency in OVERRIDABLE:
        override: object = overrides.get(dependency)
        if callable(override):
            return override
    return None


async def _result_of(override: Callable[..., object], scope: Scope) -> AnyLogger:
    if inspect.isgeneratorfunction(override) or inspect.isasyncgenfunction(override):
        raise ConfigError(
            "dependency_overrides",
            "the override of get_audit yields, so the middleware can't use the log as well: open the log outside, and "
            "return it in the override",
        )
    needed = _needed_by(override)
    if len(needed) > 1:
        raise ConfigError("dependency_overrides", "the override of get_audit takes at most the connection or request")
    if needed:
        from starlette.requests import HTTPConnection  # noqa: PLC0415 - there if FastAPI is

        result: Any = override(HTTPConnection(scope))
    else:
        result = override()
    if inspect.isawaitable(result):
        result = await result
    if not isinstance(result, AnyLogger):
        raise ConfigError(
            "dependency_overrides",
            f"the override of get_audit must return an AuditLogger, which the middleware uses as well, not "
            f"{shown(result)}; in tests: the fixture audit_trail has one",
        )
    return result


def _needed_by(override: Callable[..., object]) -> list[inspect.Parameter]:
    """Return the parameters that have no default; none if a built-in type does not say."""
    try:
        parameters = inspect.signature(override).parameters.values()
    except ValueError:
        return []
    return [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
