"""`audit_tasks`: each run of a Celery task in the trail, on behalf of whoever asked for it.

    app = Celery("shop", broker="redis://localhost")
    audit_tasks(app, SyncAuditLogger(config))

The context that is bound where a task is sent (`audit_context`), and the actor (`acting_as`, or a request that an audit
middleware serves), travel in the headers of its message: events that the task emits have them, and so has the record of
the run. They are as trustworthy as whoever may write to the broker.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import Token
from typing import TYPE_CHECKING, Any, Final

import msgspec

from audit_async._first_use import installed_by

with installed_by("audit-async[celery]", __name__):
    from celery import signals, states

from audit_async._sanitize.foreign_values import exception_name, plain
from audit_async.ambient import AnyLogger, AuditSource, get_audit
from audit_async.ambient.ambient_actor import ActorSource, bind_actor, current_actor, unbind_actor
from audit_async.ambient.ambient_log import check_audit_source, stand_in
from audit_async.context import Bound, ContextValue, bind_context, current_context, unbind_context
from audit_async.errors import AuditError, BufferFull, ConfigError, InvalidEvent, LogClosed
from audit_async.events import ActorInfo, AuditResult, Failure, JobEnded, PartialSuccess, Success
from audit_async.status import describe_error
from audit_async.sync import SyncAuditLogger, close_open_logs

if TYPE_CHECKING:
    from celery import Celery, Task

__all__ = ["AuditedTasks", "audit_tasks"]

_log: Final = logging.getLogger("audit_async")

#: The header of a message that carries context and actor.
_HEADER: Final = "audit_async"


class _Carried(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels in the headers of a task's message."""

    context: dict[str, ContextValue] = {}
    actor: ActorInfo | None = None


class _Run:
    """One run of a task that is under way in this process."""

    def __init__(self, carried: _Carried | None) -> None:
        self.actor: Final = None if carried is None else carried.actor
        self.began: Final = time.monotonic()
        # In eager mode nothing is carried, and what is bound stays bound.
        self._context: Token[Bound | None] | None = None if carried is None else bind_context(**carried.context)
        self._actor: Token[ActorSource | None] | None = None if carried is None else bind_actor(carried.actor)

    def end(self) -> None:
        """Bring back what was bound before."""
        if self._context is not None and self._actor is not None:
            unbind_context(self._context)
            unbind_actor(self._actor)


def audit_tasks(
    app: Celery,
    audit: AuditSource | None = None,
    *,
    arguments: Mapping[str, Sequence[str]] | None = None,
    durable: bool = False,
) -> AuditedTasks:
    """Record each run of the application's tasks, and let context and actor travel with them; once for each process.

    Args:
        app: The application.
        audit: The log. A `SyncAuditLogger` that is not started is started in each worker process, and closed at its
            end, so that a worker that is asked to stop loses nothing; in a process that only sends tasks it stays
            closed. None takes `get_audit()` at each run.
        arguments: Which arguments of which task are recorded, by the task's name: `{"shop.refund": ("order_id",)}`.
            None of a task that is not named.
        durable: Wait until the record of a run is on stable storage before Celery goes on, which with `acks_late`
            acknowledges the message only then.

    Returns:
        What is connected to Celery's signals; its `disconnect` ends it.

    Raises:
        ConfigError: An argument is wrong.
    """
    return AuditedTasks(app, audit, arguments=arguments or {}, durable=durable)


class AuditedTasks:
    """The connection of an application's tasks to a log; made by `audit_tasks`."""

    def __init__(
        self, app: Celery, audit: AuditSource | None, *, arguments: Mapping[str, Sequence[str]], durable: bool
    ) -> None:
        for task, names in arguments.items():
            if isinstance(names, str):
                raise ConfigError("arguments", f"names of {task!r} must be several, such as ({names!r},)")
        self._app: Final = app
        self._audit: Final = None if audit is None else check_audit_source(audit)
        self._arguments: Final = {task: tuple(names) for task, names in arguments.items()}
        self._durable: Final = durable
        self._is_pool_process = False
        self._connected: Final = (
            (signals.before_task_publish, self._send),
            (signals.task_prerun, self._begin),
            (signals.task_postrun, self._end),
            (signals.task_failure, self._fail_elsewhere),
            (signals.task_retry, self._retry_elsewhere),
            (signals.task_revoked, self._revoke),
            (signals.worker_init, self._start),
            (signals.worker_process_init, self._start_in_pool),
            (signals.worker_process_shutdown, self._close_in_pool),
            (signals.worker_shutdown, self._close),
        )
        for signal, receiver in self._connected:
            signal.connect(receiver, weak=False)

    def disconnect(self) -> None:
        """Record no more tasks; the log stays as it is."""
        for signal, receiver in self._connected:
            signal.disconnect(receiver)

    # The life of the log in a worker. A process that only sends tasks has none of these signals.

    def _start(self, **_: object) -> None:
        if isinstance(self._audit, SyncAuditLogger):
            with suppress(LogClosed):  # it was started before, or by the process that this one was forked from
                self._audit.start()

    def _start_in_pool(self, **_: object) -> None:
        self._is_pool_process = True
        self._start()

    def _close(self, **_: object) -> None:
        if isinstance(self._audit, SyncAuditLogger):
            try:
                self._audit.close()
            except Exception as error:  # noqa: BLE001 - a worker that ends has nobody to tell
                _log.error("the audit log could not be closed as a Celery process ended: %s", describe_error(error))

    def _close_in_pool(self, **_: object) -> None:
        # A pool's process ends without exit handlers and finalizers. The log may be another than was given here, such
        # as Django's, which the first event of this process has opened.
        self._close()
        close_open_logs()

    # What travels.

    def _send(self, headers: dict[str, Any] | None = None, **_: object) -> None:
        context, actor = dict(current_context()), _actor_here()
        if headers is not None and (context or actor is not None):
            headers[_HEADER] = msgspec.to_builtins(_Carried(context, actor))

    def _carried(self, headers: Mapping[str, Any], task: str) -> _Carried:
        given = headers.get(_HEADER)
        if given is None:
            return _Carried()
        try:
            return msgspec.convert(given, _Carried)
        except msgspec.ValidationError:  # not shown: whoever may write to the broker may have written it
            _log.error("a message of the Celery task %s has an unreadable header %s; it is left out", task, _HEADER)
            return _Carried()

    # The runs.

    def _begin(self, task: Task, **_: object) -> None:
        if task.app is not self._app:
            return
        request = task.request
        carried = None if request.is_eager else self._carried(vars(request), task.name)
        try:
            run = _Run(carried)
        except InvalidEvent as error:  # a binding that nobody could have bound
            _log.error("the context of a Celery task is left out: %s", error)
            run = _Run(_Carried(actor=carried.actor if carried else None))
        request.audit_async_run = run

    def _end(self, task: Task, retval: object = None, state: str | None = None, **given: Any) -> None:  # noqa: ANN401 - Celery's
        if task.app is not self._app:  # another application of this process, with a log of its own
            return
        request = task.request
        run: _Run | None = getattr(request, "audit_async_run", None)
        if run is None:
            return
        try:
            # Without a state the process is ending; that of a pool's process is reported by the worker's main one.
            if state is not None or not self._is_pool_process:
                self._record(
                    task,
                    request,
                    _result_of(state, retval),
                    actor=_actor_here() if run.actor is None else run.actor,
                    duration_ms=round((time.monotonic() - run.began) * 1000),
                    given=self._chosen(task, given.get("args") or (), given.get("kwargs") or {}),
                )
        finally:
            del request.audit_async_run
            run.end()

    def _fail_elsewhere(self, sender: Task, exception: BaseException | None = None, **_: object) -> None:
        """Record a run whose process is gone, killed or over its time limit: the worker's main process says so."""
        reason = "unknown" if exception is None else exception_name(type(exception))
        self._record_elsewhere(sender, Failure(reason=reason))

    def _retry_elsewhere(self, sender: Task, reason: object = None, **_: object) -> None:
        self._record_elsewhere(sender, PartialSuccess(details=_retried(reason)))

    def _record_elsewhere(self, task: Task, result: AuditResult) -> None:
        """Record a run, unless it is under way in this process, whose end will be seen."""
        request = task.request
        is_under_way = getattr(request, "audit_async_run", None) is not None or request.is_eager
        # Without an id it is no request: of a rejected run, which its own process has recorded.
        if task.app is self._app and request.id is not None and not is_under_way:
            self._record(task, request, result, actor=self._actor_of(request, task))

    def _revoke(self, sender: Task, **given: Any) -> None:  # noqa: ANN401 - Celery's
        if sender.app is not self._app or given.get("request") is None:
            return
        reason = "expired" if given.get("expired") else "terminated" if given.get("terminated") else "revoked"
        request = given["request"]
        self._record(sender, request, Failure(reason=reason), actor=self._actor_of(request, sender))

    def _actor_of(self, request: Any, task: Task) -> ActorInfo | None:  # noqa: ANN401 - Celery's
        return self._carried(vars(request), task.name).actor

    def _chosen(self, task: Task, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object] | None:
        names = self._arguments.get(task.name)
        if not names:
            return None
        try:
            bound = inspect.signature(task.run).bind(*args, **kwargs)
        except TypeError:
            return None  # the run has failed of the same
        bound.apply_defaults()
        return {name: plain(bound.arguments[name]) for name in names if name in bound.arguments}

    def _record(
        self,
        task: Task,
        request: Any,  # noqa: ANN401 - Celery's
        result: AuditResult,
        *,
        actor: ActorInfo | None,
        duration_ms: int | None = None,
        given: dict[str, object] | None = None,
    ) -> None:
        delivery = getattr(request, "delivery_info", None) or {}
        audit: AnyLogger | None = None
        try:
            audit = self._log_here()
            event = JobEnded(
                actor=actor,
                job=task.name,
                job_id=str(request.id),
                attempt=int(request.retries or 0) + 1,
                result=result,
                queue=delivery.get("routing_key"),
                duration_ms=duration_ms,
                arguments=given,
            )
            receipt = audit.emit(event)
            if self._durable:
                receipt.wait()
        except BufferFull as refusal:  # the log has counted it
            _log.error("the end of a Celery task could not be recorded: %s", refusal)
        except (AuditError, OSError, RuntimeError) as error:
            if audit is not None:
                audit.count_lost("job.ended", "invalid_event" if isinstance(error, InvalidEvent) else "emit_failed")
            _log.error("the end of a Celery task could not be recorded: %s", describe_error(error))

    def _log_here(self) -> AnyLogger:
        if self._audit is None or stand_in() is not None:  # a test's log takes the place of the application's
            return get_audit()
        return self._audit if isinstance(self._audit, AnyLogger) else self._audit()


def _actor_here() -> ActorInfo | None:
    try:
        return current_actor()
    except Exception as error:  # noqa: BLE001 - it is the application's own code; the task counts for more
        _log.error("the actor of a Celery task is left out: its function raised %s", type(error).__name__)
        return None


def _result_of(state: str | None, retval: object) -> AuditResult:
    if state == states.SUCCESS:
        return Success()
    if state == states.RETRY:
        return PartialSuccess(details=_retried(retval))
    if state == states.IGNORED:
        return PartialSuccess(details="ignored")
    if state == states.REJECTED:
        return Failure(reason="rejected")
    return Failure(reason=exception_name(type(retval)) if isinstance(retval, BaseException) else "interrupted")


def _retried(reason: object) -> str:
    """Return that a run is tried again, and for which exception."""
    cause = getattr(reason, "exc", None)
    return f"retried: {exception_name(type(cause))}" if isinstance(cause, BaseException) else "retried"
