"""Records as syslog messages: over TLS, TCP, UDP, or a datagram socket of this machine.

Syslog has no acknowledgement: what was written to a connection may be lost in its buffers, or in the receiver's. So a
stream that breaks counts as a break, after which the deliveries go back by `overlap_s`; and one that is closed in order
was read to its end, since the receiver closes its side only after that. A peer that vanishes without a word is noticed
by the system after `_PEER_GONE_S`. Over UDP and unix sockets nothing is ever known.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Sequence
from typing import Final

import anyio.to_thread

from audit_async.delivery.deliver_settings import SyslogSettings, split_url
from audit_async.delivery.deliverable_record import EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.delivery.syslog_messages import counted, syslog_message
from audit_async.delivery.tls_files import tls_context
from audit_async.errors import ConfigError

__all__ = ["DatagramSyslogSink", "StreamSyslogSink", "syslog_sink"]

#: After so long without a word from the peer about bytes that were sent, the connection is broken; less than the
#: overlap, which has to cover what was sent meanwhile.
_PEER_GONE_S: Final = 20
#: How long the end waits for the receiver to have read everything, in seconds.
_CLOSE_S: Final = 10.0
_TOO_LARGE: Final = frozenset({errno.EMSGSIZE})


def syslog_sink(settings: SyslogSettings) -> StreamSyslogSink | DatagramSyslogSink:
    """Return the sink for a URL's scheme."""
    datagrams = settings.url.startswith(("udp:", "unix:"))
    return DatagramSyslogSink(settings) if datagrams else StreamSyslogSink(settings)


class _Stream(asyncio.Protocol):
    """One connection; it says when it ends, also while nothing is sent."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.ended: Final = asyncio.Event()
        self.error: Exception | None = None
        self._writable: Final = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - that of a stream
        self.transport = transport
        # Not 0: asyncio's TLS pauses at the limit, at 0 also if nothing waits, and resumes when the peer next speaks.
        transport.set_write_buffer_limits(high=1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.ended.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def write(self, data: bytes) -> None:
        """Return once the system has taken everything; raises `ConnectionError` if the connection has ended."""
        assert self.transport is not None  # noqa: S101 - connected
        if not self.ended.is_set():
            self.transport.write(data)
            await self._writable.wait()
        if self.ended.is_set():
            raise ConnectionResetError


class StreamSyslogSink:
    """A receiver over TLS or TCP. For one event loop of asyncio.

    Args:
        settings: The sink's.
    """

    def __init__(self, settings: SyslogSettings) -> None:
        self._settings: Final = settings
        self._url: Final = split_url(settings.url, "url")
        self._stream: _Stream | None = None
        self._lock: Final = asyncio.Lock()
        self._broken = 0
        self._was_used = False
        self._rejection: SendResult | None = None  # why the receiver ended the last connection, if it is a person's

    def __repr__(self) -> str:
        return f"<StreamSyslogSink {self._settings.name} {'open' if self._stream is not None else 'closed'}>"

    @property
    def overlap_s(self) -> float:
        """How long after it was sent something may still be lost."""
        return self._settings.overlap_s

    @property
    def breaks(self) -> int:
        """How often a connection broke on which something had been sent."""
        self._notice_end()
        return self._broken

    def _notice_end(self) -> None:
        if self._stream is not None and self._stream.ended.is_set():
            self._rejection = _rejection(self._stream.error)
            self._stream = None
            self._broken += self._was_used
            self._was_used = False

    async def send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        """Write messages to the connection, which is made if there is none."""
        data = b"".join(counted(syslog_message(encoded, self._settings.facility)) for encoded in batch)
        async with self._lock:
            before = self.breaks
            rejection, self._rejection = self._rejection, None
            if rejection is not None:  # once; then it is tried whether the receiver takes the certificate now
                return rejection
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    if self._stream is None:
                        self._stream = await self._connect()
                    self._was_used = True
                    await self._stream.write(data)
            except ConfigError as error:
                return SendResult(outcome=Outcome.MISCONFIGURED, reason=str(error))
            except ssl.SSLCertVerificationError:
                return SendResult(
                    outcome=Outcome.MISCONFIGURED,
                    reason="the receiver's certificate is not valid for its name, or not signed by one in ca_file",
                )
            except (OSError, TimeoutError) as error:
                self._notice_end()
                self._abort()
                rejection, self._rejection = self._rejection, None
                if rejection is not None:
                    return rejection
                return SendResult(outcome=Outcome.RETRY, reason=f"the connection broke: {type(error).__name__}")
        if self.breaks != before:
            return SendResult(outcome=Outcome.RETRY, reason="the connection broke")
        return SendResult(outcome=Outcome.ACCEPTED)

    def _abort(self) -> None:
        if self._stream is not None:
            if self._stream.transport is not None:
                self._stream.transport.abort()
            self._stream = None
            self._broken += self._was_used
        self._was_used = False

    async def _connect(self) -> _Stream:
        encrypted = self._url.scheme == "tls"
        context = await anyio.to_thread.run_sync(tls_context, self._settings) if encrypted else None
        port = self._url.port or (6514 if encrypted else 514)
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(_Stream, self._url.hostname or "", port, ssl=context)
        assert stream.transport is not None  # noqa: S101 - connected
        end = stream.transport.get_extra_info("socket")
        if end is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PEER_GONE_S * 1000)
        return stream

    async def finish(self) -> bool:
        """Close the connection in order; return whether the receiver has read everything, as far as can be known."""
        async with self._lock:
            self._notice_end()
            stream, self._stream = self._stream, None
            if stream is None or stream.transport is None:
                return not self._was_used and not self._broken
            if stream.transport.can_write_eof():
                stream.transport.write_eof()  # the receiver answers with its own end once it has read everything
            else:
                stream.transport.close()  # TLS: the transport waits for the receiver's end
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await stream.ended.wait()
            except TimeoutError:
                stream.transport.abort()
                return False
            return stream.error is None


def _rejection(error: Exception | None) -> SendResult | None:
    """Return what follows if it is TLS that ended a connection: the receiver does not take this client's certificate.

    With TLS 1.3 it says so only after the connection is made, when something may have been written already.
    """
    if not isinstance(error, ssl.SSLError):
        return None
    return SendResult(
        outcome=Outcome.UNAUTHORIZED,
        reason=f"the receiver ended the connection: {error.reason or 'TLS failed'}; check client_cert",
    )


class DatagramSyslogSink:
    """A receiver over UDP or a unix socket, which confirms nothing and may drop anything.

    Args:
        settings: The sink's.
    """

    overlap_s: Final = 0.0
    breaks: Final = 0

    def __init__(self, settings: SyslogSettings) -> None:
        self._settings: Final = settings
        self._url: Final = split_url(settings.url, "url")
        self._socket: socket.socket | None = None

    def __repr__(self) -> str:
        return f"<DatagramSyslogSink {self._settings.name} {'open' if self._socket is not None else 'closed'}>"

    async def send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        """Send a datagram for each record; one that is too large for that is refused."""
        return await anyio.to_thread.run_sync(self._send, batch)

    def _send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        refused = {}
        try:
            connected = self._socket = self._socket or self._connect()
            for index, encoded in enumerate(batch):
                try:
                    connected.send(syslog_message(encoded, self._settings.facility))
                except OSError as error:
                    if error.errno not in _TOO_LARGE:
                        raise
                    refused[index] = "the record is too large for a datagram"
        except OSError as error:
            self._close()
            return SendResult(outcome=Outcome.RETRY, reason=f"the receiver does not take datagrams: {error.strerror}")
        return SendResult(outcome=Outcome.ACCEPTED, refused=refused)

    def _connect(self) -> socket.socket:
        if self._url.scheme == "unix":
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            address: object = self._url.path
        else:
            host, port = self._url.hostname or "", self._url.port or 514
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            made = socket.socket(family, kind, protocol)
        made.settimeout(self._settings.timeout_s)
        with contextlib.ExitStack() as on_error:
            on_error.callback(made.close)
            made.connect(address)  # type: ignore[arg-type]  # what getaddrinfo gives, or a path
            on_error.pop_all()
        return made

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def finish(self) -> bool:
        """Close the socket."""
        self._close()
        return True
