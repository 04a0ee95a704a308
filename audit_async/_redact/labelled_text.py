r"""Secrets in a text, after their name: `password=…`, `"api_key": "…"`, `<secret>…</secret>`, `Cookie: …`.

For texts of no known form, or of one that is broken: a log line, a URL's query, JSON that was cut in the middle or that
is part of a longer text, `\"escaped\"` ones too. A name and a colon alone are no sign of a secret ("password: too
short"), so there the value must look like one.

The time is linear in the text, whatever is in it. One search goes forward through the text and stops only at what a
secret's name can end with and a separator follows; a name is read backwards to a fixed length; a value is read once, up
to its closing quote or the end of its line, and the search goes on after it. What would be read again and again, more
than 500 secrets in one text, is not shown at all.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from audit_async._redact.command_lines import redact_command_lines
from audit_async._redact.prefix_tree import tree_pattern
from audit_async._redact.sensitive_names import SensitiveNames
from audit_async._redact.token_patterns import redacted

__all__ = ["LabelledText"]

_PLACEHOLDER: Final = re.compile(r"\[redacted:[a-z0-9_]+\]")

# Texts that are no secret: a mask, a word of a programming language, a small number.
_EMPTY: Final = re.compile(r"[*.•]*+|null|none|nil|undefined|true|false|-?[0-9]{1,2}", re.IGNORECASE)
_HAS_WORD: Final = re.compile(r"[^\W_]")

#: More secrets than this in one text are not replaced one by one.
_MAX_SECRETS: Final = 500
_MAX_LABELS: Final = 2000
_MAX_STRUCTURE: Final = 1000
_MAX_ESCAPES: Final = 8

# What follows a name: `=`, `=>`, `:=` or an encoded `=`; the name's closing quote and a colon; a colon; an element's
# end.
_SEPARATOR: Final = (
    r"(?:(?P<assign>[ \t]{0,4}(?:=>|=(?![=>~])|:=(?=[ \t]{0,4}[\"'`]))[ \t]{0,4}|%(?:25)?3d)"
    r"|(?P<pair>\\{0,8}[\"'](?:[ \t\r\n]{0,8}(?::|=>?)[ \t\r\n]{0,8}))"
    r"|(?P<colon>[ \t]{0,4}:(?![:/])[ \t]{0,8})"
)
_ELEMENT_END: Final = r"|(?P<element>(?:\s[^<>]{0,256}+)?>(?:\s{0,64}<!\[cdata\[)?)"

_TRAIL: Final = r"s?(?:[0-9_.\[\]-]|%5d){0,24}+"
_NAME_BACKWARDS: Final = re.compile(r"[\w.\[\]-]{0,160}+")
_QUOTED_NAME_BACKWARDS: Final = re.compile(r"[\w .\[\]-]{0,160}+")
_ELEMENT_BACKWARDS: Final = re.compile(r"(?::[\w-]{1,64}+)?<")

_QUOTE: Final = re.compile(r"(?<!\\)(\\{0,8})([\"'`])")
_CLOSING: Final = re.compile(r"\\{0,8}[\"'`]")
_UNQUOTED: Final = re.compile(r"(?:[^\s&;,\"'<>\\]|\\(?!\\{0,7}[\"'])|,(?!\s|[\w.-]{1,64}+=|\Z))*+")
_IN_BRACKETS: Final = re.compile(r"(?<!\\)(\\*+)([\"'])|[\[\]{}]")
# A word that something is assigned to is a name of its own, and no value.
_BARE: Final = re.compile(r"[^\s,;}\])\"'\\]*+(?![ \t]{0,4}[=:<])")
_ELEMENT_TEXT: Final = re.compile(r"[^<]++")

_CREDENTIALS: Final = re.compile(
    r"(?:basic|bearer|digest|negotiate|ntlm|token|apikey|hmac|hawk|oauth|mac|signature|dpop|ssws|aws4-hmac-sha256)"
    r"[ \t]+[^\r\n\"']{4,}+",
    re.IGNORECASE,
)
_COOKIES: Final = re.compile(r"[^\s=;\"']++=[^\r\n\"']*+")
_OPAQUE: Final = re.compile(r"(?=[^\s\d]*+\d)(?:[^\s\"',;<>\\]|\\(?![rn\"'\\])){6,}+(?![^\r\n\"',;<>\\])")
_CODE: Final = re.compile(r"[0-9]{3,10}+(?![\w.-])")
_IBAN: Final = re.compile(r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{1,4}){3,8}", re.IGNORECASE)
_BY_KIND: Final = {
    "authorization": (_CREDENTIALS, _OPAQUE),
    "cookie": (_COOKIES, _OPAQUE),
    "iban": (_IBAN,),
    "pin": (_CODE, _OPAQUE),
    "otp": (_CODE, _OPAQUE),
    "cvv": (_CODE,),
    "cvc": (_CODE,),
}
_LOOKS_SECRET: Final = (_OPAQUE,)
# `token:a3f2c1` is a fingerprint; after these names nothing but the secret follows a colon without a blank.
_GLUED: Final = frozenset(
    {"password", "passwd", "pwd", "passphrase", "passwort", "api_key", "secret_key", "access_key"}
)

# `name: DB_PASSWORD, value: x`, `<add key="DbPassword" value="x"/>`, and a form's part.
_NAMED_VALUE: Final = re.compile(
    r"(?<![\w-])(?:name|key)(?:\\{0,8}[\"'])?[ \t]{0,4}[=:][ \t]{0,4}(?:\\{0,8}[\"'])?([\w.\[\]-]{1,160}+)"
    r"(?:\\{0,8}[\"'])?(?:(?:[\s,]|\\{1,8}[nrt]){1,40}+(?:\\{0,8}[\"'])?value(?:\\{0,8}[\"'])?[ \t]{0,4}[=:][ \t]{0,4}"
    r"|(?:(?:\r|\\{1,8}r)?(?:\n|\\{1,8}n)){2})",
    re.IGNORECASE,
)

_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class LabelledText:
    """Replaces what comes after a secret name. Never changed, so safe in any thread."""

    def __init__(self, names: SensitiveNames) -> None:
        self._names = names
        words = [ending for ending in names.endings if ending.isalnum()]
        patterns = [ending for ending in names.endings if not ending.isalnum()]
        tree = [tree_pattern((word, "") for word in words)] if words else []
        endings = "|".join([*tree, *patterns]) or "(?!)"
        label = f"(?:{endings}){_TRAIL}{_SEPARATOR}"
        self._label = re.compile(f"{label})")
        self._label_or_element = re.compile(f"{label}{_ELEMENT_END})")

    def redact(self, text: str) -> str:
        """Return a text without what comes after secret names; the text itself if there is nothing."""
        lowered = text.lower()
        if len(lowered) != len(text):  # a capital letter of two in lower case
            lowered = text.translate(_ASCII_LOWER)
        label = self._label_or_element if "<" in text else self._label
        if label.search(lowered) is not None:
            text = _Search(text, lowered, self._names, label).result()
        if "value" in lowered or "name=" in lowered:
            text = _redact_named_values(text, self._names)
        return redact_command_lines(text, self._names)


class _Search:
    """One way through one text, from label to label."""

    def __init__(self, text: str, lowered: str, names: SensitiveNames, label: re.Pattern[str]) -> None:
        self._text = text
        self._lowered = lowered
        self._names = names
        self._label = label
        self._kept: list[str] = []
        self._at = 0  #: what is before it was taken over
        self._line_end = -1

    def result(self) -> str:
        searched = secrets = labels = 0
        while label := self._label.search(self._lowered, searched):
            searched = label.end()
            kind = self._kind(label)
            if kind is None:
                continue
            begin, end, searched, shown = self._value(label, kind)
            labels += 1
            if shown:
                self._kept += [self._text[self._at : begin], shown]
                self._at = end
                secrets += 1
            if secrets > _MAX_SECRETS or labels > _MAX_LABELS:
                return "".join([*self._kept, self._text[self._at : begin], redacted("too_many")])
        return "".join([*self._kept, self._text[self._at :]])

    def _kind(self, label: re.Match[str]) -> str | None:
        """Return the kind of secret that the label names."""
        group = label.lastgroup
        assert group is not None  # noqa: S101 - a separator is one of the groups
        end = label.start(group)
        while self._lowered.endswith("%5d", 0, end):
            end -= 3
        before = self._text[max(0, end - 240) : end][::-1]
        name = (_QUOTED_NAME_BACKWARDS if group == "pair" else _NAME_BACKWARDS).match(before)
        assert name is not None  # noqa: S101 - it matches also nothing
        if group == "element" and not _ELEMENT_BACKWARDS.match(before, name.end()):
            return None
        return self._names.kind(name[0][::-1])

    def _value(self, label: re.Match[str], kind: str) -> tuple[int, int, int, str]:
        """Return where a value begins and ends, where to go on, and what to put in its place, if anything."""
        begin = label.end()
        if label.lastgroup == "pair":
            end, shown = _paired(self._text, begin, label["pair"].count("\\"), redacted(kind))
            return begin, end, max(begin, end), shown
        if label.lastgroup == "element":
            return self._element(begin, kind)
        opening = _QUOTE.match(self._text, begin)
        if label.lastgroup == "colon":
            return self._after_colon(begin, kind, opening, blank=label.end("colon") != label.start("colon") + 1)
        return self._assigned(begin, kind, opening)

    def _assigned(self, begin: int, kind: str, opening: re.Match[str] | None) -> tuple[int, int, int, str]:
        if opening is not None:
            begin, end, after = self._quoted_in_line(opening)
        else:
            spaced = _IBAN.match(self._text, begin) if kind == "iban" else None
            value = spaced or _UNQUOTED.match(self._text, begin)
            assert value is not None  # noqa: S101 - it matches also nothing
            end = after = value.end()
        if _EMPTY.fullmatch(self._text, begin, end) or _PLACEHOLDER.match(self._text, begin):
            return begin, end, after, ""
        return begin, end, after, redacted(kind)

    def _after_colon(
        self, begin: int, kind: str, opening: re.Match[str] | None, *, blank: bool
    ) -> tuple[int, int, int, str]:
        if opening is not None and opening[2] != "`":
            begin, end, after = self._quoted_in_line(opening)
            inside = self._text[begin:end]
            if _EMPTY.fullmatch(inside) or _PLACEHOLDER.match(inside) or not _HAS_WORD.search(inside):
                # Perhaps no value: the quote ends a text that the label is the end of.
                return begin, begin, begin, ""
            return begin, end, after, redacted(kind)
        if not blank and kind not in _GLUED:
            return begin, begin, begin, ""
        for pattern in _BY_KIND.get(kind, _LOOKS_SECRET):
            if value := pattern.match(self._text, begin):
                shown = "" if _PLACEHOLDER.fullmatch(value[0]) else redacted(kind)
                return begin, value.end(), value.end(), shown
        return begin, begin, begin, ""

    def _element(self, begin: int, kind: str) -> tuple[int, int, int, str]:
        found = _ELEMENT_TEXT.match(self._text, begin)
        if found is None:
            return begin, begin, begin, ""
        value = found[0].strip()
        harmless = _EMPTY.fullmatch(value) or _PLACEHOLDER.fullmatch(value)
        return begin, found.end(), found.end(), "" if harmless else redacted(kind)

    def _quoted_in_line(self, opening: re.Match[str]) -> tuple[int, int, int]:
        """Return where a quoted value begins and ends, and what comes after it: at most the rest of its line."""
        begin = opening.end()
        if self._line_end < begin:
            newline = self._text.find("\n", begin)
            self._line_end = len(self._text) if newline < 0 else newline
        inside = _inside(len(opening[1]), opening[2]).match(self._text, begin, self._line_end)
        closing = _CLOSING.match(self._text, inside.end()) if inside is not None else None
        if inside is None or closing is None or inside.end() >= self._line_end:
            return begin, self._line_end, self._line_end
        return begin, inside.end(), closing.end()


@lru_cache(maxsize=32)
def _inside(escapes: int, quote: str) -> re.Pattern[str]:
    r"""Return a pattern for what is between two quotes that have `escapes` backslashes before them.

    A quote closes if it is not escaped once more than the opening one is; in plain text two backslashes are one.
    """
    if escapes == 0:
        return re.compile(rf"(?:[^{quote}\\]|\\.)*+\\?", re.DOTALL)
    return re.compile(rf"(?:[^{quote}\\]|\\{{{escapes + 1},}}+{quote}?|\\{{1,{escapes}}}+(?![{quote}\\]))*+", re.DOTALL)


def _paired(text: str, begin: int, escapes: int, placeholder: str) -> tuple[int, str]:
    """Return where the value of a pair ends, and what to put in its place; nothing if it may stay."""
    opening = _QUOTE.match(text, begin)
    if opening is not None:
        inside = _inside(len(opening[1]), opening[2]).match(text, begin + len(opening[0]))
        end = len(text) if inside is None else inside.end()
        closing = _CLOSING.match(text, end)
        value = text[opening.end() : end]
        after = closing.end() if closing else len(text)
        if not value or _PLACEHOLDER.fullmatch(value):
            return after, ""
        return after, opening[0] + placeholder + (opening[0] if closing else "")
    if text[begin : begin + 1] in {"[", "{"}:
        end = _end_of_brackets(text, begin, escapes)
    else:
        bare = _BARE.match(text, begin)
        if bare is None:
            return begin, ""
        end = bare.end()
        if _EMPTY.fullmatch(bare[0]) or _PLACEHOLDER.fullmatch(bare[0]):
            return end, ""
    quote = "\\" * escapes + '"'
    return end, f"{quote}{placeholder}{quote}"


def _end_of_brackets(text: str, begin: int, escapes: int) -> int:
    """Return where the list or object that begins at `begin` ends: at the text's end if it was cut, or is large."""
    depth = 0
    opening: re.Match[str] | None = None
    for number, found in enumerate(_IN_BRACKETS.finditer(text, begin)):
        if number > _MAX_STRUCTURE:
            break
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


def _closes(quote: re.Match[str], opening: re.Match[str]) -> bool:
    if quote[2] != opening[2]:
        return False
    escapes = len(quote[1]) - len(opening[1])
    return escapes <= 0 or (not opening[1] and escapes % 2 == 0)


def _redact_named_values(text: str, names: SensitiveNames) -> str:
    kept: list[str] = []
    at = searched = count = 0
    while found := _NAMED_VALUE.search(text, searched):
        searched = found.end()
        kind = names.kind(found[1])
        if kind is None:
            continue
        count += 1
        if count > _MAX_SECRETS:
            return "".join([*kept, text[at : found.end()], redacted("too_many")])
        opening = _QUOTE.match(text, searched)
        if opening is not None:
            inside = _inside(len(opening[1]), opening[2]).match(text, opening.end())
            begin, end = opening.end(), len(text) if inside is None else inside.end()
        else:
            value = _UNQUOTED.match(text, searched)
            begin, end = searched, searched if value is None else value.end()
        searched = max(searched, end)
        if _EMPTY.fullmatch(text, begin, end) or _PLACEHOLDER.match(text, begin):
            continue
        kept += [text[at:begin], redacted(kind)]
        at = end
    return "".join([*kept, text[at:]]) if kept else text
