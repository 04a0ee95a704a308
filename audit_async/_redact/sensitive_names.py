"""Names whose values are secrets: `password`, `X-Api-Key`, `stripeApiKey2`, and neither `token_count` nor `api_key_id`.

A name counts by what it ends with, since English puts the thing last: a `password_length` is a length. Case,
punctuation and digits at the end don't count. A secret name of five letters and more matches also where it is glued to
another word (`dbpassword`); a shorter one must be the whole last word, or `pass` would be in `compass`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

__all__ = ["SecretNames"]

_NOT_LETTERS: Final = re.compile(r"[^a-z0-9]+")
# A last word: behind anything that is no letter, or a capital behind a small letter or digit (`dbPwd`).
_LAST_WORD: Final = re.compile(r"(?:[A-Z]?[a-z]+|[A-Z]+)\Z")
_TRAILING: Final = re.compile(r"[^A-Za-z]+\Z")
_SHORT: Final = 5
_PLACEHOLDER_END: Final = re.compile(r"[^\[\]]*\]")

# What a name is looked at for; an attacker may send one of a megabyte.
_MAX_NAME: Final = 160

# Words before a secret name that make it something else: marks in lists that are read page by page, in languages that
# models speak, in style sheets; passes that are no passwords.
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
}  # fmt: skip


class SecretNames:
    """A list of secret names, and the question whether a name is one of them. Never changed, so safe in any thread."""

    def __init__(self, names: Iterable[str]) -> None:
        #: What a secret is called in its place: `[redacted:api_key]`, by the letters of the name.
        self._kinds = {_letters(name): _kind(name) for name in names}
        long = sorted((name for name in self._kinds if len(name) >= _SHORT), key=len, reverse=True)
        self._long = re.compile("(?:" + "|".join(map(re.escape, long)) + r")\Z") if long else None
        # Most names are seen again and again, and a look-up costs a twentieth of the question.
        self._cached = lru_cache(maxsize=4096)(self._ask)

    def kind(self, name: str) -> str | None:
        """Return what kind of secret stands under `name`, None where none does."""
        return self._cached(name[-_MAX_NAME:])

    def _ask(self, name: str) -> str | None:
        # A shell's directories; a name that has what stands for a secret in it, or the end of that.
        if name in {"PWD", "OLDPWD"} or "[redacted:" in name or _PLACEHOLDER_END.match(name):
            return None
        letters = _letters(name)
        found = self._kinds.get(letters)
        if found is not None:
            return found
        trimmed = _TRAILING.sub("", name)
        letters = _letters(trimmed)
        singular = letters[:-1] if letters.endswith("s") and not letters.endswith("tokens") else letters
        for candidate in (letters, singular):
            secret = self._ending(candidate, trimmed if candidate is letters else trimmed[:-1])
            if secret is not None:
                return self._kinds[secret]
        # A plural alone is what language models count, and a plural of what opens something is a list of secrets.
        if letters.endswith("tokens") and (secret := self._ending(letters[:-1], trimmed[:-1])) and secret != "token":  # noqa: S105 - a name
            return self._kinds[secret]
        return None

    def _ending(self, letters: str, name: str) -> str | None:
        """Return the secret name that a name ends with."""
        match = self._long.search(letters) if self._long is not None else None
        if match is not None:
            secret = match[0]
        else:
            word = _LAST_WORD.search(name)
            if word is None or (secret := word[0].lower()) not in self._kinds:
                return None
        before = letters.removesuffix(secret)
        return None if before.endswith(_HARMLESS_BEFORE.get(secret, ())) else secret


def _letters(name: str) -> str:
    return _NOT_LETTERS.sub("", name.lower())


def _kind(name: str) -> str:
    """Return a secret name as it stands in a record: lower-case words joined by `_`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return _NOT_LETTERS.sub("_", words).strip("_")
