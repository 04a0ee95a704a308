"""Links that show the records of one tenant in an `<iframe>`: signed, expiring, and good for nothing else.

The application that shows its customers their own trail makes a link for each view; the viewer knows the key and
asks nobody. A ticket is `BASE64URL(payload).BASE64URL(HMAC-SHA-256)`; its payload says tenant, name and end.
"""

from __future__ import annotations

import hmac
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from audit_async.errors import AuditError, ConfigError
from audit_async.viewer.people import Person, require_plain

__all__ = ["EmbedLinks", "LinkRefused", "embed_link", "read_embed_key"]

_PURPOSE: Final = b"audit-async embed link 1\0"
_SHORTEST_KEY: Final = 32
_LONGEST_S: Final = 24 * 3600
_LONGEST_TICKET: Final = 2048
_TICKET: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+", re.ASCII)


class LinkRefused(AuditError):
    """An embed link is expired, altered, or was made with another key."""


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a ticket says."""

    tenant: str
    name: str
    until: int  #: seconds since 1970


def embed_link(
    url: str, *, key: bytes, tenant: str, name: str, valid_s: int = 900, now: Callable[[], float] = time.time
) -> str:
    """Return a link to the records of a tenant, for the `src` of an `<iframe>`.

    Whoever has the link sees the records until it expires, so make it when a page is shown to somebody who may.

    Args:
        url: Where the viewer is reached: `https://audit.example.org`, or with the path at which it is mounted.
        key: At least 32 random bytes, the same that the viewer has.
        tenant: Whose records; those whose context says exactly this.
        name: Who looks, as `audit.log_accessed` will record it.
        valid_s: How many seconds the link is good for, a day at most.
        now: The time, for tests.

    Raises:
        ConfigError: An argument can't be meant.
    """
    _require_key(key)
    require_plain("tenant", tenant)
    require_plain("name", name)
    if not 1 <= valid_s <= _LONGEST_S:
        raise ConfigError("valid_s", f"must be from 1 to {_LONGEST_S} seconds")
    require_public_url("url", url)
    payload = msgspec.json.encode(_Payload(tenant, name, int(now()) + valid_s))
    return f"{url.rstrip('/')}/embed/{_encoded(payload)}.{_encoded(_mac(key, payload))}/records"


def require_public_url(field: str, url: str) -> SplitResult:
    """Return the parts of the URL under which browsers reach the viewer; raises `ConfigError` for one that can't be."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(field, "must be such as https://audit.example.org, without user, query and fragment")
    return parts


def read_embed_key(source: str) -> bytes:
    """Return the key of embed links.

    Args:
        source: Where it is: the path of a file that only its owner can read, `credential:NAME`, or `env:VARIABLE`.

    Raises:
        ConfigError: It is not there, others can read it, or it is too short.
    """
    from audit_async.tlog.failures import KeyUnavailable  # noqa: PLC0415 - only if there are links
    from audit_async.tlog.signing_keys import read_secret  # noqa: PLC0415

    try:
        key = read_secret(source).strip()
    except KeyUnavailable as error:
        raise ConfigError("embed key", str(error)) from error
    _require_key(key)
    return key


class EmbedLinks:
    """Which links the viewer takes, and which sites may frame what they show.

    Args:
        key: The key that the links are made with.
        origins: The sites whose pages may frame it, such as `https://app.example.com`.

    Raises:
        ConfigError: The key is too short, or an origin is none.
    """

    def __init__(self, key: bytes, *, origins: Sequence[str], now: Callable[[], float] = time.time) -> None:
        _require_key(key)
        self._key: Final = key
        self.origins: Final = tuple(origins)
        self._now: Final = now
        if not self.origins:
            raise ConfigError("origins", "name the sites that may frame it, such as https://app.example.com")
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError("origins", f"{origin[:100]!a} is no origin, such as https://app.example.com")

    def __repr__(self) -> str:
        return f"<EmbedLinks for {', '.join(self.origins)}>"  # never the key

    def person_of(self, ticket: str) -> Person:
        """Return who looks with a ticket.

        Raises:
            LinkRefused: It is expired or altered.
        """
        match = _TICKET.fullmatch(ticket) if len(ticket) <= _LONGEST_TICKET else None
        payload, mac = (_decoded(match[1]), _decoded(match[2])) if match is not None else (b"", b"")
        if not hmac.compare_digest(mac, _mac(self._key, payload)):
            raise LinkRefused("this link is not one that the application has made")
        said = msgspec.json.decode(payload, type=_Payload)  # which was made by `embed_link`, since it is authentic
        if self._now() >= said.until or said.until > self._now() + _LONGEST_S:
            raise LinkRefused("this link has expired; load the page around it again")
        return Person(name=said.name, role="reader", tenant=said.tenant, is_embed=True)


def _require_key(key: bytes) -> None:
    if len(key) < _SHORTEST_KEY:
        raise ConfigError("embed key", f"must have at least {_SHORTEST_KEY} random bytes: openssl rand -hex 32")


def _mac(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, _PURPOSE + payload, "sha256")


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    """Return the bytes of a text in base64url; empty for what nothing encodes, such as one with unused bits set."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (NotBase64, ValueError):
        return b""
    return data if _encoded(data) == text else b""
