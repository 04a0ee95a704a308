"""Bodies of requests and responses as data, by their content type, so that what is in them can be searched by name."""

from __future__ import annotations

import json
import re
from email import message_from_bytes
from email.message import Message
from typing import Final
from urllib.parse import parse_qsl

__all__ = ["parse_body", "parse_json"]

_TEXT: Final = re.compile(
    r"text/.*|application/(?:.*\+)?(?:json|xml|yaml|x-yaml|javascript|graphql|x-ndjson|jsonl|json-seq|toml)|"
)
_FORM: Final = "application/x-www-form-urlencoded"
_WORD_END: Final = re.compile(r"[\s\"'<>&;,{}\[\]]")


def parse_body(body: bytes, content_type: str, *, truncated: bool) -> object:
    """Return a body as data: what JSON says, a form's fields by name, otherwise its text; of any other its size.

    What doesn't have the form that its content type names is text. Of a `truncated` body the last word is left out: it
    may be the beginning of a secret, which can't be known by its form any more.
    """
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    if media_type.startswith("multipart/"):
        fields = _multipart(body, content_type, truncated=truncated)
        if fields is not None:
            return fields
    elif media_type != _FORM and not _TEXT.fullmatch(media_type):
        return f"[{len(body)} bytes of {media_type[:100]}]"
    text = _decoded(body, parameters)
    if truncated:
        text = _without_begun_word(text)
    if media_type == _FORM:
        return _form(text)
    if media_type.endswith("json") or (not media_type and text.lstrip()[:1] in {"{", "["}):
        try:
            return parse_json(text)
        except (ValueError, RecursionError):
            return text
    return text


def parse_json(text: str) -> object:
    """Return what JSON says; of a name that comes twice in an object, which parsers disagree about, every value.

    Raises ValueError for what is no JSON, RecursionError for what nests too deep.
    """
    data: object = json.loads(text, object_pairs_hook=_all_members)
    return data


def _all_members(members: list[tuple[str, object]]) -> dict[str, object]:
    distinct = dict(members)
    if len(distinct) == len(members):
        return distinct
    distinct.clear()
    for name, value in members:
        free, number = name, 1
        while free in distinct:
            number += 1
            free = f"{name}~{number}"
        distinct[free] = value
    return distinct


def _decoded(body: bytes, parameters: str) -> str:
    charset = re.search(r"charset=\"?([\w.:-]{1,40})", parameters, re.IGNORECASE)
    try:
        return body.decode(charset[1] if charset else "utf-8", "backslashreplace")
    except (LookupError, UnicodeError):  # no such charset, or one that is no text encoding
        return body.decode("utf-8", "backslashreplace")


def _without_begun_word(text: str) -> str:
    begun = _WORD_END.search(text[::-1])
    text = text[: len(text) - begun.start()] if begun else ""
    return text.rstrip("0123456789 -")  # a card's number is written in several words


def _form(text: str) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        _add(fields, name, value)
    return fields


def _multipart(body: bytes, content_type: str, *, truncated: bool) -> dict[str, object] | None:
    """Return the fields of a multipart body, of files their size; None where it is none."""
    head = " ".join(content_type.split()).encode("latin-1", "replace")
    parts = message_from_bytes(b"Content-Type: " + head + b"\r\n\r\n" + body).get_payload()
    if not isinstance(parts, list):
        return None
    fields: dict[str, object] = {}
    for part in parts:
        if not isinstance(part, Message):
            continue
        content = part.get_payload(decode=True)
        raw = content if isinstance(content, bytes) else b""
        file_name = part.get_filename()
        name = part.get_param("name", "", header="content-disposition")
        text = raw.decode("utf-8", "backslashreplace")
        value: object = _without_begun_word(text) if truncated and part is parts[-1] else text
        if file_name is not None:
            value = {"filename": file_name, "content_type": part.get_content_type(), "bytes": len(raw)}
        _add(fields, name if isinstance(name, str) else "", value)
    return fields


def _add(fields: dict[str, object], name: str, value: object) -> None:
    """Add a field; one that comes again becomes a list."""
    if name not in fields:
        fields[name] = value
        return
    before = fields[name]
    if isinstance(before, list):
        before.append(value)
    else:
        fields[name] = [before, value]
