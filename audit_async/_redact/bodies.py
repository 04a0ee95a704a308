"""Bodies of requests and responses as data, by their content type, so that what is in them can be searched by name."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Container
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

__all__ = ["free_name", "parse_body", "parse_json", "without_begun_word"]

_TEXT: Final = re.compile(
    r"text/.*|application/(?:.*\+)?(?:json|xml|yaml|x-yaml|javascript|graphql|x-ndjson|jsonl|json-seq|toml)|"
)
_FORM: Final = "application/x-www-form-urlencoded"

#: A form of more fields or parts is searched as text.
_MAX_FIELDS: Final = 1000
_MAX_PART_HEAD: Final = 4096
# RFC 2046, section 5.1.1, and RFC 7578: a boundary, and the parameters of a part's Content-Disposition.
_BOUNDARY: Final = re.compile(r";\s*boundary=(?:\"([^\"\r\n]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)
_PARAMETER: Final = re.compile(
    r";[ \t]{0,8}+([\w*-]{1,32}+)[ \t]{0,4}+=[ \t]{0,4}+(?:\"((?:[^\"\\]|\\.)*+)\"?|([^\s;\"]*+))", re.DOTALL
)
_HEADER_LINE: Final = re.compile(r"(?m)^([A-Za-z-]{1,64}+):[ \t]{0,8}+([^\r\n]*+(?:\r?\n[ \t]++[^\r\n]*+)*+)")
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
        text = without_begun_word(text)
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
    # Numbering goes on where it was for the same name: from 1 each time, n equal names took n squared steps.
    numbers: dict[str, int] = {}
    for name, value in members:
        distinct[free_name(name, distinct, numbers)] = value
    return distinct


def free_name(name: str, taken: Container[str], numbers: dict[str, int]) -> str:
    """Return `name`, or the first `name~2`, `name~3`, … that is not in `taken`.

    `numbers` keeps the last number of each name from call to call; so all calls together try each number once.
    """
    if name not in taken:
        return name
    number = numbers.get(name, 1)
    while True:
        number += 1
        free = f"{name}~{number}"
        if free not in taken:
            numbers[name] = number
            return free


def _decoded(body: bytes, parameters: str) -> str:
    charset = re.search(r"charset=\"?([\w.:-]{1,40})", parameters, re.IGNORECASE)
    try:
        return body.decode(charset[1] if charset else "utf-8", "backslashreplace")
    except (LookupError, UnicodeError):  # no such charset, or one that is no text encoding
        return body.decode("utf-8", "backslashreplace")


def without_begun_word(text: str) -> str:
    """Return a text that was cut without its last word, which may be the beginning of a secret."""
    begun = _WORD_END.search(text[::-1])
    text = text[: len(text) - begun.start()] if begun else ""
    return text.rstrip("0123456789 -")  # a card's number is written in several words


def _form(text: str) -> object:
    if text.count("&") >= _MAX_FIELDS:
        return text
    fields: dict[str, object] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        _add(fields, name, value)
    return fields


class _Part(NamedTuple):
    """A part of a multipart body."""

    name: str
    file_name: str | None
    content_type: str
    content: bytes


def _multipart(body: bytes, content_type: str, *, truncated: bool) -> dict[str, object] | None:
    """Return the fields of a multipart body, of files their size; None if it is none.

    A parser of its own, since that of `email` takes a time that grows with the square of the nesting, and of the
    parameters in a head.
    """
    boundary = _BOUNDARY.search(content_type[:_MAX_PART_HEAD])
    if boundary is None:
        return None
    delimiter = b"--" + (boundary[1] or boundary[2]).encode("latin-1", "replace")
    first = body.find(delimiter)
    if first < 0 or (first > 0 and body[first - 1] != ord("\n")) or body.count(delimiter) > _MAX_FIELDS:
        return None
    raw_parts = (b"\n" + body[first:]).split(b"\n" + delimiter)[1:]
    fields: dict[str, object] = {}
    for raw in raw_parts:
        if raw.startswith(b"--"):  # the end
            break
        part = _part(raw)
        text = part.content.decode("utf-8", "backslashreplace")
        value: object = without_begun_word(text) if truncated and raw is raw_parts[-1] else text
        if part.file_name is not None:
            value = {"filename": part.file_name, "content_type": part.content_type, "bytes": len(part.content)}
        _add(fields, part.name, value)
    return fields


def _part(raw: bytes) -> _Part:
    """Return what a part says of itself, and its content, decoded if it names an encoding."""
    end = re.search(rb"\r?\n\r?\n", raw[:_MAX_PART_HEAD])
    head, content = (raw[: end.start()], raw[end.end() :]) if end else (raw[:_MAX_PART_HEAD], b"")
    content = content.removesuffix(b"\r")
    headers = {found[1].lower(): found[2] for found in _HEADER_LINE.finditer(head.decode("utf-8", "backslashreplace"))}
    parameters = {
        found[1].lower(): re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
        for found in _PARAMETER.finditer(headers.get("content-disposition", ""))
    }
    encoding = headers.get("content-transfer-encoding", "").strip().lower()
    try:
        if encoding == "base64":
            content = binascii.a2b_base64(content)
        elif encoding == "quoted-printable":
            content = binascii.a2b_qp(content)
    except binascii.Error:
        pass  # it is what it is
    file_name = parameters.get("filename", parameters.get("filename*"))
    media_type = headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    return _Part(parameters.get("name", ""), file_name, media_type, content)


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
