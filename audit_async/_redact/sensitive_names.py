"""Names whose values are secrets: `password`, `X-Api-Key`, `stripeApiKey2`, and neither `token_count` nor `api_key_id`.

A name counts by what it ends with, since English puts the thing last: a `password_length` is a length. Case, accents,
punctuation and digits at the end don't count. A secret name of five letters and more matches also as the end of another
word (`dbpassword`); a shorter one must be the whole last word, or `pass` would be in `compass`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

__all__ = ["SensitiveNames"]

_NOT_LETTERS: Final = re.compile(r"[^a-z0-9]+")
# A last word: after anything that is no letter, or a capital after a small letter or digit (`dbPwd`).
_LAST_WORD: Final = re.compile(r"(?:[A-Z]?[a-z]+|[A-Z]+)\Z")
_TRAILING: Final = re.compile(r"[\W\d_]+\Z")
_SHORT: Final = 5
_PLACEHOLDER_END: Final = re.compile(r"[^\[\]]*\]")

# How much of a name's end is looked at; an attacker may send one of a megabyte.
_MAX_NAME: Final = 160

# Words before a secret name that make it something else: marks in lists that are read page by page, in languages that
# models speak, in style sheets; passes that are no passwords; pins of boards and maps.
_HARMLESS_BEFORE: Final = {
    "token": (
        "page", "next", "continuation", "pagination", "sync", "resume", "cursor", "design", "color", "css", "syntax",
        "lexer", "special", "stop", "eos", "bos", "pad", "unk", "sep", "cls", "mask",
    ),
    "pass": (
        "boarding", "season", "day", "ski", "bus", "rail", "hall", "museum", "first", "second", "render", "low", "high",
        "band", "did", "must", "all", "by", "single", "two", "multi",
    ),
    "bearer": ("pall", "flag", "cup", "ring", "standard"),
    "cookie": ("fortune", "allow", "accept", "thirdparty"),
    "pin": ("gpio", "map", "led", "drawing", "rolling", "bowling", "push", "tie", "safety", "data", "clock", "reset"),
}  # fmt: skip
# Several of these are no secrets, but pins of a board, or what language models count.
_NO_PLURAL: Final = frozenset({"pin", "otp", "iban", "ssn", "token"})


class SensitiveNames:
    """A list of secret names, and the question whether a name is one of them. Never changed, so safe in any thread."""

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        #: What a secret is called in its place: `[redacted:api_key]`, by the letters of the name.
        self._kinds: dict[str, str] = {}
        for name in names:
            self._kinds.setdefault(_letters(name), _kind(name) if name.isascii() else "secret")
        # Endings are looked up by their length, the longest first: one look-up each, however many names there are.
        long = {len(letters) for letters in self._kinds if len(letters) >= _SHORT or not letters.isascii()}
        self._lengths = sorted(long, reverse=True)
        #: What a secret's name ends with, in lower case and as patterns: its last word, to be found by one search.
        self.endings = tuple(sorted({_ending_pattern(name) for name in names}, key=len, reverse=True))
        # Most names are seen again and again, and a look-up costs a twentieth of the question.
        self._cached = lru_cache(maxsize=4096)(self._ask)

    def __repr__(self) -> str:
        return f"<SensitiveNames {len(self._kinds)} names>"

    def kind(self, name: str) -> str | None:
        """Return what kind of secret has this name, None if none has."""
        return self._cached(name[-_MAX_NAME:])

    def _ask(self, name: str) -> str | None:
        # A shell's directories; a name with a secret's replacement in it, or the end of one.
        if name in {"PWD", "OLDPWD"} or "[redacted:" in name or _PLACEHOLDER_END.match(name):
            return None
        letters = _letters(name)
        found = self._kinds.get(letters)
        if found is not None:
            return found
        trimmed = _TRAILING.sub("", name)
        letters = _letters(trimmed)
        secret = self._ending(letters, trimmed)
        if secret is None and letters.endswith("s"):
            secret = self._ending(letters[:-1], trimmed[:-1])
            if secret in _NO_PLURAL:
                return None
        return None if secret is None else self._kinds[secret]

    def _ending(self, letters: str, name: str) -> str | None:
        """Return the secret name that a name ends with."""
        for length in self._lengths:
            secret = letters[-length:]
            if secret in self._kinds:
                break
        else:
            word = _LAST_WORD.search(name)
            if word is None or (secret := word[0].lower()) not in self._kinds:
                return None
        before = letters.removesuffix(secret)
        return None if before.endswith(_HARMLESS_BEFORE.get(secret, ())) else secret


def _letters(name: str) -> str:
    """Return the letters and digits that a name is compared by: in lower case, without accents."""
    if name.isascii():
        return _NOT_LETTERS.sub("", name.lower())
    plain = unicodedata.normalize("NFKD", name[-_MAX_NAME:]).casefold()
    return "".join(character for character in plain if character.isalnum())


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _kind(name: str) -> str:
    """Return a secret name as it is recorded: lower-case words joined by `_`."""
    return re.sub(r"[\W_]+", "_", _words(name)).strip("_")


def _ending_pattern(name: str) -> str:
    """Return a pattern for the last word of a name; a word alone may be written in several (`apikey`, `api_key`)."""
    *before, word = _kind(name).split("_")
    if before or not word.isascii():
        return re.escape(word)
    return word if word in _ONE_WORD or len(word) < 6 else "[ _.-]?".join(word)


# Words of the default list that are written as one.
_ONE_WORD: Final = frozenset({
    "password", "passwd", "passphrase", "passcode", "secret", "bearer", "authorization", "cookie", "credential",
    "passwort", "kennwort", "wachtwoord", "contrasena", "losenord", "phpsessid", "jsessionid", "sessid", "mnemonic",
})  # fmt: skip
