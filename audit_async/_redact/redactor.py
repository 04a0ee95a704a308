"""Redaction: secrets are taken out of free-form data, headers and bodies before anything is recorded of them.

A secret is known by its name (`sensitive_names`) or by its form (`token_patterns`), and is replaced by
`[redacted:kind]`. This is done before everything else that is done to an event, so no half of a secret is left where a
text is cut. What holds no secret is returned as it is, the same object, which shows that nothing was changed.

The work is bounded before it begins. Each character is searched once, by patterns whose time is linear, and no more
than `max_chars` of them in one call: of what is larger the rest is left out, unsearched and unshown.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

import msgspec

from audit_async._redact.bodies import free_name, parse_body, parse_json, without_begun_word
from audit_async._redact.labelled_text import LabelledText
from audit_async._redact.sensitive_names import SensitiveNames
from audit_async._redact.token_patterns import is_card_number, redact_credentials, redact_values, redacted
from audit_async.config import Redaction
from audit_async.errors import InvalidEvent
from audit_async.events import AuditEvent, Change
from audit_async.events.base import pydantic_dump

__all__ = ["MAX_CHARS", "Redactor"]

# Deeper than a record can nest (`plain_json.MAX_DEPTH`), and well within the interpreter's stack.
_MAX_DEPTH: Final = 220
_TOO_DEEP: Final = redacted("too_deep")

#: How much is searched in one call: sixteen times the largest event by default. At some 50 ns a character, 50 ms.
MAX_CHARS: Final = 1 << 20
_MEMBER_CHARS: Final = 16  # what a member costs besides its text
_TOO_LARGE: Final = redacted("too_large")
_TOO_LONG: Final = redacted("too_long")

# JSON in a text in JSON in a text: each level is parsed again, so their number is bounded.
_MAX_JSON_TEXTS: Final = 3
_CARD_NUMBER: Final = redacted("card_number")

# No pattern finds anything in a text that is shorter (the shortest is `pwd=abc`), or in a short word (a card number has
# at least 13 digits).
_SHORTEST: Final = 6
_SHORT_WORD: Final = re.compile(r"[\w.-]{0,12}")
_JSON_BEGIN: Final = re.compile(r"[ \t\r\n]*+[\[{]")
_AUTH: Final = ("auth", "Auth", "AUTH")
_MAY_BE_JSON: Final = frozenset("[{ \t\r\n")
_LONG_NAME: Final = 20  # a key of a service that could be an identifier is as long
_MANY_PARTS: Final = 1000
_UNSEARCHED: Final = frozenset({int, float, bool, type(None), msgspec.UnsetType})

# `{"name": "password", "value": "…"}`, the JSON Patch `{"op": "replace", "path": "/password", "value": "…"}`, and the
# `{"Key": "DB_PASSWORD", "Value": "…"}` of cloud services.
_NAMES: Final = tuple(
    spelled for name in ("name", "key", "field", "path", "header", "parameter") for spelled in (name, name.capitalize())
)
_VALUES: Final = frozenset(
    spelled
    for name in ("value", "values", "old", "new", "old_value", "new_value", "oldValue", "newValue", "from", "to")
    for spelled in (name, name[0].upper() + name[1:])
)

_NAME_LIKE: Final = re.compile(r"[\w.-]{1,64}")

# Digits under such a name are the number of something, and a tenth of those would pass for a card's.
_NUMBER_OF_SOMETHING: Final = re.compile(
    r"(?:ean|gtin|upc|isbn|imei|iccid|barcode|sku|phone|mobile|fax|timestamp|time|_at|_ns|_us|_ms"
    r"|(?:order|tracking|invoice|ticket|shipment|serial|article|message|event|trace|span)[ _-]?(?:id|no|nr|number)?)\Z",
    re.IGNORECASE,
)


class Redactor:
    """Takes secrets out of data, texts, headers and bodies. Holds no state but caches: safe in any thread.

    Args:
        redaction: Which names and which texts are secrets; without it, those of a log that configures nothing.
        max_chars: How many characters are searched in one call at most. Of what is longer the rest is replaced by
            `[redacted:too_long]` or `[redacted:too_large]`.
    """

    def __init__(self, redaction: Redaction | None = None, *, max_chars: int = MAX_CHARS) -> None:
        settings = Redaction() if redaction is None else redaction
        self._enabled = settings.enabled
        self._values = settings.values
        self._max_chars = max_chars
        self._names = SensitiveNames((*settings.keys, *settings.extra_keys))
        self._labelled = LabelledText(self._names)
        self._change_has_no_secret_names = not any(map(self._names.kind, Change.__struct_fields__))

    def __repr__(self) -> str:
        if not self._enabled:
            return "<Redactor disabled>"
        return f"<Redactor {self._names!r} values={'on' if self._values else 'off'} max_chars={self._max_chars}>"

    def redact(self, value: object) -> object:
        """Return free-form data without its secrets. `value` is never changed.

        Mappings, lists, tuples, sets, dataclasses, attrs objects, pydantic models and structs are searched down to 220
        levels (`[redacted:too_deep]` replaces what is below), as are texts, keys, bytes and JSON in a text. What is
        named like a secret is replaced as a whole; only numbers below 100, truth values and null stay.

        Args:
            value: What msgspec can encode, and objects of the kinds above.

        Returns:
            `value` itself if it holds no secret; otherwise a dict, list, tuple, or a copy of the struct.
        """
        if not self._enabled or self._is_surely_clean(value):
            return value
        try:
            return _Walk(self, self._names, self._max_chars).take(value, "", 0)
        except RecursionError:  # the caller's own stack is all but used up
            return _TOO_DEEP

    def _is_surely_clean(self, value: object) -> bool:  # noqa: C901 - one loop, in which a call would cost most
        """Return whether plain data surely holds no secret: most is small and clean, and this costs half of a walk."""
        waiting = [value]
        chars = 0
        for part in waiting:
            cls = type(part)
            if cls is str:
                text: str = part  # type: ignore[assignment]  # it is a str
                chars += len(text)
                if chars > self._max_chars or not self._is_clean_text(text):
                    return False
            elif cls is dict:
                members: dict[object, object] = part  # type: ignore[assignment]  # it is a dict
                if not self._are_surely_harmless(members):
                    return False
                waiting += members.values()
            elif cls is list:
                items: list[object] = part  # type: ignore[assignment]  # it is a list
                if len(items) == 2 and type(items[0]) is str and self._names.kind(items[0]) is not None:
                    return False
                waiting += items
            elif cls is Change and self._change_has_no_secret_names:
                change: Change = part  # type: ignore[assignment]  # it is a Change
                waiting += (change.before, change.after)
            elif cls is int:
                if not -(10**12) < part < 10**12:  # type: ignore[operator]  # it is an int
                    return False
            elif cls not in _UNSEARCHED:
                return False
            if len(waiting) > _MANY_PARTS:  # it may contain itself, or the same many times over
                return False
        return True

    def _is_clean_text(self, text: str) -> bool:
        return len(text) < _SHORTEST or (text[0] not in _MAY_BE_JSON and self.redact_text(text) is text)

    def _are_surely_harmless(self, names: Mapping[object, object]) -> bool:
        """Return whether a dict's keys are texts, name no secret, hold none, and are not about another member."""
        if len(names) > _MANY_PARTS:
            return False
        for name in list(names):
            if type(name) is not str or self._names.kind(name) is not None or name.endswith(_AUTH):
                return False
            if (len(name) >= _LONG_NAME or not name.isidentifier()) and self.redact_text(name) is not name:
                return False
        return _VALUES.isdisjoint(names)

    def redact_text(self, text: str) -> str:
        """Return a text without its secrets, the rest of it as it was; the text itself if it has none.

        Args:
            text: Any text. More than `max_chars` characters are neither searched nor returned.
        """
        if not self._enabled or len(text) < _SHORTEST or (len(text) < 13 and _SHORT_WORD.fullmatch(text)):
            return text
        if len(text) > self._max_chars:
            return self.redact_beginning(text, self._max_chars)
        clean = redact_credentials(text) if self._values else text
        clean = self._labelled.redact(clean)
        if self._values:
            clean = redact_values(clean)
        return text if clean == text else clean

    def redact_beginning(self, text: str, max_chars: int) -> str:
        """Return the beginning of a text that is too long, without its secrets, and that the rest was left out.

        The last word is left out as well: it may be the beginning of a secret.
        """
        return self.redact_text(without_begun_word(text[:max_chars])) + _TOO_LONG if self._enabled else text

    def redact_text_of(self, name: str, text: str) -> str:
        """Return the text of a member with a harmless name, without its secrets.

        Args:
            name: The member's name: digits that are an order's number stay, and base64 under `auth` is searched.
            text: The member's text.
        """
        clean = self.redact_text(text)
        if clean is text and self._values and name.endswith(_AUTH):
            clean = redact_credentials(f"auth={text}").removeprefix("auth=") if len(text) <= self._max_chars else text
        return text if clean == _CARD_NUMBER and _NUMBER_OF_SOMETHING.search(name) else clean

    def redact_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        """Return headers without their secrets, by their names in lower case; repeated ones joined by `, `.

        Args:
            headers: Names and values as ASGI has them.
        """
        shown: dict[str, list[str]] = {}
        for raw_name, raw_value in headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            kind = self.kind_of(name)
            if kind is not None:
                shown[name] = [redacted(kind)]
            else:
                shown.setdefault(name, []).append(self.redact_text_of(name, value))
        return {name: ", ".join(values) for name, values in shown.items()}

    def redact_body(self, body: bytes, content_type: str, *, truncated: bool = False) -> object:
        """Return a body without its secrets.

        Args:
            body: The body, decompressed.
            content_type: Its `Content-Type`; empty if there is none.
            truncated: Whether `body` is only the beginning. Its last word, which may be the beginning of a secret, is
                then left out.

        Returns:
            JSON as data, a form as a dict of its fields, any other text as a str, and so JSON that is broken or was
            cut. Of a file, and of a body that is no text, only the size.
        """
        if self._enabled and len(body) > self._max_chars:
            beginning = parse_body(body[: self._max_chars], "text/plain", truncated=True)
            return f"{self.redact(beginning)}{_TOO_LONG}"
        return self.redact(parse_body(body, content_type, truncated=truncated))

    def redact_members(self, event: AuditEvent, members: Iterable[str]) -> AuditEvent:
        """Return an event without the secrets in some of its members; `event` itself if they hold none.

        Args:
            event: The event, which is not changed.
            members: The names of the members to search.

        Raises:
            InvalidEvent: If a value's own code raises; it names the member.
        """
        changed = event
        for member in members:
            value = getattr(event, member)
            try:
                clean = self.redact(value)
            except Exception as error:  # noqa: BLE001 - a value's own class may raise anything
                reason = f"can't be searched for secrets: its own code raised {type(error).__name__}; emit plain data"
                raise InvalidEvent(event.event_type, member, reason) from None
            if clean is not value:
                if changed is event:
                    changed = copy.copy(event)
                msgspec.structs.force_setattr(changed, member, clean)
        return changed

    def kind_of(self, name: str) -> str | None:
        """Return what kind of secret has this name, None if none has or nothing is redacted."""
        return self._names.kind(name) if self._enabled else None

    def finds_values(self) -> bool:
        """Return whether what looks like a secret is taken out whatever its name."""
        return self._enabled and self._values


class _Walk:
    """One walk over one value. Each object is searched once, however often it occurs in it."""

    def __init__(self, redactor: Redactor, names: SensitiveNames, max_chars: int) -> None:
        self._redactor = redactor
        self._kind = names.kind
        self._left = max_chars  #: how much may still be searched
        self._json_texts = 0  #: how many texts of JSON the walk is in
        # By id: what became of an object, with the object itself, so that its id stays its own. One that is still being
        # searched is returned as it is; data that contains itself is refused later, when the error can name the place.
        self._seen: dict[int, tuple[object, object]] = {}

    def take(self, value: object, name: str, depth: int) -> object:
        """Return the value of a member with a harmless name, without its secrets."""
        cls = type(value)
        if cls is str:
            return self._of_text(value, name, depth)  # type: ignore[arg-type]  # it is a str
        if cls in _UNSEARCHED:
            return value if cls is not int else self._of_integer(value, name)  # type: ignore[arg-type]  # it is an int
        if cls is not dict and cls is not list:
            if isinstance(value, Enum):
                return self._enum(value, name, depth)
            if isinstance(value, str):
                return self._of_text(str.__str__(value), name, depth, value)
            if isinstance(value, int):
                return value
            if isinstance(value, bytes | bytearray | memoryview):
                text = bytes(value).decode("latin-1")
                clean = self._text(text)
                return value if clean is text else clean
            if isinstance(value, msgspec.Raw):  # recorded as what it says, so it is searched as that
                data: object = msgspec.json.decode(value)
                clean_data = self.take(data, name, depth + 1) if depth < _MAX_DEPTH else _TOO_DEEP
                return value if clean_data is data else clean_data
        known = self._seen.get(id(value))
        if known is not None:
            return known[1]
        if depth >= _MAX_DEPTH:
            return _TOO_DEEP
        self._seen[id(value)] = (value, value)
        clean_value = self._container(value, name, depth + 1)
        self._seen[id(value)] = (value, clean_value)
        return clean_value

    def _of_text(self, text: str, name: str, depth: int, given: object = None) -> object:
        if len(text) < _SHORTEST:
            return text if given is None else given
        is_json = _JSON_BEGIN.match(text) and depth < _MAX_DEPTH and self._json_texts < _MAX_JSON_TEXTS
        clean = self._json(text, depth + 1) if is_json and len(text) <= self._left else self._text(text, name)
        return clean if clean is not text or given is None else given

    def _text(self, text: str, name: str = "") -> str:
        """Return a text without its secrets: of one that is longer than what may be searched, the beginning."""
        left = self._left
        self._left -= len(text) + _MEMBER_CHARS
        if len(text) <= left:
            return self._redactor.redact_text_of(name, text)
        return self._redactor.redact_beginning(text, left) if left > 0 else _TOO_LONG

    def _json(self, text: str, depth: int) -> str:
        """Return JSON text without its secrets; what is no JSON is any other text."""
        try:
            data = parse_json(text)
        except (ValueError, RecursionError):
            return self._text(text)
        self._json_texts += 1
        clean = self.take(data, "", depth)
        self._json_texts -= 1
        return text if clean is data else json.dumps(clean, ensure_ascii=False, separators=(",", ":"))

    def _of_integer(self, number: int, name: str) -> object:
        if not 10**12 <= number < 10**19 or not self._redactor.finds_values():
            return number
        if is_card_number(str(number)) and not _NUMBER_OF_SOMETHING.search(name):
            return _CARD_NUMBER
        return number

    def _enum(self, value: Enum, name: str, depth: int) -> object:
        clean = self.take(value.value, name, depth)
        return value if clean is value.value else clean

    def _container(self, value: object, name: str, depth: int) -> object:
        # The built-in ones first: to ask whether something is a Mapping takes ten times as long.
        if isinstance(value, dict):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return self._sequence(value, name, depth)
        if isinstance(value, msgspec.Struct):
            return self._struct(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._object(value, [field.name for field in dataclasses.fields(value)], depth)
        attributes = getattr(type(value), "__attrs_attrs__", None)
        if attributes is not None:
            return self._object(value, [attribute.name for attribute in attributes], depth)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if hasattr(type(value), "get_secret_value"):  # pydantic's SecretStr and its like
            return redacted("secret")
        dump = pydantic_dump(value)
        if dump is None:
            return value
        data = dump()
        clean = self.take(data, name, depth)
        return value if clean is data else clean

    def _mapping(self, mapping: Mapping[Any, object], depth: int) -> object:
        if not self._has_room(len(mapping)):
            return _TOO_LARGE
        items = list(dict.items(mapping) if isinstance(mapping, dict) else mapping.items())
        named = None if _VALUES.isdisjoint(mapping) else self._named_member(items)
        clean: dict[object, object] = {}
        names = set(mapping)  # those that are there and those that redaction made
        numbers: dict[str, int] = {}
        changed = False
        for key, value in items:
            name = key if type(key) is str else _name_of(key)
            kind = self._kind(name)
            if kind is None and named is not None and name in _VALUES:
                kind = named
            clean_value = self.take(value, name, depth) if kind is None else _secret(value, kind)
            clean_key = key
            if len(name) >= _SHORTEST:
                clean_key = self._text(name)
                clean_key = key if clean_key == name else free_name(clean_key, names, numbers)
            changed = changed or clean_value is not value or clean_key is not key
            clean[clean_key] = clean_value
            names.add(clean_key)
        return clean if changed else mapping

    def _has_room(self, members: int) -> bool:
        """Return whether a container of so many members may be searched, and count it if so."""
        if self._left < 0 or members * _MEMBER_CHARS > self._left:
            return False
        self._left -= members * _MEMBER_CHARS
        return True

    def _named_member(self, items: list[tuple[Any, object]]) -> str | None:
        """Return the kind of secret whose name is itself a value of the mapping, next to the secret."""
        for key, value in items:
            if type(key) is str and type(value) is str and key in _NAMES:
                kind = self._kind(value)
                if kind is not None:
                    return kind
        return None

    def _sequence(
        self, sequence: list[object] | tuple[object, ...] | set[object] | frozenset[object], name: str, depth: int
    ) -> object:
        if not self._has_room(len(sequence)):
            return _TOO_LARGE
        members = list(sequence)
        clean = []
        changed = False
        for member in members:
            cls = type(member)
            pair = self._pair(member) if (cls is list or cls is tuple) else None  # type: ignore[arg-type]  # it is one
            clean_member = self.take(member, name, depth) if pair is None else pair
            changed = changed or clean_member is not member
            clean.append(clean_member)
        if not changed:
            return sequence
        return tuple(clean) if type(sequence) is tuple else clean

    def _pair(self, member: list[object] | tuple[object, ...]) -> object:
        """Return a pair of name and value, as a list of headers has them, without the secret; None for all else."""
        if len(member) != 2:
            return None
        key, value = member
        if not isinstance(key, str | bytes) or not isinstance(value, str | bytes):
            return None
        name = _name_of(key)
        kind = self._kind(name) if _NAME_LIKE.fullmatch(name) else None
        # A list of two secrets' names is no pair.
        if kind is None or self._kind(_name_of(value)) is not None:
            return None
        clean = _secret(value, kind)
        if clean is value:
            return None
        return (key, clean) if isinstance(member, tuple) else [key, clean]

    def _struct(self, struct: msgspec.Struct, depth: int) -> object:
        changed = struct
        for field, name in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True):
            value = getattr(struct, field)
            kind = self._kind(name)
            clean = self.take(value, name, depth) if kind is None else _secret(value, kind)
            if clean is not value:
                if changed is struct:
                    changed = copy.copy(struct)
                msgspec.structs.force_setattr(changed, field, clean)
        return changed

    def _object(self, value: object, names: list[str], depth: int) -> object:
        members = {name: getattr(value, name, msgspec.UNSET) for name in names}
        present = {name: member for name, member in members.items() if member is not msgspec.UNSET}
        clean = self._mapping(present, depth)
        return value if clean is present else clean


def _secret(value: object, kind: str) -> object:
    """Return what to record of the value of a member with a secret name; of a change, of both its values."""
    if isinstance(value, Change):
        before, after = _secret(value.before, kind), _secret(value.after, kind)
        return value if before is value.before and after is value.after else Change(before=before, after=after)
    return value if _tells_nothing(value) else redacted(kind)


def _tells_nothing(value: object) -> bool:
    """Return whether it is a truth value, null, a small number, empty, a list of those, or was redacted before."""
    if value is None or value is True or value is False or value is msgspec.UNSET:
        return True
    if isinstance(value, int | float):
        return abs(value) < 100
    if isinstance(value, list | tuple):
        return all(not isinstance(member, list | tuple) and _tells_nothing(member) for member in value)
    if isinstance(value, str | bytes | bytearray | set | frozenset | Mapping) and not value:
        return True
    return type(value) is str and value.startswith("[redacted:") and value.endswith("]")


def _name_of(key: object) -> str:
    while isinstance(key, Enum):
        key = key.value
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return str.__str__(key) if isinstance(key, str) else ""
