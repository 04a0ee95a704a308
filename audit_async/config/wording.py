"""What a `ConfigError` says: of a value that is wrong, of an unknown name, of the source of a value.

No message shows more of what was given than is needed to recognise it.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from audit_async.errors import ConfigError


def shown(given: object) -> str:
    """Return a short form of a wrong value: enough to recognise it, never a whole file."""
    if isinstance(given, dict):
        return "a table"
    return _short.repr(given)


def shown_url(url: str) -> str:
    """Return a wrong URL without what may be secret in it: the user and the password, the query and the fragment."""
    scheme, slashes, rest = url.partition("://") if "://" in url else ("", "", url)
    place = re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    return ascii(f"{scheme}{slashes}{place}"[:200])


_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def refuse_unknown(given: Iterable[str], known: Iterable[str], path: str, kind: str = "setting") -> None:
    """Raise `ConfigError` for the first name that is none of `known`; `path` is put before it."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ConfigError(f"{path}{brief(name)}", unknown(kind, name, known))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return what to say of a name that is none of `known`: the one it looks like, or all that there are."""
    known = list(known)
    hint = did_you_mean(name, known) or (f"; there are {', '.join(known)}" if known else "; this type has none")
    return f"no such {kind}{hint}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the known name that looks like `name` as the end of a message; empty if none does."""
    close = difflib.get_close_matches(brief(name).lower(), {text.lower(): text for text in known}, n=1)
    return "".join(f"; did you mean {text}?" for text in known if close and text.lower() == close[0])


def brief(name: str) -> str:
    """Return a key as an error shows it: printable and short."""
    return (name if name.isprintable() else ascii(name)[1:-1])[:80]


def either(tags: Iterable[object]) -> str:
    """Return the tags that a table's `type` may have, joined as in a sentence."""
    *others, last = [f'"{tag}"' for tag in tags]
    return f"{', '.join(others)} or {last}" if others else last


@contextmanager
def naming(source: Callable[[str], str]) -> Iterator[None]:
    """Add the source of a value to the `ConfigError` about it."""
    try:
        yield
    except ConfigError as error:
        place = source(error.field)
        if not place:
            raise
        raise ConfigError(error.field, f"{error.reason} ({place})") from None
