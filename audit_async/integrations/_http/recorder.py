"""From a request that has come to its end to the event in the trail.

An integration makes an `Exchange` for each request, fills it in as the request goes by, and hands it to the `Recorder`
at the end, which asks the policy and the actor hook, and emits. Nothing here raises into the application but what says
that it is set up wrongly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter_ns
from typing import Final, Generic, TypeVar

import msgspec

from audit_async.context import audit_context
from audit_async.errors import AuditError, InvalidEvent
from audit_async.events.base import ActorInfo
from audit_async.events.web import CapturedBody, HttpOutcome, HttpRequest, WebSocketClosed
from audit_async.integrations._http.actor import actor_named
from audit_async.integrations._http.capture import BodyCapture
from audit_async.integrations._http.client_address import TrustedProxies
from audit_async.integrations._http.incidents import INCIDENT_STATUSES, incident
from audit_async.integrations._http.redacting import SHORT_PATH, HttpRedactor, is_plain_path
from audit_async.integrations._http.request_policy import Level, Plan, Policy, Rule
from audit_async.integrations._http.traversal import climbs_out
from audit_async.logger import AuditLogger

__all__ = ["ActorHook", "Exchange", "Recorder"]

_log = logging.getLogger("audit_async")

SourceT = TypeVar("SourceT")

#: Says who asked, once the application has answered: of an ASGI scope, or of a framework's own request.
ActorHook = Callable[[SourceT], ActorInfo | str | None]

Headers = Iterable[tuple[bytes, bytes]]

#: What the record of a request takes in the buffer, about: metadata, and two bodies of the default limit.
_RESERVED_BYTES: Final = 16 * 1024
#: The last tenth of the buffer is kept for critical events.
_OPEN_SHARE: Final = 0.9


# An enum's member costs 100 ns to look up on Python 3.11, and a request needs several.
_METADATA: Final = Level.METADATA
_REQUEST: Final = Level.REQUEST
_REQUEST_RESPONSE: Final = Level.REQUEST_RESPONSE
_COMPLETED: Final = HttpOutcome.COMPLETED


class Exchange:
    """One request, or WebSocket, and what is known of it so far. Owned by the task of its request.

    Most of it stays as it is here for most requests, so a request pays for what it sets: no `__slots__`, which can't
    have defaults.
    """

    route: str | None = None
    status: int | None = None
    bytes_in = 0
    bytes_out = 0
    ended_ns = 0  #: when it ended, where that is not when it is recorded
    disconnected = False  #: the client went away before the end
    outcome = _COMPLETED
    error: str | None = None
    note: str | None = None
    response_headers: Headers = ()
    request_capture: BodyCapture | None = None
    response_capture: BodyCapture | None = None
    climbs = False  #: the path leads out of where it may point; known once it is recorded

    def __init__(  # noqa: PLR0917 - by position, since names cost each request 0.1 us
        self,
        method: str,
        path: str,
        headers: Headers,
        plan: Plan,
        raw_path: bytes,
        query: bytes,
        peer: str | None,
    ) -> None:
        self.started_ns = perf_counter_ns()
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.header_map: Mapping[bytes, bytes] = dict(headers)  #: by name in lower case; of several the last
        self.peer = peer
        self.plan = plan
        self.raw_path = raw_path

    def matched_route(self) -> str | None:
        """Return the template that the path matched; asked once, at the end."""
        return None

    @property
    def shows_certificate(self) -> bool:
        """True where the client proved itself by a TLS certificate."""
        return False

    @property
    def duration_ms(self) -> int:
        """Milliseconds from the request's arrival to its end."""
        return ((self.ended_ns or perf_counter_ns()) - self.started_ns + 500_000) // 1_000_000


class Recorder(Generic[SourceT]):
    """Records exchanges. Its counters are for metrics; owned by the event loop's thread, to be read from anywhere."""

    def __init__(self, *, policy: Policy | None, actor: ActorHook[SourceT], proxies: TrustedProxies) -> None:
        self.policy: Final = policy or Policy()
        self.unrecorded = 0  #: requests that were answered and could not be recorded
        self.in_flight = 0  #: requests that were admitted and are not recorded yet; counted with `fail_closed` only
        self.refused = 0  #: requests that were answered 503 because they could not have been recorded
        self._actor: Final = actor
        self._proxies: Final = proxies
        self._redactor: HttpRedactor | None = None
        self._redactor_of: AuditLogger | None = None
        self._losing = False
        self._refusing = False
        self._hook_failed = False

    # Before the application.

    def admits(self, audit: AuditLogger) -> bool:
        """True where the trail can take the record of one request more, beside those that are under way.

        An admitted request counts as under way until the caller takes it off `in_flight`.
        """
        health = audit.health()
        config = audit.config
        share = max(1 / config.buffer_events, _RESERVED_BYTES / config.buffer_bytes)
        admitted = health.ok and health.buffer_fill + (self.in_flight + 1) * share < _OPEN_SHARE
        if admitted:
            self.in_flight += 1
        else:
            self.refused += 1
        if admitted is self._refusing:
            self._refusing = not admitted
            reason = health.reason or f"health {health.status.value}, buffer {health.buffer_fill:.0%} full"
            said = f"requests are answered 503, because the audit trail can't take their records: {reason}"
            _log.warning("%s", "requests are served again: the audit trail takes their records" if admitted else said)
        return admitted

    def begin_capture(self, exchange: Exchange) -> None:
        """Begin to keep the request's body, where the policy may want it."""
        if exchange.plan.capture >= _REQUEST:
            exchange.request_capture = self._capture_for(exchange.header_map)

    def begin_response(self, exchange: Exchange, status: int, headers: Headers) -> None:
        """Take note of the answer's beginning, and begin to keep its body, where the policy may want it."""
        exchange.status = status
        exchange.response_headers = headers
        if exchange.plan.capture >= _REQUEST_RESPONSE:
            exchange.response_capture = self._capture_for({name.lower(): value for name, value in headers})

    def _capture_for(self, headers: Mapping[bytes, bytes]) -> BodyCapture:
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        encoding = headers.get(b"content-encoding", b"").decode("latin-1")
        listed = self.policy.keeps_body_of(content_type)
        return BodyCapture(content_type, encoding, self.policy.max_body_bytes, listed=listed)

    # At the end.

    def record(self, audit: AuditLogger, exchange: Exchange, source: SourceT) -> None:
        """Emit the event of a request that has come to its end, where the policy wants one."""
        # What nearly every request needs stands here and in a row: behind a framework's own work nothing of it is in
        # the CPU's caches, and each call or look-up costs two or three times what a loop around it shows (bench web).
        status, path, rules = exchange.status, exchange.path, exchange.plan.rules
        rule = rules[0] if len(rules) == 1 else exchange.plan.rule_for(status)
        level = rule.level
        plain = len(path) < SHORT_PATH and is_plain_path(path)
        if not plain:
            exchange.climbs = climbs_out(path, exchange.raw_path)
        if not level and not exchange.climbs:
            return
        try:
            route = exchange.route = exchange.matched_route()
            proxies = self._proxies
            ip = exchange.peer if proxies.trusts_none else proxies.client_of(exchange.peer, exchange.headers)
            actor = self._actor_of(exchange, source, ip)
            if plain and level is _METADATA and exchange.outcome is _COMPLETED and status not in INCIDENT_STATUSES:
                user_agent = exchange.header_map.get(b"user-agent")
                # What is left out here is left out of the record.
                audit.emit(
                    HttpRequest(
                        actor=actor,
                        method=exchange.method,
                        path=path,
                        route=route,
                        status=status,
                        duration_ms=(perf_counter_ns() - exchange.started_ns + 500_000) // 1_000_000,
                        bytes_in=exchange.bytes_in,
                        bytes_out=exchange.bytes_out,
                        ip=ip,
                        user_agent=None if user_agent is None else self._redactor_for(audit).user_agent(user_agent),
                        note=exchange.note,
                    )
                )
            else:
                self._record_otherwise(audit, exchange, rule, actor, ip)
        except Exception as error:  # noqa: BLE001 - whatever it is, the application has done its part
            self._lost(error)
        else:
            self._losing = False

    def _record_otherwise(
        self, audit: AuditLogger, exchange: Exchange, rule: Rule, actor: ActorInfo | None, ip: str | None
    ) -> None:
        """Emit the events of a request of which there is more to tell."""
        level = rule.level
        if exchange.climbs or (exchange.status in INCIDENT_STATUSES and rule.security):
            self._record_incident(audit, exchange, actor, ip)
            if level < _REQUEST:
                return
        try:
            audit.emit(self._http_request(audit, exchange, actor, ip, level))
        except InvalidEvent:
            if level < _REQUEST:
                raise
            # A log that refuses what is too large must still tell of a request that somebody made too large.
            exchange.note = "headers and bodies are left out: with them the log refused the event"
            audit.emit(self._http_request(audit, exchange, actor, ip, _METADATA))

    def record_web_socket(
        self,
        audit: AuditLogger,
        exchange: Exchange,
        source: SourceT,
        *,
        close_code: int | None,
        closed_by: str | None = None,
        messages: tuple[int, int] | None = None,
    ) -> None:
        """Emit the event of a WebSocket that has come to its end; `messages` are those in and out, None if unknown."""
        rule = exchange.plan.rule_for(exchange.status)
        exchange.climbs = climbs_out(exchange.path, exchange.raw_path)
        if not rule.level and not exchange.climbs:
            return
        try:
            exchange.route = exchange.matched_route()
            ip = self._proxies.client_of(exchange.peer, exchange.headers)
            actor = self._actor_of(exchange, source, ip)
            if exchange.climbs or (exchange.status in INCIDENT_STATUSES and rule.security):
                self._record_incident(audit, exchange, actor, ip)
                return
            redactor = self._redactor_for(audit)
            audit.emit(
                WebSocketClosed(
                    actor=actor,
                    path=redactor.path(exchange.path),
                    route=exchange.route,
                    status=exchange.status,
                    duration_ms=exchange.duration_ms,
                    close_code=close_code,
                    closed_by=closed_by,
                    messages_in=messages[0] if messages else None,
                    messages_out=messages[1] if messages else None,
                    bytes_in=exchange.bytes_in if messages else None,
                    bytes_out=exchange.bytes_out if messages else None,
                    ip=ip,
                    user_agent=redactor.user_agent(exchange.header_map.get(b"user-agent")),
                    outcome=exchange.outcome,
                    error=exchange.error,
                    note=exchange.note,
                )
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the application has done its part
            self._lost(error)
        else:
            self._losing = False

    def _http_request(
        self, audit: AuditLogger, exchange: Exchange, actor: ActorInfo | None, ip: str | None, level: Level
    ) -> HttpRequest:
        redactor = self._redactor_for(audit)
        query = request_headers = response_headers = None
        request_body: CapturedBody | None = None
        response_body: CapturedBody | None = None
        if level >= _REQUEST:
            piece_chars = audit.config.max_field_chars
            query = redactor.query(exchange.query)
            request_headers = redactor.headers(exchange.headers)
            if exchange.request_capture is not None:
                request_body = exchange.request_capture.finish(redactor, piece_chars)
            if level >= _REQUEST_RESPONSE:
                response_headers = redactor.headers(exchange.response_headers)
                if exchange.response_capture is not None:
                    response_body = exchange.response_capture.finish(redactor, piece_chars)
        return HttpRequest(
            actor=actor,
            method=exchange.method,
            path=redactor.path(exchange.path),
            route=exchange.route,
            status=exchange.status,
            duration_ms=exchange.duration_ms,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            ip=ip,
            user_agent=redactor.user_agent(exchange.header_map.get(b"user-agent")),
            outcome=exchange.outcome,
            error=exchange.error,
            note=exchange.note,
            query=query,
            request_headers=request_headers,
            request_body=request_body,
            response_headers=response_headers,
            response_body=response_body,
        )

    def _record_incident(self, audit: AuditLogger, exchange: Exchange, actor: ActorInfo | None, ip: str | None) -> None:
        redactor = self._redactor_for(audit)
        event = incident(
            climbs=exchange.climbs,
            status=exchange.status,
            method=exchange.method,
            path=redactor.path(exchange.path),
            route=exchange.route,
            actor=actor,
            ip=ip,
            response_headers=exchange.response_headers,
        )
        # Such an event has no members for these, and an incident is the last request to know less of.
        with audit_context(
            http_method=exchange.method,
            http_route=exchange.route,
            http_status=exchange.status,
            http_duration_ms=exchange.duration_ms,
            http_bytes_in=exchange.bytes_in,
            http_bytes_out=exchange.bytes_out,
            http_user_agent=redactor.user_agent(exchange.header_map.get(b"user-agent")),
            http_outcome=exchange.outcome.value,
            **({"http_error": exchange.error} if exchange.error else {}),
            **({"http_note": exchange.note} if exchange.note else {}),
        ):
            audit.emit(event)

    def _actor_of(self, exchange: Exchange, source: SourceT, ip: str | None) -> ActorInfo | None:
        """Ask the hook; whatever it raises is noted in the record and logged once, and the actor is unknown."""
        try:
            actor = self._actor(source)
            if actor is None:
                return None
            if isinstance(actor, str):
                certificate = exchange.shows_certificate
                return actor_named(actor, exchange.header_map, ip, certificate=certificate)
            if not isinstance(actor, ActorInfo):
                raise TypeError(f"the actor hook must return an ActorInfo, a text or None, not {type(actor).__name__}")
            return actor if actor.ip is not None else msgspec.structs.replace(actor, ip=ip)
        except Exception as error:  # noqa: BLE001 - the hook is the application's, and must not break its requests
            exchange.note = f"actor unknown: the hook raised {type(error).__name__}"
            if not self._hook_failed:
                self._hook_failed = True
                _log.error("the actor hook of the audit middleware raised; said once", exc_info=True)
            return None

    def _redactor_for(self, audit: AuditLogger) -> HttpRedactor:
        if self._redactor is None or self._redactor_of is not audit:
            self._redactor = HttpRedactor(audit.config)
            self._redactor_of = audit
        return self._redactor

    def _lost(self, error: Exception) -> None:
        """Count a request that was served and is in no trail; said once until one is recorded again.

        A full buffer counts what it refuses as well, and the chain tells of it as soon as there is room.
        """
        self.unrecorded += 1
        if not self._losing:
            self._losing = True
            defect = None if isinstance(error, AuditError) else error
            _log.error("requests are served and not recorded; said once until one is: %s", error, exc_info=defect)
