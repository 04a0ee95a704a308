"""`AuditTrail`: a real log for tests, and questions about what was recorded in it. See `pytest_plugin`.

The log lives on an event loop in a thread of its own, so that tests of any style can use it, and it need not know
theirs. Each question first makes durable what was emitted before, then reads the files: what a test sees is what an
auditor would.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec
from anyio.from_thread import start_blocking_portal

from audit_async.config import AuditConfig, Local
from audit_async.errors import InvalidEvent
from audit_async.events import AuditEvent, GenericEvent, Record, decode_record, describe
from audit_async.events.base import encode
from audit_async.logger import AuditLogger

__all__ = ["AuditTrail"]

_E = TypeVar("_E", bound=AuditEvent)

#: How many events a failed assertion shows, and how much of each.
_MAX_SHOWN: Final = 5
_MAX_SHOWN_CHARS: Final = 400


class AuditTrail:
    """One temporary log, open while the context manager is entered; a test gets it as the fixture `audit_trail`.

    What the log records of its own life (`audit.log_opened`, ...) is left out, unless a question is for such a type.

    Args:
        directory: Where to put the log; it is made if it is absent.
    """

    def __init__(self, directory: Path) -> None:
        #: For code that opens a logger of its own: what that one has flushed, or closed, is in the trail as well.
        self.config: Final = AuditConfig(mode=Local(directory), service_id="test", handle_signals=False)
        #: The logger for the code under test. It is started, and the trail closes it; from any loop and any thread.
        self.audit: Final = AuditLogger(self.config)
        self._directory = directory
        self._flush: Callable[[], None] | None = None
        self._exit = ExitStack()
        self._cleared: dict[Path, int] = {}

    def __repr__(self) -> str:
        return f"<AuditTrail {self._directory} {'closed' if self._flush is None else 'open'}>"

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            portal = opened.enter_context(start_blocking_portal("asyncio"))
            opened.enter_context(portal.wrap_async_context_manager(self.audit))
            self._flush = lambda: portal.call(self.audit.flush)
            self._exit = opened.pop_all()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._flush = None
        self._exit.__exit__(exc_type, exc_value, traceback)

    # What was recorded.

    def records(self, event_type: type[AuditEvent] = AuditEvent) -> list[Record]:
        """Return the records of a type of event, or of all types, in the order of the chain.

        Args:
            event_type: An event's class.
        """
        return [record for record in self._all_records() if _is_of_type(record.event, event_type)]

    def events(self, event_type: type[_E]) -> list[_E]:
        """Return the events of a type as they were recorded, in the order of the chain.

        Args:
            event_type: An event's class.

        Raises:
            InvalidEvent: One can't be read back as its class; `records` has it all the same.
        """
        events: list[_E] = []
        for record in self.records(event_type):
            if not isinstance(record.event, event_type):
                raise InvalidEvent(
                    _tag_of(event_type),
                    "",
                    f"was recorded, but can't be read back as {event_type.__name__}: a member's annotation has no form "
                    "in JSON. Ask records() instead, or annotate what JSON has (an address: events.IPAddress)",
                )
            events.append(record.event)
        return events

    def clear(self) -> None:
        """Leave out what was recorded up to now: for a test that prepares something first. The log keeps it."""
        self._cleared = {log: len(lines) for log, lines in self._lines().items()}

    # What should have been.

    def assert_recorded(self, event_type: type[AuditEvent], /, **fields: object) -> Record:
        """Return the first record of `event_type` whose event has these values; fail with the closest ones.

        A value may be anything that compares, `pytest.approx` or `unittest.mock.ANY` as well; a dict is compared with a
        part of a member: `actor={"user_id": "dana"}`.

        Args:
            event_type: An event's class.
            fields: The values that the event must have.

        Raises:
            AssertionError: No such event was recorded.
            TypeError: The type has no such field.
        """
        __tracebackhide__ = True
        _check_fields(event_type, fields)
        recorded = self.records()
        for record in self.records(event_type):
            if not _mismatches(record.event, fields):
                return record
        raise AssertionError(_what_was_recorded(event_type, fields, recorded))

    def assert_not_recorded(self, event_type: type[AuditEvent], /, **fields: object) -> None:
        """Fail if an event of `event_type` with these values, meant as in `assert_recorded`, was recorded.

        Args:
            event_type: An event's class.
            fields: The values that no event may have.

        Raises:
            AssertionError: Such an event was recorded.
            TypeError: The type has no such field.
        """
        __tracebackhide__ = True
        _check_fields(event_type, fields)
        for record in self.records(event_type):
            if not _mismatches(record.event, fields):
                raise AssertionError(f"{_wanted(event_type, fields)} was recorded:\n{_shown(record)}")

    # Reading.

    def _all_records(self) -> list[Record]:
        return [
            decode_record(line)
            for log, lines in sorted(self._lines().items())
            for line in lines[self._cleared.get(log, 0) :]
        ]

    def _lines(self) -> dict[Path, list[bytes]]:
        """Return the whole lines of each log below the directory, as they are on the disk."""
        if self._flush is not None:
            self._flush()
        return {
            description.parent: [
                line
                for segment in sorted(description.parent.glob("*.audit"))
                for line in segment.read_bytes().splitlines(keepends=True)
                if line.endswith(b"\n")
            ]
            for description in self._directory.rglob("log.json")
        }


def _tag_of(event_type: type[AuditEvent]) -> str:
    try:
        return describe(event_type).tag
    except InvalidEvent:
        return event_type.__name__  # a base of several events, which has no tag of its own


def _is_of_type(event: AuditEvent, event_type: type[AuditEvent]) -> bool:
    if event_type is AuditEvent:
        return not event.event_type.startswith("audit.")
    # An event that can't be read back as its class comes as a GenericEvent.
    return isinstance(event, event_type) or event.event_type == _tag_of(event_type)


# Comparing.


def _check_fields(event_type: type[AuditEvent], fields: Mapping[str, object]) -> None:
    known = event_type.__struct_fields__
    for field in fields:
        if field not in known:
            close = difflib.get_close_matches(field, known, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}"
            raise TypeError(f"{event_type.__name__} has no field {field!r}{meant}")


def _mismatches(event: AuditEvent, fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that have another value than the expected one, with the value that they have."""
    members = _members(event)
    return {name: members.get(name) for name, value in fields.items() if not _matches(members.get(name), value)}


def _members(event: AuditEvent) -> Mapping[str, object]:
    if isinstance(event, GenericEvent):
        return event.fields
    return {name: getattr(event, name) for name in event.__struct_fields__}


def _matches(actual: object, expected: object) -> bool:
    if isinstance(expected, Mapping):
        if isinstance(actual, msgspec.Struct):
            actual = {name: getattr(actual, name) for name in actual.__struct_fields__}
        return isinstance(actual, Mapping) and all(
            name in actual and _matches(actual[name], value) for name, value in expected.items()
        )
    return expected == actual or _as_recorded(expected) == _as_recorded(actual)


def _as_recorded(value: object) -> object:
    """Return what JSON makes of a value: an address is recorded as text, a tuple as a list."""
    try:
        return msgspec.json.decode(encode(value))
    except Exception:  # noqa: BLE001 - a matcher, say, which has no place in JSON; then only == counts
        return value


# Messages.


def _wanted(event_type: type[AuditEvent], fields: Mapping[str, object]) -> str:
    values = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    return f"{_tag_of(event_type)} with {values}" if values else _tag_of(event_type)


def _shown(record: Record) -> str:
    event = encode(record.event).decode()
    return f"  seq {record.seq}: " + (event if len(event) <= _MAX_SHOWN_CHARS else f"{event[:_MAX_SHOWN_CHARS]}…")


def _what_was_recorded(event_type: type[AuditEvent], fields: Mapping[str, object], recorded: list[Record]) -> str:
    """Return the message of a failed assertion: the events of this type, the closest first, or else all."""
    missing = f"{_wanted(event_type, fields)} was not recorded"
    of_type = [record for record in recorded if _is_of_type(record.event, event_type)]
    if not of_type:
        if not recorded:
            return f"{missing}; nothing was"
        return "\n".join(
            [f"{missing}, nor anything else of that type; this was:", *_first(list(map(_shown, recorded)))]
        )
    by_distance = sorted(of_type, key=lambda record: len(_mismatches(record.event, fields)))
    lines = []
    for record in by_distance:
        wrong = [
            f"    {name} is {value!r}, not {fields[name]!r}"
            for name, value in _mismatches(record.event, fields).items()
        ]
        lines.append("\n".join([_shown(record), *wrong]))
    return "\n".join([f"{missing}; the closest of {len(of_type)}:", *_first(lines)])


def _first(shown: list[str]) -> list[str]:
    more = len(shown) - _MAX_SHOWN
    return shown if more <= 0 else [*shown[:_MAX_SHOWN], f"  … and {more} more"]
