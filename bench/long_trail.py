"""Trails of any length for the benchmarks, valid from end to end: ten million records in a minute.

The files are written next to the writer, not through it: framed and chained by `_chain`, with the names, checksums and
manifest that the store gives them, but never synced, since a benchmark's trail need not survive a power cut. Every
segment but the first begins with the record of the seal of the one before, as the writer's do.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from audit_async import ActorInfo, AuthMethod, ResourceInfo
from audit_async._chain import FORMAT_VERSION, START, Batch, Entry, Framer
from audit_async._layout.log_identity import Identity
from audit_async._layout.manifest import ManifestFile, SealedSegment
from audit_async._layout.names import CHECKSUM, LOCK_FILE, LOG_FILE, MANIFEST_FILE, SegmentName
from audit_async._store.active_segment import timestamp_of
from audit_async.events import (
    AuditEvent,
    AuditLogClosed,
    AuditLogOpened,
    AuditSegmentSealed,
    AuthFailure,
    AuthorizationDenied,
    AuthorizationGranted,
    HttpRequest,
)
from audit_async.events.base import encode

#: A day with all records of a trail in it: rotation by date is another subject.
_START_NS: Final = 1_795_305_600 * 10**9  # 2026-11-22T00:00:00Z
_DAY_NS: Final = 86_400 * 10**9
_BATCH: Final = 1_000
#: What stands for an actor, a resource and an address in the encoded events.
_ACTOR, _RESOURCE, _IP = "user-@@@@@@@", "order-@@@@@@@@", "198.51.100.255"


class Shape(NamedTuple):
    """How long a trail is, and of whom it speaks."""

    records: int  #: of the service; those of the library's own are few, and are counted besides
    segments: int
    actors: int = 200_000
    resources: int = 1_000_000
    #: This actor has exactly `rare_hits` records, evenly spread.
    rare_actor: str = "user-eve@example.org"
    rare_hits: int = 100


class Written(NamedTuple):
    """A trail that was written."""

    directory: Path  #: the log's
    records: int
    bytes: int
    segments: int


def write_log(base_dir: Path, shape: Shape, *, service: str = "bench", instance: str = "00") -> Written:
    """Write one log that was closed in order; its last segment is not sealed."""
    return _LogWriter(base_dir / service / instance, service, instance).write(shape)


def write_logs(base_dir: Path, count: int, *, instances: int = 4, records: int = 20) -> list[Written]:
    """Write small logs of many services, `instances` of each; each has one sealed segment."""
    shape = Shape(records, segments=2, actors=1000, resources=1000, rare_hits=0)
    return [
        write_log(base_dir, shape, service=f"svc-{number // instances:05d}", instance=f"{number % instances:02d}")
        for number in range(count)
    ]


class _LogWriter:
    """Writes one log from its beginning to its end."""

    def __init__(self, directory: Path, service: str, instance: str) -> None:
        for made in (directory.parent, directory):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        log_id = sha256(str(directory).encode()).hexdigest()[:32]
        identity = Identity(FORMAT_VERSION, log_id, service, "2026-11-22T00:00:00.000000Z", instance)
        self._log_id = log_id
        _write(directory / LOG_FILE, msgspec.json.encode(identity) + b"\n")
        _write(directory / LOCK_FILE, b"")
        self._framer = Framer(START, audit_prefix=log_id[:16], service_id=service)
        self._number = 0
        self._sealed: list[SealedSegment] = []
        self._bytes = 0

    def write(self, shape: Shape) -> Written:
        """Write all of it."""
        events = _events(shape)
        step_ns = _DAY_NS // (shape.records + 2 * shape.segments + 2)
        for segment in range(shape.segments):
            count = shape.records * (segment + 1) // shape.segments - shape.records * segment // shape.segments
            is_last = segment == shape.segments - 1
            self._write_segment(events, count, step_ns, is_last=is_last)
        manifest = ManifestFile(format_version=FORMAT_VERSION, log_id=self._log_id, segments=tuple(self._sealed))
        _write(self._directory / MANIFEST_FILE, manifest.encode())
        return Written(self._directory, self._framer.head.seq + 1, self._bytes, shape.segments)

    def _write_segment(self, events: Iterator[bytes], count: int, step_ns: int, *, is_last: bool) -> None:
        before = self._framer.head
        name = SegmentName(before.seq + 1, "2026-11-22")
        path = self._directory / str(name)
        digest, size = sha256(), 0
        first: bytes | None = None
        last = b""
        own: list[bytes] = [encode(self._sealing() or _OPENED)]
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0) as file:
            while own or count:
                wanted = min(_BATCH, count)
                count -= wanted
                batch = Batch(self._framer.head)
                bodies = [*own, *(next(events) for _ in range(wanted))]
                own.clear()
                if is_last and not count:
                    bodies.append(encode(AuditLogClosed()))
                self._framer.frame(self._entries(bodies, step_ns), batch)
                data = b"".join(batch.lines)
                file.write(data)
                digest.update(data)
                size += len(data)
                first, last = first or batch.lines[0], batch.lines[-1]
        assert first is not None
        self._bytes += size
        if is_last:
            return
        entry = SealedSegment(
            segment=str(name),
            first_seq=name.first_seq,
            last_seq=self._framer.head.seq,
            first_timestamp=timestamp_of(first),
            last_timestamp=timestamp_of(last),
            records=self._framer.head.seq - before.seq,
            bytes=size,
            sha256=digest.hexdigest(),
            prev_hash=before.hash.decode(),
            hash=self._framer.head.hash.decode(),
            recorded=True,
        )
        path.chmod(0o400)
        _write(path.with_name(str(name) + CHECKSUM), f"{entry.sha256}  {name}\n".encode(), mode=0o400)
        self._sealed.append(entry)

    def _entries(self, bodies: list[bytes], step_ns: int) -> list[Entry]:
        number = self._number
        self._number += len(bodies)
        return [Entry(n, _START_NS + n * step_ns, body) for n, body in enumerate(bodies, number)]

    def _sealing(self) -> AuditEvent | None:
        if not self._sealed:
            return None
        sealed = self._sealed[-1]
        return AuditSegmentSealed(
            segment=sealed.segment,
            first_seq=sealed.first_seq,
            last_seq=sealed.last_seq,
            records=sealed.records,
            bytes=sealed.bytes,
            sha256=sealed.sha256,
            holds=[],
        )


_OPENED: Final = AuditLogOpened(
    library_version="0", format_version=FORMAT_VERSION, host="bench", pid=1, flush_mode="immediate", holds=[]
)


def _write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def _templates() -> list[bytes]:
    """Return encoded events in which `%b` is for an actor, a resource and an address, in that order, each once."""
    actor = ActorInfo(user_id=_ACTOR, auth_method=AuthMethod.BEARER_TOKEN)
    resource = ResourceInfo(resource_type="order", resource_id=_RESOURCE)
    path = f"/orders/{_RESOURCE}"
    request = HttpRequest(
        actor=actor,
        method="GET",
        path=path,
        route="/orders/{order_id}",
        status=200,
        duration_ms=12,
        bytes_in=0,
        bytes_out=1830,
        ip=_IP,
    )
    events: list[AuditEvent] = [
        request,
        msgspec.structs.replace(request, method="POST", status=201, bytes_out=211),
        msgspec.structs.replace(request, status=404, bytes_out=48),
        AuthorizationGranted(actor=msgspec.structs.replace(actor, ip=_IP), resource=resource, action="update"),
        AuthorizationDenied(
            actor=msgspec.structs.replace(actor, ip=_IP), resource=resource, action="delete", reason="not the owner"
        ),
        AuthFailure(attempted_user=_ACTOR, reason="bad_password", path=path, ip=_IP),
    ]
    return [encode(event).replace(b"%", b"%%") for event in events]


def _events(shape: Shape) -> Iterator[bytes]:
    """Yield encoded events, the same ones for the same shape: few actors and resources are in most of them."""
    draw = random.Random(shape.records).random  # noqa: S311 - a benchmark's, and the same in each run
    kinds = [_pieces(template) for template in _templates()]
    # Most are requests, as in a service's trail.
    kinds = [kinds[0]] * 10 + [kinds[1]] * 4 + [kinds[2]] + [kinds[3]] * 3 + [kinds[4], kinds[5]]
    actors, resources, number_of_kinds = shape.actors, shape.resources, len(kinds)
    rare_every = shape.records // shape.rare_hits if shape.rare_hits else 0
    rare = shape.rare_actor.encode()
    for number in range(shape.records):
        one, two = draw(), draw()
        if rare_every and number % rare_every == rare_every // 2 and number // rare_every < shape.rare_hits:
            actor = rare
        else:
            actor = b"user-%07d" % int(actors * one * one * one)
        values = {
            _ACTOR: actor,
            _RESOURCE: b"order-%08d" % int(resources * two * two),
            _IP: b"198.51.%d.%d" % (int(one * 251), int(two * 251)),
        }
        text, order = kinds[int(number_of_kinds * draw())]
        yield text % tuple([values[name] for name in order])


def _pieces(encoded: bytes) -> tuple[bytes, list[str]]:
    """Return an encoded event with `%b` for each placeholder, and the placeholders in the order of the text."""
    found = sorted(
        (at, name)
        for name in (_ACTOR, _RESOURCE, _IP)
        for at in range(len(encoded))
        if encoded.startswith(name.encode(), at)
    )
    for name in (_ACTOR, _RESOURCE, _IP):
        encoded = encoded.replace(name.encode(), b"%b")
    return encoded, [name for _, name in found]
