"""What an operator does with an engine: preparing it, checking it, and giving rights to hosts and collectors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from audit_async.config.forward_settings import has_password
from audit_async.errors import ConfigError
from audit_async.forwarding.identities import LogIdentity

__all__ = [
    "CheckedSetting",
    "ConfirmedSeq",
    "Engine",
    "Granted",
    "Kind",
    "Limits",
    "Trimmed",
    "has_password",
    "open_engine",
]

Kind = Literal["host", "collector"]

#: Returns up to which record a log's confirmation is believed, None if not at all: forged, expired, of another log.
ConfirmedSeq = Callable[[LogIdentity, bytes], Awaitable[int | None]]


class CheckedSetting(Struct, frozen=True, kw_only=True):
    """One thing that was looked at, and how it is."""

    name: str  #: what an operator can search for
    verdict: Literal["ok", "note", "wrong"]
    found: str
    wanted: str
    fix: str = ""  #: what corrects it


class Limits(Struct, frozen=True, kw_only=True):
    """How much of an engine one host may take, so that it can't fill it for all.

    Args:
        max_bytes_per_day: bytes of records in a UTC day.
        max_logs: logs, each service and slot of the host being one, and each new log of a service.
    """

    max_bytes_per_day: int = 100_000_000_000
    max_logs: int = 1000

    def __post_init__(self) -> None:
        for name in ("max_bytes_per_day", "max_logs"):
            if getattr(self, name) < 1:
                raise ConfigError(name, "must be at least 1")


class Granted(Struct, frozen=True, kw_only=True):
    """The rights of a host or a collector, and how it gets to the engine."""

    name: str
    kind: Kind
    account: str
    url: str  #: names the file with the secret, and not the secret
    files: list[str]  #: what was written, readable by its owner only
    next_step: str = ""  #: what a person has to do before the rights are in force


class Trimmed(Struct, frozen=True, kw_only=True):
    """A day of the engine, and whether it was dropped."""

    day: str
    batches: int
    dropped: bool
    reason: str  #: why not; empty if it was dropped, or would be


class Engine(Protocol):
    """An engine, as its administrator sees it."""

    async def init(self) -> list[str]:
        """Make what is missing and correct what is wrong; return what was done. May be called again."""
        ...

    async def check(self) -> list[CheckedSetting]:
        """Look at everything that a trail depends on; nothing is changed."""
        ...

    async def grant(self, name: str, *, kind: Kind, secret_file: Path, limits: Limits) -> Granted:
        """Give a host the rights to its own logs, or a collector those to read; called again, it makes a new secret."""
        ...

    async def revoke(self, name: str, *, kind: Kind) -> list[str]:
        """Take the rights away at once; return what was done. What was stored stays."""
        ...

    async def trim(self, *, keep_days: int, confirmed: ConfirmedSeq, dry_run: bool) -> list[Trimmed]:
        """Drop days that are older, if all of each was confirmed."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def open_engine(url: str, *, tenant: str) -> Engine:
    """Return the engine that a URL names, of a tenant; nothing is connected yet.

    Raises:
        ConfigError: there is no such engine, the extra that it needs is missing, or the URL is wrong.
    """
    if url.startswith(("postgres://", "postgresql://")):
        try:
            from audit_async.forwarding.postgres_engine import PostgresEngine  # noqa: PLC0415 - needs psycopg
        except ImportError:
            raise ConfigError(
                "engine", "PostgreSQL needs the extra postgres; install it with: pip install 'audit-async[postgres]'"
            ) from None
        return PostgresEngine(url, tenant=tenant)
    if url.startswith("nats://"):
        try:
            from audit_async.forwarding.nats_engine import NatsEngine  # noqa: PLC0415 - needs nats-py
        except ImportError:
            raise ConfigError(
                "engine", "NATS needs the extra nats; install it with: pip install 'audit-async[nats]'"
            ) from None
        return NatsEngine(url, tenant=tenant)
    raise ConfigError(
        "engine",
        "name the engine by its URL, such as postgres://audit-admin@db.example/audit or "
        "nats://n1.example:4222?nkey=FILE&accounts=FILE",
    )
