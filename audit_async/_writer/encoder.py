"""The encoder: an event in, the harmless bytes that its record will hold out.

Nothing here knows of a log that is open, of order or of bounds: what an event becomes depends on its class, on the
configuration and on what is bound for its task, so an encoder may be called from any thread.

Most events take the plain path, which is in `AuditLogger.emit`, since it must cost no call: encoded once, and checked
by four searches in the encoded bytes. What fails that check, or may hold a secret, comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from audit_async._redact.free_form import free_form_members
from audit_async._redact.redactor import MAX_CHARS, Redactor
from audit_async._sanitize.context_member import IDS, context_member, is_generated_id
from audit_async._sanitize.plain_json import decode_plain, encode_plain
from audit_async._sanitize.reductions import Reductions
from audit_async._sanitize.slow_path import OnUnsafe, holds_plain_values, make_harmless
from audit_async.config import AuditConfig
from audit_async.context import Bound, ContextValue, bound_here
from audit_async.errors import InvalidEvent
from audit_async.events import AuditEvent, AuditLogAccessed, describe
from audit_async.events.base import encode
from audit_async.privacy.personal_plan import Plan
from audit_async.privacy.sealed_text import escape_members

if TYPE_CHECKING:  # it needs the extra `privacy`
    from audit_async.privacy.sealer import Sealer

#: What is known of an event's class, learned at its first event: bits of its kind.
CRITICAL: Final = 1
_FREE_FORM: Final = 2  # it has room for a float, or for anything
_SEARCHED: Final = 4  # it has members in which secrets are searched for
_SEALED: Final = 8  # the log seals: all events of it are of this kind, so those of other logs pay nothing
_PERSONAL: Final = 16  # and something of them may be personal
#: An event of such a kind is looked into, however harmless its bytes are.
LOOKED_INTO: Final = _FREE_FORM | _SEARCHED | _SEALED

#: Bytes that encoded JSON may not hold on the plain path: an escape, and DEL.
BACKSLASH: Final = 0x5C
DEL: Final = 0x7F

_SEALED_WORD: Final = b"sealed:"

#: An event of more bytes takes the slow path, however long a text may be: there it is copied to its size.
_LARGEST_PLAIN: Final = 2048

#: The most that the context takes of a record, in bytes; and at most a quarter of `max_event_bytes`.
_MAX_CONTEXT_BYTES: Final = 4096

# Each encoder's own key for the text that it makes of a binding.
_next_context_key: Final = count().__next__


def is_plain(encoded: bytes) -> bool:
    """Return whether encoded JSON is harmless as it is, unless it is too long; what the hot path asks by itself."""
    return encoded.isascii() and BACKSLASH not in encoded and DEL not in encoded


class Encoder:
    """Makes events into the bytes that are recorded. Any thread may call it; threads may race to learn a class."""

    def __init__(self, config: AuditConfig) -> None:
        self.kinds: Final[dict[type, int]] = {}  #: by class, as far as it was learned
        self._config: Final = config
        self._redactor: Final = Redactor(config.redaction, max_chars=max(MAX_CHARS, 2 * config.max_event_bytes))
        self._free_form_members: Final[dict[type, tuple[str, ...]]] = {}
        self._context_key = _next_context_key()
        #: Seals what is personal; there from the opening on if the log has `Privacy`.
        self.sealer: Sealer | None = None
        self._plans: Final[dict[type, Plan]] = {}
        self._max_context_bytes: Final = min(_MAX_CONTEXT_BYTES, config.max_event_bytes // 4)
        # The names of ids that no redaction concerns, as long as nothing of a context is sealed: see `context_text`.
        self._plain_ids = frozenset(name for name in IDS if self._redactor.kind_of(name) is None)
        #: The largest event that may take the plain path. An event and its context together are never larger than the
        #: largest event: the slow path sees to it, and an event that may not leave room takes that.
        self.plain_bytes: Final = min(
            config.max_field_chars, _LARGEST_PLAIN, config.max_event_bytes - self._max_context_bytes
        )

    def encode(self, event: AuditEvent) -> tuple[int, bytes]:
        """Return the kind of an event, and its harmless bytes with the context that is bound here.

        What `AuditLogger.emit` does itself on the plain path, for callers that need not be as fast. Raises
        `InvalidEvent`.
        """
        try:
            kind = self.kinds[event.__class__]
        except KeyError:
            kind = self.learn(event)
        try:
            encoded = encode(event)
        except Exception:  # noqa: BLE001 - whatever the event's own objects raise; the slow path names the field
            encoded = self.look_into(event, kind, None)
        else:
            if kind & LOOKED_INTO:
                encoded = self.look_into(event, kind, encoded)
            elif len(encoded) > self.plain_bytes or not encoded.isascii() or BACKSLASH in encoded or DEL in encoded:
                encoded = self.harmless(event, encoded)
        bound = bound_here()
        return kind, encoded if bound is None else encoded + self.context_text(bound)

    def learn(self, event: AuditEvent) -> int:
        """Check an event's class, once, and return what matters of it; raises `InvalidEvent`."""
        described = describe(event.__class__)
        if described.internal:
            raise InvalidEvent(
                described.tag, "", "audit.* events are about the log itself, and only the log emits them"
            )
        kind = (CRITICAL if described.critical else 0) | (_FREE_FORM if described.free_form else 0)
        if self._config.privacy is not None:
            kind |= _SEALED if self._plan_of(event).is_empty else _SEALED | _PERSONAL
        members = free_form_members(event.__class__) if self._config.redaction.enabled else ()
        if members:
            kind |= _SEARCHED
            self._free_form_members[event.__class__] = members
        self.kinds[event.__class__] = kind
        return kind

    def look_into(self, event: AuditEvent, kind: int, encoded: bytes | None) -> bytes:
        """Return the harmless bytes of an event, without the secrets in its free-form members.

        `encoded` is what it encodes to, None if that raised.
        """
        if kind & _SEARCHED:
            clean = self._redactor.redact_members(event, self._free_form_members[event.__class__])
            if clean is not event:
                event = clean
                try:
                    encoded = encode(event)
                except Exception:  # noqa: BLE001 - as in `encode`
                    encoded = None
        if self.sealer is not None:
            self.sealer.look_at_day()
        if encoded is None or (kind & _FREE_FORM and not holds_plain_values(event)):
            return self.harmless(event, None)
        if len(encoded) > self.plain_bytes or not encoded.isascii() or BACKSLASH in encoded or DEL in encoded:
            return self.harmless(event, encoded)
        if kind & _PERSONAL or (kind & _SEALED and encoded.find(_SEALED_WORD) >= 0):
            return self._sealed(event, encoded)
        return encoded

    def _sealed(self, event: AuditEvent, encoded: bytes) -> bytes:
        """Return the bytes of a harmless event with what is personal sealed: `_EventSeal` for events that are small."""
        sealer, bound = self.sealer, bound_here()
        assert sealer is not None  # noqa: S101 - the log is open
        data = decode_plain(encoded)
        if _SEALED_WORD in encoded:
            escape_members(data)
        sealer.seal_event(self._plans[event.__class__], data, None, None if bound is None else bound.values)
        sealed: bytes = encode_plain(data)
        if len(sealed) <= (self._config.max_event_bytes if bound is None else self._room()):
            return sealed
        self.refused(sealed)  # it has grown too large, and is sealed again where it can be cut
        return self.harmless(event, encoded)

    def harmless(self, event: AuditEvent, encoded: bytes | None) -> bytes:
        """Return the bytes of an event, made harmless and cut to fit; raises `InvalidEvent` if it may not be."""
        return self._fitted(event, encoded, self._config.on_unsafe, self._room())

    def _room(self) -> int:
        """Return how many bytes an event may have besides its context."""
        config, bound = self._config, bound_here()
        return config.max_event_bytes if bound is None else config.max_event_bytes - len(self.context_text(bound))

    def encode_internal(self, event: AuditEvent) -> bytes:
        """Return the bytes of one of the library's own events: no task's, and never refused."""
        if isinstance(event, AuditLogAccessed):  # what somebody asked for, unlike all else that is about the log itself
            event = self._redactor.redact_members(event, ("query",))
        return self._fitted(event, None, "escape", self._config.max_event_bytes)

    def context_text(self, bound: Bound) -> bytes:
        """Return the record's member `context` for what is bound; made at the first event, and kept in the binding."""
        texts = bound.texts  # once: if the binding is extended meanwhile, an older text must not stay in the new one
        key = self._context_key  # once: if keys are dropped meanwhile, this text is of the time before
        text = texts.get(key)
        if text is None:
            # What a middleware binds for each request: a microsecond instead of twelve, without a call.
            values, plain_ids, members = bound.values, self._plain_ids, ""
            for name, value in values.items():
                if name not in plain_ids or type(value) is not str or not is_generated_id(value):
                    text = self._context_member(values)
                    break
                members = f'{members},"{name}":"{value}"' if members else f'"{name}":"{value}"'
            else:
                text = f',"context":{{{members}}}'.encode("ascii")
            texts[key] = text
        return text

    def _context_member(self, values: Mapping[str, ContextValue]) -> bytes:
        return context_member(
            values,
            redactor=self._redactor,
            on_unsafe=self._config.on_unsafe,
            max_field_chars=self._config.max_field_chars,
            max_bytes=self._max_context_bytes,
            seal=None if self.sealer is None else self._seal_of_context(self.sealer, values),
        )

    # Sealing.

    def seal_with(self, sealer: Sealer) -> None:
        """Seal from now on; before the log takes events."""
        self.sealer = sealer
        self._plain_ids = frozenset()

    def forget_context_texts(self) -> None:
        """Make the context of every binding again: keys were dropped that it may be sealed under; from any thread."""
        self._context_key = _next_context_key()

    def refused(self, encoded: bytes) -> None:
        """Note that an encoded event is not recorded after all, so that it leaves no key in the key store."""
        if self.sealer is not None:
            self.sealer.refused(encoded)

    def _plan_of(self, event: AuditEvent) -> Plan:
        """Return what is sealed of events of this class; raises `InvalidEvent` if that can't be known."""
        cls, settings = event.__class__, self._config.privacy
        plan = self._plans.get(cls)
        if plan is None:
            described = describe(cls)
            if described.personal is None:
                raise InvalidEvent(
                    described.tag,
                    "",
                    "its annotations can't be resolved, so it is not known what is personal; import what they name",
                )
            assert settings is not None  # noqa: S101 - only a log that seals asks
            plan = self._plans[cls] = Plan(described.tag, described.personal, settings)
        return plan

    def _seal_of(self, event: AuditEvent, *, may_look_sealed: bool) -> _EventSeal:
        bound = bound_here()
        assert self.sealer is not None  # noqa: S101 - the log is open
        context = None if bound is None else bound.values
        return _EventSeal(self.sealer, self._plan_of(event), context, may_look_sealed=may_look_sealed)

    def _seal_of_context(
        self, sealer: Sealer, values: Mapping[str, ContextValue]
    ) -> Callable[[dict[str, object], Reductions], object] | None:
        """Return what seals a context, None if nothing of it is concerned."""
        if not sealer.is_concerned(values):
            return None
        return lambda shown, reductions: sealer.seal_context(shown, values, reductions)

    def _fitted(self, event: AuditEvent, encoded: bytes | None, on_unsafe: OnUnsafe, max_event_bytes: int) -> bytes:
        seal = None
        if self.sealer is not None:
            self.sealer.look_at_day()
            if encoded is None or _SEALED_WORD in encoded or not self._plan_of(event).is_empty:
                seal = self._seal_of(event, may_look_sealed=encoded is None or _SEALED_WORD in encoded)
        try:
            harmless = make_harmless(
                event,
                encoded,
                on_unsafe=on_unsafe,
                max_field_chars=self._config.max_field_chars,
                max_event_bytes=max_event_bytes,
                seal=seal,
            )
        except InvalidEvent:
            if seal is not None:
                seal.undo()
            raise
        # A copy, since msgspec returns its whole output buffer, of which a third may be unused: a buffer of 4 MiB
        # that was full of large events held 5.3 (tests/writer/test_real_faults.py).
        return memoryview(harmless).tobytes()


class _EventSeal:
    """Seals one event, and escapes what only looks sealed in it; called again, it undoes what it did before."""

    def __init__(
        self, sealer: Sealer, plan: Plan, context: Mapping[str, ContextValue] | None, *, may_look_sealed: bool
    ) -> None:
        self._sealer: Final = sealer
        self._plan: Final = plan
        self._context: Final = context
        self._may_look_sealed: Final = may_look_sealed
        self._sealed: dict[str, Any] | None = None

    def __call__(self, data: dict[str, Any], reductions: Reductions | None) -> None:
        """Seal an event's plain data."""
        self.undo()
        if self._may_look_sealed:
            escape_members(data)
        self._sealer.seal_event(self._plan, data, reductions, self._context)
        self._sealed = data

    def undo(self) -> None:
        """Note that what was sealed is not recorded."""
        if self._sealed is not None:
            self._sealer.refused(encode_plain(self._sealed))
            self._sealed = None
