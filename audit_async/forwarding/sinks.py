"""Opening the sink that a URL names."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final
from urllib.parse import unquote, urlsplit

from audit_async.errors import ConfigError
from audit_async.forwarding.directory_sink import DirectorySink
from audit_async.forwarding.sink import Sink

__all__ = ["open_sink"]

# Imported when they are asked for, since each needs an extra: the engine, the extra, the module and its sink.
_POSTGRES: Final = ("PostgreSQL", "postgres", "audit_async.forwarding.postgres_sink", "PostgresSink")
_NATS: Final = ("NATS", "nats", "audit_async.forwarding.nats_sink", "NatsSink")
_ENGINES: Final = {"postgres": _POSTGRES, "postgresql": _POSTGRES, "nats": _NATS, "tls": _NATS}
_DIRECTORY: Final = "name a directory by its absolute path, such as file:///media/audit"
_EXAMPLES: Final = "postgres://ROLE@HOST/DATABASE?passfile=FILE, nats://HOST:4222?nkey=FILE or file:///media/audit"


def open_sink(url: str, *, tenant: str) -> Sink:
    """Return the engine that a URL names, for a host or a collector of a tenant; nothing is connected yet.

    Args:
        url: `postgres://…` (needs the extra `postgres`), `nats://…` (needs the extra `nats`), or `file:///PATH` for a
            directory that `DirectorySink.prepare` has marked.
        tenant: the tenant whose logs are meant.

    Raises:
        ConfigError: there is no such engine, the extra that it needs is missing, or the URL is wrong. The message
            does not repeat the URL, which may hold a secret.
    """
    scheme = url.partition("://")[0].lower()
    if scheme in _ENGINES:
        engine, extra, module, name = _ENGINES[scheme]
        try:
            sink: Callable[..., Sink] = getattr(import_module(module), name)
        except ImportError:
            needed = f"{engine} needs the extra {extra}: pip install 'audit-async[{extra}]'"
            raise ConfigError("engine", needed) from None
        return sink(url, tenant=tenant)
    if scheme == "file":
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ConfigError("engine", _DIRECTORY) from None
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/") or parts.query or parts.fragment:
            raise ConfigError("engine", _DIRECTORY)
        return DirectorySink(unquote(parts.path), tenant=tenant)
    raise ConfigError("engine", f"name the engine by its URL, such as {_EXAMPLES}")
