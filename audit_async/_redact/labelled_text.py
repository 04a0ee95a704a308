r"""Secrets in a text that a name stands before: `password=…`, `"api_key": "…"`, `<secret>…</secret>`, `Cookie: …`.

For texts of no known form, or of one that is broken: a log line, a URL's query, JSON that was cut in the middle or that
stands in a longer text, `\"escaped\"` ones too. A name and a colon alone are no sign of a secret ("password: too
short"), so there the value must look like one. Linear time, as in `secret_values`.
"""

from __future__ import annotations

import re
from typing import Final

from audit_async._redact.sensitive_names import SecretNames
from audit_async._redact.token_patterns import redacted

__all__ = ["redact_named"]

_PLACEHOLDER: Final = re.compile(r"\[redacted:[a-z0-9_]+\]")

# Texts that stand for no secret: a mask, a word of a programming language.
_EMPTY: Final = re.compile(r"[*.•]*|null|none|nil|undefined|true|false|-?[0-9]{1,2}", re.IGNORECASE)

_ASSIGNMENT: Final = re.compile(r"(?<![\w.\[\]-])([\w.\[\]-]++)(?:[ \t]{0,4}=(?!=)|%3[Dd])[ \t]{0,4}")
_UNQUOTED: Final = re.compile(r"(?:[^\s&;,\"'<>\\]|\\(?!\\{0,7}[\"'])|,(?!\s|[\w.-]{1,64}=|\Z))*+")

_PAIR: Final = re.compile(r"(?<!\\)(\\{0,7})([\"'])([\w .\[\]-]{1,160})\1\2[ \t\r\n]{0,8}:[ \t\r\n]{0,8}")
_QUOTE: Final = re.compile(r"(?<!\\)(\\*+)([\"'])")
_IN_BRACKETS: Final = re.compile(r"(?<!\\)(\\*+)([\"'])|[\[\]{}]")
# A word that something is assigned to is a name of its own, and no value.
_BARE: Final = re.compile(r"[^\s,;}\])\"'\\]*+(?![ \t]{0,4}[=:<])")

_ELEMENT: Final = re.compile(
    r"(<(?:[\w-]{1,64}:)?([A-Za-z_][\w.-]{0,159})(?:\s[^<>]{0,512})?>(?:\s{0,64}<!\[CDATA\[)?)([^<]+)"
)

_HEADER: Final = re.compile(r"(?<![\w.-])([A-Za-z][\w-]*+):[ \t]{1,8}")
_CREDENTIALS: Final = re.compile(
    r"(?:basic|bearer|digest|negotiate|ntlm|token|apikey|hmac|hawk|oauth|mac|signature|dpop|aws4-hmac-sha256)[ \t]+"
    r"[^\r\n\"']{4,}",
    re.IGNORECASE,
)
_COOKIES: Final = re.compile(r"[^\s=;\"']+=[^\r\n\"']*")
_OPAQUE: Final = re.compile(r"(?=[^\s\d]*\d)(?:[^\s\"',;<>\\]|\\(?![rn\"'\\])){6,}+(?![^\r\n\"',;<>\\])")


def redact_named(text: str, names: SecretNames) -> str:
    """Replace what stands behind a secret name."""
    if ":" in text:
        if '"' in text or "'" in text:
            text = _redact_pairs(text, names)
        if ": " in text or ":\t" in text:
            text = _redact_headers(text, names)
    if "<" in text:
        text = _ELEMENT.sub(lambda found: _element(found, names), text)
    if "=" in text or "%3" in text:
        text = _redact_assignments(text, names)
    return text


def _redact_assignments(text: str, names: SecretNames) -> str:
    kept = []
    at = searched = 0
    while assignment := _ASSIGNMENT.search(text, searched):
        # Behind a harmless name the value is searched itself: it may be a URL with a query of its own.
        searched = assignment.end()
        kind = names.kind(assignment[1])
        if kind is None:
            continue
        begin, end, searched = _assigned(text, searched)
        value = text[begin:end]
        if _EMPTY.fullmatch(value) or _PLACEHOLDER.match(value):
            continue
        kept += [text[at:begin], redacted(kind)]
        at = end
    return "".join([*kept, text[at:]])


def _assigned(text: str, begin: int) -> tuple[int, int, int]:
    """Return where the value that is assigned at `begin` begins and ends, without its quotes, and what is behind it."""
    opening = _QUOTE.match(text, begin)
    if opening is None:
        value = _UNQUOTED.match(text, begin)
        assert value is not None  # noqa: S101 - it matches also nothing
        return begin, value.end(), value.end()
    inside, end, _ = _quoted(text, opening)
    line, newline, _ = inside.partition("\n")
    behind_value = opening.end() + len(line)
    return opening.end(), behind_value, behind_value if newline else end


def _element(found: re.Match[str], names: SecretNames) -> str:
    kind = names.kind(found[2])
    value = found[3].strip()
    if kind is None or _EMPTY.fullmatch(value) or _PLACEHOLDER.fullmatch(value):
        return found[0]
    return found[1] + redacted(kind)


# -- "name": value ------------------------------------------------------------------------------------------


def _redact_pairs(text: str, names: SecretNames) -> str:
    kept = []
    at = searched = 0
    while pair := _PAIR.search(text, searched):
        searched = pair.end()
        kind = names.kind(pair[3])
        if kind is None:
            continue
        end, shown = _value(text, searched, pair[1], redacted(kind))
        if shown:
            kept += [text[at:searched], shown]
            at = end
        searched = max(end, searched)
    return "".join([*kept, text[at:]])


def _value(text: str, begin: int, escape: str, placeholder: str) -> tuple[int, str]:
    """Return where the value that begins at `begin` ends, and what to put in its place; nothing where it may stay."""
    opening = _QUOTE.match(text, begin)
    if opening is not None:
        inside, end, closed = _quoted(text, opening)
        if not inside or _PLACEHOLDER.fullmatch(inside):
            return end, ""
        return end, opening[0] + placeholder + (opening[0] if closed else "")
    if text[begin : begin + 1] in {"[", "{"}:
        end = _behind_brackets(text, begin, len(escape))
    else:
        bare = _BARE.match(text, begin)
        if bare is None:
            return begin, ""
        end = bare.end()
        if _EMPTY.fullmatch(bare[0]):
            return end, ""
    return end, f'{escape}"{placeholder}{escape}"'


def _quoted(text: str, opening: re.Match[str]) -> tuple[str, int, bool]:
    """Return a quoted value, where it ends, and whether its closing quote is there."""
    for quote in _QUOTE.finditer(text, opening.end()):
        if _closes(quote, opening):
            return text[opening.end() : quote.start()], quote.end(), True
    return text[opening.end() :], len(text), False


def _closes(quote: re.Match[str], opening: re.Match[str]) -> bool:
    if quote[2] != opening[2]:
        return False
    escapes = len(quote[1]) - len(opening[1])
    # Not escaped once more than the opening one is; in plain JSON two backslashes are one, and its own.
    return escapes <= 0 or (not opening[1] and escapes % 2 == 0)


def _behind_brackets(text: str, begin: int, escapes: int) -> int:
    """Return where the list or object that begins at `begin` ends: at the end of the text where it was cut."""
    depth = 0
    opening: re.Match[str] | None = None
    for found in _IN_BRACKETS.finditer(text, begin):
        if found[2]:
            if opening is None:
                if len(found[1]) <= escapes:
                    opening = found
            elif _closes(found, opening):
                opening = None
        elif opening is None:
            depth += 1 if found[0] in "[{" else -1
            if depth == 0:
                return found.end()
    return len(text)


# -- Name: value --------------------------------------------------------------------------------------------


def _redact_headers(text: str, names: SecretNames) -> str:
    kept = []
    at = searched = 0
    while header := _HEADER.search(text, searched):
        searched = header.end()
        kind = names.kind(header[1])
        if kind is None:
            continue
        looks_like = {"authorization": (_CREDENTIALS, _OPAQUE), "cookie": (_COOKIES, _OPAQUE)}.get(kind, (_OPAQUE,))
        value = next(filter(None, (pattern.match(text, searched) for pattern in looks_like)), None)
        if value is None or _PLACEHOLDER.match(value[0]):
            continue
        kept += [text[at:searched], redacted(kind)]
        at = searched = value.end()
    return "".join([*kept, text[at:]])
