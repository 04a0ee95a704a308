"""Secrets in commands: `--password x`, `curl -u user:password`, `mysql -pSECRET`, `IDENTIFIED BY '…'`, `.netrc`.

Linear: one search over the options of a text, and one over the names of programs and the options that follow them on
their line.
"""

from __future__ import annotations

import re
from typing import Final

from audit_async._redact.sensitive_names import SensitiveNames
from audit_async._redact.token_patterns import redacted

__all__ = ["redact_command_lines"]

_MAX_SECRETS: Final = 500

_VALUE: Final = r"(?:\"([^\"\r\n]*+)\"?|'([^'\r\n]*+)'?|((?:[^\s\"'\\]|\\.)++))"
_OPTION: Final = re.compile(rf"(?<![\w-])(--?[A-Za-z][\w-]{{0,64}}+)[ \t]{{1,4}}(?![-=])(?=[^\s]){_VALUE}")
# Words that follow an option where people write about it.
_PROSE: Final = frozenset({
    "is", "are", "was", "to", "or", "and", "the", "a", "an", "of", "for", "with", "if", "in", "on", "not", "must",
    "can", "may", "should", "has", "option", "flag", "argument", "parameter", "value", "from", "when", "instead",
    "given", "missing", "required",
})  # fmt: skip
_EMPTY: Final = re.compile(r"[*.•]*+|null|none|nil|true|false|-?[0-9]{1,2}|\[redacted:[a-z0-9_]+\]", re.IGNORECASE)

# Programs with an option that has no name, and what follows it: a user with a password, or the password alone.
_PROGRAM: Final = re.compile(
    r"(?=[\ncwhxm7sdpnoarl-])(?:\n"  # the first character decides, before any look-behind
    r"|(?<![\w.-])(?P<user>curl|wget|https?|xh)(?![\w.:-])"
    r"|(?<![\w.-])(?P<glued>mysql(?:dump|admin|import|show)?|mariadb(?:-dump|-admin)?|7z[ar]?)(?![\w:-]|\.\w)"
    r"|(?<![\w.-])(?:(?P<p>sshpass|(?:docker|podman|nerdctl|oras|az|helm registry)[ \t]{1,4}login)"
    r"|(?P<a>redis-cli)|(?P<w>ldap(?:search|modify|add|delete|passwd|whoami)))(?![\w:-]|\.\w)"
    r"|(?<![^\s\"'])(?:-u|--user|-U|--proxy-user|-a|--auth)(?:[ \t]{1,4}|=)?[\"']?"
    r"(?P<name>[^\s:\"'\\]{0,128}+:)(?P<password>[^\s\"'\\]{1,256}+)"
    r"|(?<![^\s\"'])-pass(?:in|out)?[ \t]{1,4}[\"']?pass:(?P<phrase>[^\s\"'\\]{1,256}+)"
    r"|(?<![^\s\"'])-(?P<letter>[paw])(?P<blank>[ \t]{0,4})[\"']?(?P<value>[^\s\"'\\-][^\s\"'\\]{0,256}+))"
)
_NAMES_OF_PROGRAMS: Final = re.compile(r"curl|wget|https? |xh|mysql|mariadb|7z|sshpass|redis-cli|login|ldap|-pass")


# SQL, as `CREATE USER … IDENTIFIED BY '…'` and `ALTER ROLE … PASSWORD '…'`; and a line of `.netrc`.
_STATEMENT: Final = re.compile(
    r"(?<![\w-])(?:(?:identified(?: with \w{1,32})? by|password)[ \t]{1,4}(?:as )?'([^'\r\n]++)"
    r"|login[ \t]{1,4}[^\s]{1,128}+[ \t\r\n]{1,8}password[ \t]{1,4}([^\s]++))",
    re.IGNORECASE,
)


def redact_command_lines(text: str, names: SensitiveNames) -> str:
    """Return a text without the secrets that commands hold; the text itself if there are none."""
    if "password" in text or "PASSWORD" in text or "identified" in text or "IDENTIFIED" in text:
        text = _STATEMENT.sub(_statement, text)
    if "-" not in text:
        return text
    text = _redact_options(text, names)
    return _redact_programs(text) if _NAMES_OF_PROGRAMS.search(text) else text


def _redact_options(text: str, names: SensitiveNames) -> str:
    kept: list[str] = []
    at = searched = 0
    while option := _OPTION.search(text, searched):
        searched = option.end(1)
        kind = names.kind(option[1])
        if kind is None:
            continue
        group = option.lastindex or 0
        value = option[group]
        searched = option.end()
        if value.lower() in _PROSE or _EMPTY.fullmatch(value):
            continue
        # A word with one hyphen before it is also a part of many a text.
        if not option[1].startswith("--") and not any(character.isdigit() for character in value):
            continue
        kept += [text[at : option.start(group)], redacted(kind)]
        at = option.end(group)
        if len(kept) > 2 * _MAX_SECRETS:
            return "".join([*kept, redacted("too_many")])
    return "".join([*kept, text[at:]]) if kept else text


def _redact_programs(text: str) -> str:
    kept: list[str] = []
    at = 0
    program = ""
    for found in _PROGRAM.finditer(text):
        group = found.lastgroup
        if group is None:
            program = ""
        elif group in {"user", "glued", "p", "a", "w"}:
            program = group
        elif _is_password(found, program) and not _EMPTY.fullmatch(found[group]):
            kept += [text[at : found.start(group)], redacted("password")]
            at = found.end(group)
            if len(kept) > 2 * _MAX_SECRETS:
                return "".join([*kept, redacted("too_many")])
    return "".join([*kept, text[at:]]) if kept else text


def _is_password(option: re.Match[str], program: str) -> bool:
    """Return whether an option of a program gives it a password."""
    if option.lastgroup == "phrase":
        return True
    if option.lastgroup == "password":
        return program == "user"
    if not option["blank"]:
        return program == "glued" and option["letter"] == "p"
    return program == option["letter"]


def _statement(found: re.Match[str]) -> str:
    group = found.lastindex or 0
    if _EMPTY.fullmatch(found[group]):
        return found[0]
    return found[0][: found.start(group) - found.start()] + redacted("password")
