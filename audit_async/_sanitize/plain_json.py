"""Plain, harmless JSON data of anything: the walk over an event that has something in it.

It goes with a stack of its own instead of recursion, so no depth of nesting can exhaust the interpreter's, and it takes
values apart with the built-in types' own methods, so that a subclass of str or dict does not decide what is recorded.
What msgspec would encode is encoded as msgspec does; beyond that, subclasses of the built-in types, any mapping, paths,
networks, and pydantic models as `model_dump` gives them.
"""

from __future__ import annotations

import dataclasses
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any, Final

import msgspec

from audit_async._sanitize.reductions import IN_LIST, Path, Reductions, render
from audit_async._sanitize.unsafe_text import UNSAFE, cut, escape
from audit_async.errors import InvalidEvent
from audit_async.events import AuditEvent
from audit_async.events.base import TIMES_AND_NUMBERS, of_standard_library, pydantic_dump

__all__ = ["MAX_DEPTH", "PlainWalk", "decode_plain", "encode_plain"]

#: How deep a record nests at most. Far more than real data has, and any reader's JSON parser can follow.
MAX_DEPTH: Final = 200

# A larger integer is recorded by its size and hash: 4300 digits, the interpreter's own limit for decimal text.
_MAX_INT_BITS: Final = 14_284

# Room for `~` and the number of a key that another key became before.
_SUFFIX_CHARS: Final = 9

# The methods of the built-in types themselves, whatever a subclass has in their place.
_ITERATE: Final[tuple[tuple[type, Callable[[Any], Iterator[object]]], ...]] = (
    (list, list.__iter__),
    (tuple, tuple.__iter__),
    (set, set.__iter__),
    (frozenset, frozenset.__iter__),
)

_AS_TEXT: Final = (
    IPv4Address, IPv6Address, IPv4Network, IPv6Network, IPv4Interface, IPv6Interface, PurePath,
)  # fmt: skip

#: Encode what a walk has made.
encode_plain: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
#: Decode what was encoded.
decode_plain: Final[Callable[[bytes], Any]] = msgspec.json.Decoder().decode


class _Frame:
    """A container on the way: what is still to be taken out of the source, and what was put into the target."""

    __slots__ = ("members", "path", "source", "suffixes", "target")

    def __init__(
        self,
        source: object,
        members: Iterable[tuple[int, object, object]],
        target: dict[str, Any] | list[Any],
        path: Path | None,
    ) -> None:
        self.source = source  # kept alive, so that its id stays its own
        self.members: Iterator[tuple[int, object, object]] = iter(members)
        self.target = target
        self.path = path
        self.suffixes: dict[str, int] = {}


class PlainWalk:
    """One walk over one event. Each raises `InvalidEvent` with the path of what can't be recorded."""

    def __init__(self, event_type: str, reductions: Reductions, *, reject: bool, max_field_chars: int) -> None:
        #: The targets made of structs, by id: their decoders need them, so only what is in them is taken out.
        self.fixed: dict[int, object] = {}
        self._event_type = event_type
        self._reductions = reductions
        self._reject = reject
        self._max_chars = max_field_chars

    def event(self, event: AuditEvent, tag: str) -> dict[str, Any]:
        """Return the event's members as plain data, its type first and without the list of what was reduced."""
        if event.reduced is not None and not self._reductions.adopt(event.reduced):
            raise self._invalid("reduced", "is filled in by the library; leave it out")
        target: dict[str, Any] = {"event_type": tag}
        self.fixed[id(target)] = target
        self._walk(_Frame(event, _struct_members(event, leave_out="reduced"), target, None))
        return target

    def _invalid(self, path: Path | str | None, reason: str) -> InvalidEvent:
        return InvalidEvent(self._event_type, path if isinstance(path, str) else render(path), reason)

    # The way through the containers.

    def _walk(self, frame: _Frame) -> None:
        stack = [frame]
        open_sources = {id(frame.source)}
        while stack:
            frame = stack[-1]
            opened = self._advance(frame)
            if opened is not None:
                if id(opened.source) in open_sources:
                    raise self._invalid(opened.path, "contains itself; emit data without cycles")
                open_sources.add(id(opened.source))
                stack.append(opened)
                continue
            stack.pop()
            open_sources.discard(id(frame.source))
            if stack and len(stack) % MAX_DEPTH == 0 and frame.target:
                self._empty(frame, stack[: MAX_DEPTH - 1][-1].path, len(stack))

    def _advance(self, frame: _Frame) -> _Frame | None:
        """Take over members until one is a container with members of its own; return that, or None at the end."""
        for position, key, value in frame.members:
            path = Path(frame.path, position, key)
            try:
                opened = self._take_over(frame, value, path)
            except InvalidEvent:
                raise
            except Exception as error:  # noqa: BLE001 - a value's own class may raise anything
                raised = type(error).__name__
            else:
                if opened is not None:
                    return opened
                continue
            # Outside of the handler, so that the error, which may hold the value, is not chained to ours.
            raise self._invalid(path, f"can't be read: its own code raises {raised}; emit a plain value instead")
        return None

    def _take_over(self, frame: _Frame, value: object, path: Path) -> _Frame | None:
        """Put one member into the target; return the container that it opens."""
        leaf, opened = self._take(value, path)
        member = leaf if opened is None else opened.target
        if isinstance(frame.target, list):
            frame.target.append(member)
        else:
            frame.target[self._key(path.key, path, frame)] = member
        return opened

    def _empty(self, frame: _Frame, above: Path | None, depth: int) -> None:
        """Take out what nests deeper than a record may; each layer is small enough to be encoded.

        `above` is the path to the deepest level that is recorded. Of the layers below the first, which are in what is
        taken out of that, only the depth is named: a path for each would be as long as the data is deep.
        """
        if self._reject:
            raise self._invalid(frame.path, f"nests deeper than {MAX_DEPTH} levels; emit flatter data")
        encoded = encode_plain(frame.target)
        path = render(frame.path) if depth == MAX_DEPTH else render(above, f"+{depth - MAX_DEPTH}")
        self._reductions.add(path, "bytes", len(encoded), sha256(encoded).hexdigest())
        frame.target.clear()

    # One value.

    def _take(self, value: object, path: Path) -> tuple[object, _Frame | None]:
        """Return a value's harmless form, or the container that it opens."""
        while True:
            if value is None or value is True or value is False:
                return value, None
            if isinstance(value, Enum):
                value = value.value
            elif isinstance(value, msgspec.Raw):
                value = msgspec.json.decode(value)
            elif (dump := pydantic_dump(value)) is not None:
                value = dump()
            else:
                break
        if isinstance(value, str):
            return self._text(str.__str__(value), path), None
        if isinstance(value, int):
            return self._integer(int.__int__(value), path), None
        if isinstance(value, float):
            return self._float(float.__float__(value), path), None
        text = _text_of(value)
        if text is not None:
            return self._text(text, path), None
        frame = self._open(value, path)
        if frame is None:
            raise self._invalid(
                path,
                f"is of type {type(value).__name__}, which JSON has no place for; emit its text, number, list or dict",
            )
        return None, frame

    def _text(self, text: str, path: Path, suffix: str = "") -> str:
        max_chars = self._max_chars
        if len(text) <= max_chars and not UNSAFE.search(text):
            return text
        if self._reject:
            reason = (
                f"has {len(text)} characters, more than max_field_chars = {max_chars}; shorten it"
                if len(text) > max_chars
                else "holds a control, bidirectional or invisible character, or half of one; remove it"
            )
            raise self._invalid(render(path, suffix), reason)
        shown = escape(text[:max_chars])
        if len(text) > max_chars or len(shown) > max_chars:
            digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            self._reductions.add(render(path, suffix), "chars", len(text), digest)
            shown = cut(shown, max_chars)
        return shown

    def _integer(self, number: int, path: Path) -> int | str:
        if -(2**63) <= number < 2**64:
            return number
        if self._reject:
            raise self._invalid(path, "is an integer outside 64 bits; emit it as text")
        return self._text(_decimal(number), path)

    def _float(self, number: float, path: Path) -> float | str:
        if math.isfinite(number):
            return number
        if self._reject:
            raise self._invalid(path, "is NaN or infinite, which JSON has no place for; emit it as text")
        return _name_of(number)

    # One key.

    def _key(self, key: object, path: Path, frame: _Frame) -> str:
        """Return a key's harmless text; one that another key became before gets a number."""
        target = frame.target
        text = self._text(self._key_text(key, path), path, "@key")
        if text not in target:
            return text
        if self._reject:
            raise self._invalid(path, "has a key that another key of the same mapping equals as text; rename one")
        # Keys that were cut share a beginning, and so its numbering: from 2 for each key, n keys took n squared steps.
        beginning = cut(text, self._max_chars - _SUFFIX_CHARS)
        count = frame.suffixes.get(beginning, 1)
        while True:
            count += 1
            distinct = f"{beginning}~{count}"
            if distinct not in target:
                frame.suffixes[beginning] = count
                return distinct

    def _key_text(self, key: object, path: Path) -> str:
        while isinstance(key, Enum):
            key = key.value
        if isinstance(key, str):
            return str.__str__(key)
        if isinstance(key, int) and not isinstance(key, bool):
            return _decimal(int.__int__(key))
        if isinstance(key, float):
            number = float.__float__(key)
            return repr(number) if math.isfinite(number) else _name_of(number)
        text = _text_of(key)
        if text is None:
            raise self._invalid(path, f"has a key of type {type(key).__name__}; JSON's keys are texts, so make it one")
        return text

    # One container.

    def _open(self, value: object, path: Path) -> _Frame | None:
        """Return the container that a value is, None if it is none. What is in it is a snapshot."""
        if isinstance(value, dict):
            items = list(dict.items(value))
        elif isinstance(value, list | tuple | set | frozenset):
            members = next(list(iterate(value)) for kind, iterate in _ITERATE if isinstance(value, kind))
            return _Frame(value, ((n, IN_LIST, member) for n, member in enumerate(members)), [], path)
        elif isinstance(value, msgspec.Struct):
            return self._open_struct(value, path)
        elif isinstance(value, Mapping):
            items = list(value.items())
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = _attributes(value, [field.name for field in dataclasses.fields(value)])
        else:
            attributes = getattr(type(value), "__attrs_attrs__", None)
            if attributes is None:
                return None
            items = _attributes(value, [attribute.name for attribute in attributes])
        return _Frame(value, ((n, key, member) for n, (key, member) in enumerate(items)), {}, path)

    def _open_struct(self, struct: msgspec.Struct, path: Path) -> _Frame:
        config = struct.__struct_config__
        members = _struct_members(struct)
        if config.array_like:
            first = [] if config.tag is None else [config.tag]
            values = [*first, *(value for _, _, value in members)]
            return _Frame(struct, ((n, IN_LIST, value) for n, value in enumerate(values)), [], path)
        target: dict[str, Any] = {}
        if config.tag is not None:
            assert config.tag_field is not None  # noqa: S101 - msgspec gives one to whatever has a tag
            target[config.tag_field] = config.tag
        self.fixed[id(target)] = target
        return _Frame(struct, members, target, path)


def _struct_members(struct: msgspec.Struct, leave_out: str = "") -> list[tuple[int, object, object]]:
    """Return a struct's members as msgspec would encode them."""
    config = struct.__struct_config__
    names, defaults = struct.__struct_fields__, struct.__struct_defaults__
    no_defaults = (msgspec.NODEFAULT,) * (len(names) - len(defaults))
    members: list[tuple[int, object, object]] = []
    for position, (name, encode_name, default) in enumerate(
        zip(names, struct.__struct_encode_fields__, (*no_defaults, *defaults), strict=True)
    ):
        value = getattr(struct, name)
        if value is msgspec.UNSET or name == leave_out:
            continue
        omits = config.omit_defaults and not config.array_like
        if omits and (value is default or _is_empty_default(value, default)):
            continue
        members.append((position, encode_name, value))
    return members


def _is_empty_default(value: object, default: object) -> bool:
    """Return whether the default is a new list, dict or set each time, and the value is an empty one."""
    factory = getattr(default, "factory", None)
    return factory in (list, dict, set) and type(value) is factory and not value


def _attributes(value: object, names: list[str]) -> list[tuple[object, object]]:
    found = [(name, getattr(value, name, msgspec.UNSET)) for name in names]
    return [(name, member) for name, member in found if member is not msgspec.UNSET]


def _text_of(value: object) -> str | None:
    """Return the text of a value that is text in JSON, None of any other."""
    if isinstance(value, TIMES_AND_NUMBERS):
        text: object = msgspec.to_builtins(of_standard_library(value))
        return text if isinstance(text, str) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode("ascii")
    if isinstance(value, _AS_TEXT) or hasattr(type(value), "get_secret_value"):  # pydantic's SecretStr: asterisks
        return str(value)
    return None


def _decimal(number: int) -> str:
    """Return an integer's decimal text; of one that is too long for it, its size and hash."""
    if number.bit_length() <= _MAX_INT_BITS:
        try:
            return str(number)
        except ValueError:
            pass  # the interpreter was given a lower limit
    size = number.bit_length() // 8 + 1
    digest = sha256(number.to_bytes(size, "big", signed=True)).hexdigest()
    return f"integer of {number.bit_length()} bits, SHA-256 {digest}"


def _name_of(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"
