"""From a request that has come to its end to the event in the trail.

An integration fills in an `Exchange` as the request goes by, and hands it to the `Recorder` at the end, which asks the
policy and the actor hook, and emits. Nothing here raises into the application, and nothing is lost without a trace:
what can't be recorded is recorded in parts, and what can't be recorded at all is counted by the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from threading import Lock
from time import perf_counter_ns
from typing import Final, Generic, NamedTuple, TypeVar

import anyio.to_thread
import msgspec

from audit_async.ambient import AnyLogger
from audit_async.config import Disabled
from audit_async.context import audit_context
from audit_async.errors import AuditError, BufferFull, InvalidEvent, LogClosed, WriteFailed
from audit_async.events import ActorInfo, CapturedBody, HttpOutcome, HttpRequest, HttpRequestStarted, describe
from audit_async.events.base import encode
from audit_async.integrations._http.actor import ANONYMOUS, actor_named, nobody
from audit_async.integrations._http.admission import Admission
from audit_async.integrations._http.body_capture import BodyCapture
from audit_async.integrations._http.exchange import Arrival, Exchange, Headers, path_in_application
from audit_async.integrations._http.http_redactor import SHORT_PATH, HttpRedactor, is_plain_path
from audit_async.integrations._http.incidents import INCIDENT_STATUSES, Incident
from audit_async.integrations._http.path_traversal import climbs_out
from audit_async.integrations._http.prepared_requests import PreparedRequests
from audit_async.integrations._http.request_policy import Level, Plan, Rule
from audit_async.integrations._http.settings import Settings
from audit_async.integrations._http.web_socket import WebSocketExchange
from audit_async.sync import SyncAuditLogger

__all__ = ["Conclusion", "Recorder", "SourceView"]

_log = logging.getLogger("audit_async")

SourceT = TypeVar("SourceT")

# An enum's member costs 100 ns to look up on Python 3.11, and a request needs several.
_METADATA: Final = Level.METADATA
_REQUEST: Final = Level.REQUEST
_REQUEST_RESPONSE: Final = Level.REQUEST_RESPONSE
_COMPLETED: Final = HttpOutcome.COMPLETED

#: How long a request waits at most for the record of its start (`Rule(begin=True)`) while the disk does not answer.
_START_TIMEOUT_S: Final = 5.0

#: How many root paths are checked against the rules; mounts with parameters have any number.
_MAX_ROOT_PATHS: Final = 64

#: The reason of a loss, for the log's counters and its `audit.events_dropped`.
_REASONS: Final = ((InvalidEvent, "invalid_event"), (LogClosed, "log_closed"), (WriteFailed, "write_failed"))
_WITHOUT_ACTOR: Final = "recorded_without_actor"


class SourceView(NamedTuple, Generic[SourceT]):
    """What a framework can be asked about one of its requests once it was served."""

    route_of: Callable[[SourceT], str | None]  #: the template that the path matched
    shows_certificate: Callable[[SourceT], bool]  #: whether the client proved itself by a TLS certificate


class Conclusion(NamedTuple):
    """What the recorder makes of an exchange, besides what the exchange says itself."""

    level: Level
    climbs: bool  #: the path leads out of where it may point
    is_incident: bool  #: it is recorded as a security event
    route: str | None
    ip: str | None
    actor: ActorInfo | None
    actor_is_known: bool  #: False if the hook failed, or the log refused the actor
    notes: tuple[str, ...]

    @property
    def note(self) -> str | None:
        """What a reader of the record must know, in one text."""
        return "; ".join(self.notes) or None

    def without_bodies(self) -> Conclusion:
        """Return the same for a record without headers and bodies, which says so."""
        note = "headers and bodies are left out: with them the log refused the event"
        return self._replace(level=_METADATA, notes=(*self.notes, note))

    def without_actor(self) -> Conclusion:
        """Return the same for a record without the actor, which says so."""
        note = "the actor is left out: with it the log refused the event"
        return self._replace(actor=None, actor_is_known=False, notes=(*self.notes, note))


class _KnownLog(NamedTuple):
    """What is made once for a log that records requests."""

    audit: AnyLogger
    is_disabled: bool
    redactor: HttpRedactor
    prepared: PreparedRequests


class Recorder(Generic[SourceT]):
    """Records exchanges; of an event loop's thread, or of all threads of a WSGI server.

    Args:
        settings: The settings of the middleware.
        view: What the framework can be asked about its requests.
    """

    def __init__(self, settings: Settings[SourceT], view: SourceView[SourceT]) -> None:
        self.policy: Final = settings.policy
        self.only_plan: Final = settings.policy.only_plan
        self.admission: Final = Admission() if settings.fail_closed else None  #: with `fail_closed` only
        self.unrecorded = 0  #: requests that were answered and could not be recorded
        self._actor_hook: Final = settings.actor
        self._proxies: Final = settings.proxies
        self._view: Final = view
        self._known: _KnownLog | None = None  # one value, since threads may replace it
        self._is_losing = False
        self._hook_failed = False
        self._root_paths: Final[set[str]] = set()
        self._lock: Final = Lock()  # of the count

    # While the request is under way.

    def plan(self, method: str, path: str, root_path: str) -> Plan:
        """Return what the policy says of a request, by its path as the application sees it."""
        if root_path:
            if root_path not in self._root_paths and len(self._root_paths) < _MAX_ROOT_PATHS:
                self._root_paths.add(root_path)
                self._warn_of_rules_below(root_path)
            path = path_in_application(path, root_path)
        return self.policy.plan(method, path)

    def _warn_of_rules_below(self, root_path: str) -> None:
        for rule in self.policy.rules_below(root_path):
            _log.warning(
                "%r does not match %r: the application is served below %r, and rules match the path as the application "
                "sees it, without that prefix",
                rule,
                rule.path,
                root_path,
            )

    def capture_for(self, headers: Mapping[bytes, bytes]) -> BodyCapture:
        """Return what keeps the beginning of a body with these headers, by the policy."""
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        encoding = headers.get(b"content-encoding", b"").decode("latin-1")
        listed = self.policy.keeps_body_of(content_type)
        return BodyCapture(content_type, encoding, self.policy.max_body_bytes, listed=listed)

    def capture_for_answer(self, exchange: Exchange, headers: Headers) -> BodyCapture | None:
        """Return what keeps the beginning of an answer's body; None if the policy does not ask for it."""
        if exchange.plan.capture < _REQUEST_RESPONSE:
            return None
        return self.capture_for({name.lower(): value for name, value in headers})

    def actor_of(self, arrival: Arrival, source: SourceT) -> ActorInfo:
        """Return who asks, as the record of the request will name the actor; anonymous if nobody is authenticated.

        Raises whatever the actor hook raises.
        """
        ip = self._client_ip(arrival)
        return self._actor(arrival, source, ip) or nobody(ANONYMOUS, ip)

    async def record_start(self, audit: AnyLogger, arrival: Arrival) -> bool:
        """Record a request that has arrived, and wait until that is durable; return whether it may be served.

        A disk that fails or hangs keeps nobody waiting for long: what was emitted becomes durable when it can.
        """
        recorded = self._emit_start(audit, arrival)
        if recorded and audit.health().ok:
            recorded = False
            with anyio.move_on_after(_START_TIMEOUT_S), suppress(AuditError, TimeoutError):
                if isinstance(audit, SyncAuditLogger):
                    await anyio.to_thread.run_sync(audit.flush, _START_TIMEOUT_S)
                else:
                    await audit.flush()
                recorded = True
        return self._may_be_served(start_is_recorded=recorded)

    def record_start_blocking(self, audit: AnyLogger, arrival: Arrival) -> bool:
        """Do what `record_start` does, and block this thread meanwhile, which runs no event loop."""
        recorded = self._emit_start(audit, arrival)
        if recorded and audit.health().ok:
            recorded = False
            with suppress(AuditError, TimeoutError):
                if isinstance(audit, SyncAuditLogger):
                    audit.flush(_START_TIMEOUT_S)
                else:
                    asyncio.run(asyncio.wait_for(audit.flush(), _START_TIMEOUT_S))  # it goes to the log's own loop
                recorded = True
        return self._may_be_served(start_is_recorded=recorded)

    def _may_be_served(self, *, start_is_recorded: bool) -> bool:
        if start_is_recorded or self.admission is None:
            return True
        self.admission.refuse()
        return False

    def _emit_start(self, audit: AnyLogger, arrival: Arrival) -> bool:
        try:
            redactor = self._redactor_for(audit)
            event = HttpRequestStarted(
                method=arrival.method,
                path=redactor.path(arrival.path),
                ip=self._client_ip(arrival),
                user_agent=redactor.user_agent(arrival.header_map.get(b"user-agent")),
            )
            with self._root_path_bound(audit, arrival):
                audit.emit(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not break the request
            self._count_lost(audit, "http.request_started", error)
            return False
        return True

    def withhold(self, audit: AnyLogger, exchange: Exchange, source: SourceT) -> str | None:
        """Return why the answer that is about to begin must be withheld, and count it as refused; None if it may pass.

        Without `fail_closed` none is withheld.
        """
        if self.admission is None:
            return None
        obstacle = self._obstacle(audit, exchange, source)
        if obstacle is not None:
            self.admission.refuse()
        return obstacle

    def _obstacle(self, audit: AnyLogger, exchange: Exchange, source: SourceT) -> str | None:
        """Return why an answer that is about to begin could not be recorded as it is; None if nothing says so.

        Makes the event and encodes it, and emits none.
        """
        try:
            rule, climbs = self._judge(exchange)
            if not rule.level and not climbs:
                return None
            conclusion = self._conclude(exchange, source, rule, climbs=climbs)
            if not conclusion.actor_is_known:
                return conclusion.note
            if conclusion.is_incident:
                event = self._incident(audit, exchange, conclusion).event(conclusion.actor, actor_is_known=True)
            else:
                event = self._http_request(audit, exchange, conclusion._replace(level=_METADATA))
            describe(type(event))
            encode(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, the record would fail by it
            return f"recording it raises {type(error).__name__}"
        return None

    # At the end.

    def record(self, audit: AnyLogger, exchange: Exchange, source: SourceT) -> None:
        """Emit the event of a request that has come to its end, if the policy wants one."""
        # What nearly every request needs is here and in a row: after a framework's own work nothing of it is in the
        # CPU's caches, and each call or look-up costs two or three times what a loop around it shows (bench web).
        known = self._known
        if known is None or known.audit is not audit:
            known = self._learn(audit)
        if known.is_disabled and known.prepared.is_passed_by:
            return
        arrival, status, rules = exchange.arrival, exchange.status, exchange.plan.rules
        rule = rules[0] if len(rules) == 1 else exchange.plan.rule_for(status)
        level = rule.level
        plain = len(path := arrival.path) < SHORT_PATH and is_plain_path(path)
        climbs = not plain and climbs_out(path, arrival.raw_path)
        if not level and not climbs:
            return
        if (
            plain
            and level is _METADATA
            and exchange.outcome is _COMPLETED
            and status not in INCIDENT_STATUSES
            and not arrival.root_path
            and exchange.note is None
        ):
            try:
                proxies = self._proxies
                ip = arrival.peer if proxies.trusts_none else proxies.client_of(arrival.peer, arrival.headers)
                actor = self._actor_hook(source)
                if actor is not None:
                    actor = self._checked_actor(actor, arrival, source, ip)
                route = self._view.route_of(source)
                duration_ms = (perf_counter_ns() - arrival.started_ns + 500_000) // 1_000_000
                if actor is not None or not known.prepared.emit(
                    arrival, route, ip, status, duration_ms, exchange.bytes_in, exchange.bytes_out
                ):
                    user_agent = arrival.header_map.get(b"user-agent")
                    # What is left out here is left out of the record.
                    audit.emit(
                        HttpRequest(
                            actor=actor,
                            method=arrival.method,
                            path=path,
                            route=route,
                            status=status,
                            duration_ms=duration_ms,
                            bytes_in=exchange.bytes_in,
                            bytes_out=exchange.bytes_out,
                            ip=ip,
                            user_agent=None if user_agent is None else known.redactor.user_agent(user_agent),
                        )
                    )
            except AuditError as error:
                if not isinstance(error, InvalidEvent):
                    self._lost(audit, "http.request", error)
                    return
            except Exception:  # noqa: BLE001, S110 - the slower way finds out what it is, and records what it can
                pass
            else:
                self._is_losing = False
                return
        self._record_in_parts(audit, exchange, source, rule, climbs=climbs)

    def record_web_socket(self, audit: AnyLogger, exchange: WebSocketExchange, source: SourceT) -> None:
        """Emit the event of a WebSocket that has come to its end, if the policy wants one."""
        rule, climbs = self._judge(exchange)
        if rule.level or climbs:
            self._record_in_parts(audit, exchange, source, rule, climbs=climbs)

    def _record_in_parts(
        self, audit: AnyLogger, exchange: Exchange, source: SourceT, rule: Rule, *, climbs: bool
    ) -> None:
        """Emit the events of a request; if the log refuses one, as much of it as the log takes."""
        is_web_socket = isinstance(exchange, WebSocketExchange)
        usual_type = "http.websocket_closed" if is_web_socket else "http.request"
        try:
            conclusion = self._conclude(exchange, source, rule, climbs=climbs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the application has done its part
            self._lost(audit, usual_type, error)
            return
        attempts: list[tuple[str, _Emit]] = []
        if conclusion.is_incident:
            attempts.append((Incident.type_of(exchange.status, climbs=climbs), self._emit_incident))
        if not conclusion.is_incident or (conclusion.level >= _REQUEST and not is_web_socket):
            attempts.append((usual_type, self._emit_usual))
        for event_type, emit in attempts:
            try:
                with self._root_path_bound(audit, exchange.arrival):
                    emitted = _emit_what_is_taken(emit, audit, exchange, conclusion)
            except Exception as error:  # noqa: BLE001 - as above
                self._lost(audit, event_type, error)
            else:
                self._is_losing = False
                if not emitted.actor_is_known:
                    audit.count_lost(event_type, _WITHOUT_ACTOR)

    def _root_path_bound(self, audit: AnyLogger, arrival: Arrival) -> AbstractContextManager[None]:
        """Bind the prefix below which the application is served, if there is one: the record keeps both paths."""
        if not arrival.root_path:
            return nullcontext()
        return audit_context(http_root_path=self._redactor_for(audit).path(arrival.root_path))

    def _judge(self, exchange: Exchange) -> tuple[Rule, bool]:
        """Return the rule that a request falls under, and whether its path climbs."""
        arrival = exchange.arrival
        return exchange.plan.rule_for(exchange.status), climbs_out(arrival.path, arrival.raw_path)

    def _conclude(self, exchange: Exchange, source: SourceT, rule: Rule, *, climbs: bool) -> Conclusion:
        arrival = exchange.arrival
        ip = self._client_ip(arrival)
        notes = () if exchange.note is None else (exchange.note,)
        actor, actor_is_known = None, True
        try:
            actor = self._actor(arrival, source, ip)
        except Exception as error:  # noqa: BLE001 - the hook is the application's, and must not break its requests
            actor_is_known = False
            notes = (*notes, f"actor unknown: the hook raised {type(error).__name__}")
            if not self._hook_failed:
                self._hook_failed = True
                _log.error("the actor hook of the audit middleware raised; logged once", exc_info=True)
        return Conclusion(
            level=rule.level,
            climbs=climbs,
            is_incident=climbs or (exchange.status in INCIDENT_STATUSES and rule.security),
            route=self._view.route_of(source),
            ip=ip,
            actor=actor,
            actor_is_known=actor_is_known,
            notes=notes,
        )

    def _client_ip(self, arrival: Arrival) -> str | None:
        proxies = self._proxies
        return arrival.peer if proxies.trusts_none else proxies.client_of(arrival.peer, arrival.headers)

    def _actor(self, arrival: Arrival, source: SourceT, ip: str | None) -> ActorInfo | None:
        """Ask the hook; raises whatever it raises, and `TypeError` if it returns something else."""
        actor = self._actor_hook(source)
        return None if actor is None else self._checked_actor(actor, arrival, source, ip)

    def _checked_actor(self, actor: ActorInfo | str, arrival: Arrival, source: SourceT, ip: str | None) -> ActorInfo:
        if isinstance(actor, str):
            certificate = self._view.shows_certificate(source)
            return actor_named(actor, arrival.header_map, ip, certificate=certificate)
        if not isinstance(actor, ActorInfo):
            raise TypeError(f"the actor hook must return an ActorInfo, a text or None, not {type(actor).__name__}")
        return actor if actor.ip is not None else msgspec.structs.replace(actor, ip=ip)

    # The events.

    def _emit_usual(self, audit: AnyLogger, exchange: Exchange, conclusion: Conclusion) -> None:
        redactor = self._redactor_for(audit)
        if isinstance(exchange, WebSocketExchange):
            arrival = exchange.arrival
            audit.emit(
                exchange.event(
                    conclusion,
                    path=redactor.path(arrival.path),
                    user_agent=redactor.user_agent(arrival.header_map.get(b"user-agent")),
                )
            )
        else:
            audit.emit(self._http_request(audit, exchange, conclusion))

    def _http_request(self, audit: AnyLogger, exchange: Exchange, conclusion: Conclusion) -> HttpRequest:
        redactor = self._redactor_for(audit)
        arrival = exchange.arrival
        query = request_headers = response_headers = None
        request_body: CapturedBody | None = None
        response_body: CapturedBody | None = None
        if conclusion.level >= _REQUEST:
            piece_chars = audit.config.max_field_chars
            query = redactor.query(arrival.query)
            request_headers = redactor.headers(arrival.headers)
            if exchange.request_capture is not None:
                request_body = exchange.request_capture.finish(redactor, piece_chars)
            if conclusion.level >= _REQUEST_RESPONSE:
                response_headers = redactor.headers(exchange.response_headers)
                if exchange.response_capture is not None:
                    response_body = exchange.response_capture.finish(redactor, piece_chars)
        return HttpRequest(
            actor=conclusion.actor,
            method=arrival.method,
            path=redactor.path(arrival.path),
            route=conclusion.route,
            status=exchange.status,
            duration_ms=exchange.duration_ms,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            ip=conclusion.ip,
            user_agent=redactor.user_agent(arrival.header_map.get(b"user-agent")),
            outcome=exchange.outcome,
            error=exchange.error,
            note=conclusion.note,
            query=query,
            request_headers=request_headers,
            request_body=request_body,
            response_headers=response_headers,
            response_body=response_body,
        )

    def _incident(self, audit: AnyLogger, exchange: Exchange, conclusion: Conclusion) -> Incident:
        arrival = exchange.arrival
        return Incident(
            climbs=conclusion.climbs,
            status=exchange.status,
            method=arrival.method,
            path=self._redactor_for(audit).path(arrival.path),
            route=conclusion.route,
            ip=conclusion.ip,
            response_headers=exchange.response_headers,
        )

    def _emit_incident(self, audit: AnyLogger, exchange: Exchange, conclusion: Conclusion) -> None:
        redactor = self._redactor_for(audit)
        arrival = exchange.arrival
        incident = self._incident(audit, exchange, conclusion)
        event = incident.event(conclusion.actor, actor_is_known=conclusion.actor_is_known)
        # Such an event has no members for these, and an incident is the last request to know less of.
        with audit_context(
            http_method=arrival.method,
            http_route=conclusion.route,
            http_status=exchange.status,
            http_duration_ms=exchange.duration_ms,
            http_bytes_in=exchange.bytes_in,
            http_bytes_out=exchange.bytes_out,
            http_user_agent=redactor.user_agent(arrival.header_map.get(b"user-agent")),
            http_outcome=exchange.outcome.value,
            **({"http_error": exchange.error} if exchange.error else {}),
            **({"http_note": conclusion.note} if conclusion.notes else {}),
        ):
            audit.emit(event)

    def _redactor_for(self, audit: AnyLogger) -> HttpRedactor:
        known = self._known
        return (known if known is not None and known.audit is audit else self._learn(audit)).redactor

    def _learn(self, audit: AnyLogger) -> _KnownLog:
        redactor = HttpRedactor(audit.config)
        is_disabled = isinstance(audit.config.mode, Disabled)
        known = self._known = _KnownLog(audit, is_disabled, redactor, PreparedRequests(audit, redactor))
        return known

    # Losses.

    def _lost(self, audit: AnyLogger, event_type: str, error: Exception) -> None:
        """Count a request that was served and is in no record; logged once until one is recorded again."""
        with self._lock:
            self.unrecorded += 1
        self._count_lost(audit, event_type, error)
        if self.admission is not None:
            self.admission.close_for_a_while(f"a request was served and not recorded ({type(error).__name__})")
        if not self._is_losing:
            self._is_losing = True
            defect = None if isinstance(error, AuditError) else error
            _log.error("requests are served and not recorded; logged once until one is: %s", error, exc_info=defect)

    def _count_lost(self, audit: AnyLogger, event_type: str, error: Exception) -> None:
        """Count the loss of an event in the log's own counters, unless the log has done so."""
        if not isinstance(error, BufferFull):
            reason = next((word for kind, word in _REASONS if isinstance(error, kind)), "integration_error")
            audit.count_lost(event_type, reason)


_Emit = Callable[[AnyLogger, Exchange, Conclusion], None]


def _emit_what_is_taken(emit: _Emit, audit: AnyLogger, exchange: Exchange, conclusion: Conclusion) -> Conclusion:
    """Emit an event; if the log refuses it, again without bodies, then without the actor. Return what was emitted.

    A log that refuses what is too large must still say that somebody made a request too large.
    """
    while True:
        try:
            emit(audit, exchange, conclusion)
        except InvalidEvent:
            if conclusion.level >= _REQUEST:
                conclusion = conclusion.without_bodies()
            elif conclusion.actor is not None:
                conclusion = conclusion.without_actor()
            else:
                raise
        else:
            return conclusion
