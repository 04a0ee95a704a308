"""What a NATS engine depends on, looked at one by one: servers, streams, accounts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field

from audit_async.forwarding.batches import MAX_BATCH_BYTES
from audit_async.forwarding.engine_admin import CheckedSetting
from audit_async.forwarding.nats_sink import HEADER_BYTES
from audit_async.forwarding.nats_streams import Stream

__all__ = ["OLDEST_SERVER", "Replicas", "ServerAnswer", "StreamDescription", "check_servers", "check_stream"]

OLDEST_SERVER: Final = (2, 11)
_LEAST_PAYLOAD: Final = MAX_BATCH_BYTES + HEADER_BYTES
_INIT: Final = "audit-async engine init"


class _JetStreamConfig(Struct, frozen=True):
    sync_always: bool = False


class _JetStream(Struct, frozen=True):
    config: _JetStreamConfig | None = None


class _ClusterOfServer(Struct, frozen=True):
    name: str = ""
    tls_required: bool = False
    addr: str = ""


class _Variables(Struct, frozen=True):
    server_name: str = ""
    version: str = ""
    host: str = ""
    max_payload: int = 0
    auth_required: bool = False
    tls_required: bool = False
    jetstream: _JetStream = field(default_factory=_JetStream)
    cluster: _ClusterOfServer = field(default_factory=_ClusterOfServer)


class ServerAnswer(Struct, frozen=True):
    """What a server says of itself, asked through the system account."""

    data: _Variables


class _Replica(Struct, frozen=True):
    name: str
    current: bool = False
    offline: bool = False


class Replicas(Struct, frozen=True):
    """Where a stream is."""

    leader: str = ""
    replicas: list[_Replica] = []


class StreamDescription(Struct, frozen=True):
    """A stream as its leader describes it."""

    config: dict[str, object]
    cluster: Replicas = field(default_factory=Replicas)


def check_servers(answers: list[ServerAnswer], servers: int) -> list[CheckedSetting]:
    """Look at how the servers are configured, which their system account alone can see."""
    found = [
        CheckedSetting(
            name="servers", verdict="ok" if len(answers) >= servers else "wrong", found=f"{len(answers)} answer",
            wanted=f"{servers} or more", fix="start those that are missing; the rest serves on meanwhile",
        )
    ]  # fmt: skip
    for answer in answers:
        found += _check_server(answer.data)
    return found


def _check_server(server: _Variables) -> list[CheckedSetting]:
    config = server.jetstream.config

    def looked(name: str, found: str, wanted: str, fix: str, *, ok: bool) -> CheckedSetting:
        return CheckedSetting(
            name=f"{server.server_name}: {name}", verdict="ok" if ok else "wrong", found=found, wanted=wanted, fix=fix
        )

    oldest = ".".join(map(str, OLDEST_SERVER))
    checked = [
        looked(
            "version", server.version, f"{oldest} or later", "update nats-server",
            ok=tuple(map(int, re.findall(r"\d+", server.version)[:2])) >= OLDEST_SERVER,
        ),
        looked(
            "sync_interval", "always" if config is not None and config.sync_always else "an interval", "always",
            "jetstream { sync_interval: always }: a batch is acknowledged before it is on a disk",
            ok=config is not None and config.sync_always,
        ),
        looked(
            "max_payload", f"{server.max_payload:,}", f"{_LEAST_PAYLOAD:,} or more", "max_payload: 1MB",
            ok=server.max_payload >= _LEAST_PAYLOAD,
        ),
        looked(
            "accounts", "required" if server.auth_required else "anybody may connect", "required",
            "accounts { include … }", ok=server.auth_required,
        ),
        looked(
            "tls", "required" if server.tls_required else "none", "required, unless it listens on loopback only",
            "tls { cert_file: …, key_file: … }", ok=server.tls_required or _is_loopback(server.host),
        ),
    ]  # fmt: skip
    if server.cluster.name:
        own = server.cluster
        checked.append(
            looked(
                "cluster tls", "required" if own.tls_required else "none",
                "required, unless it listens on loopback only", "cluster { tls { … } }",
                ok=own.tls_required or _is_loopback(own.addr),
            )
        )  # fmt: skip
    return checked


def check_stream(wanted: Stream, found: StreamDescription | None, replicas: int) -> list[CheckedSetting]:
    """Look at a stream's settings, and at whether all its replicas have what its leader has."""
    if found is None:
        return [
            CheckedSetting(name=f"stream {wanted.name}", verdict="wrong", found="missing", wanted="there", fix=_INIT)
        ]
    checked = []
    for name, setting in wanted.settings.items():
        value = found.config.get(name)
        ok = setting.fits(value)
        checked.append(
            CheckedSetting(
                name=f"{wanted.name}: {name}", verdict="ok" if ok else "wrong", found=_shown(value),
                wanted=setting.wanted, fix="" if ok else f"{_INIT}; otherwise: {setting.why}",
            )
        )  # fmt: skip
    checked.append(_check_size(wanted, found.config))
    if replicas > 1:
        late = [one.name for one in found.cluster.replicas if one.offline or not one.current]
        count = len(found.cluster.replicas) + bool(found.cluster.leader)
        ok = bool(found.cluster.leader) and not late and count >= replicas
        checked.append(
            CheckedSetting(
                name=f"{wanted.name}: replicas", verdict="ok" if ok else "wrong",
                found=f"{count}, leader {found.cluster.leader or 'none'}, late or offline: {', '.join(late) or 'none'}",
                wanted=f"{replicas}, all current", fix="" if ok else "start the servers that are missing, and wait",
            )
        )  # fmt: skip
    return checked


def _check_size(wanted: Stream, config: Mapping[str, object]) -> CheckedSetting:
    size = config.get("max_bytes")
    bounded = isinstance(size, int) and size > 0
    return CheckedSetting(
        name=f"{wanted.name}: max_bytes", verdict="ok" if bounded else "note",
        found=_shown(size), wanted="a share of the servers' disks",
        fix="" if bounded else f"nats stream edit {wanted.name} --max-bytes=…: it can fill the disks of all tenants",
    )  # fmt: skip


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0] if address.count(":") == 1 else address
    return host.strip("[]") in {"127.0.0.1", "::1", "localhost"}


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unlimited" if value == -1 else str(value)
