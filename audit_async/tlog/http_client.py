"""One HTTP request at a time, bounded in time and size; what witnesses, published logs and sign-ins need, no more.

The standard library's client: a log asks its witnesses once a minute, so neither a pool nor a further dependency would
earn its place. Blocking, for a worker thread. No redirects are followed, no proxies used, no credentials sent but those
in the headers of the caller.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import SHUT_RDWR, socket
from threading import Event, Timer
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from audit_async._version import __version__
from audit_async.config.wording import shown_url
from audit_async.tlog.failures import Malformed, SourceFailed

_CHUNK: Final = 1 << 16
_AGENT: Final = f"audit-async/{__version__}"


class Response(NamedTuple):
    """What a server answered."""

    status: int
    content_type: str
    body: bytes


class Endpoint(NamedTuple):
    """A URL prefix."""

    secure: bool
    host: str
    port: int | None
    path: str  #: without a slash at its end

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Return the parts of a prefix; raises `Malformed` for what is no plain http or https URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Malformed("URL", f"{shown_url(url)} is none") from None
        host = parts.hostname
        if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment or "@" in parts.netloc:
            raise Malformed("URL", f"{shown_url(url)} is no http or https URL without user, query and fragment")
        if not (url.isascii() and url.isprintable()) or " " in url:
            raise Malformed("URL", f"{shown_url(url)} holds characters that a URL writes as %XX")
        return cls(parts.scheme == "https", host, port, parts.path.rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"http{'s' if self.secure else ''}://{host}{port}{self.path}"


def request(
    endpoint: Endpoint,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float,
    max_bytes: int,
) -> Response:
    """GET `path` below the endpoint, or POST `body` to it.

    Args:
        endpoint: The URL prefix.
        path: What follows it.
        body: What to send; None asks for a file.
        headers: Further headers, or others than its own.
        timeout_s: Time for all of it, so that a server that sends a byte a second is given up, too.
        max_bytes: A longer answer is refused.

    Raises:
        SourceFailed: There was no whole answer.
    """
    what = f"{endpoint}/{path}"
    make = HTTPSConnection if endpoint.secure else HTTPConnection
    connection = make(endpoint.host, endpoint.port, timeout=timeout_s)
    too_late = SourceFailed(f"{what}: no whole answer within {timeout_s:g} s")
    expired = Event()
    sockets: list[socket] = []  # the connection forgets its own once the headers are read

    def give_up() -> None:
        expired.set()
        for opened in sockets:
            with suppress(OSError):  # it is closed already
                opened.shutdown(SHUT_RDWR)

    # A socket's timeout begins again with each byte, and reading the headers makes as many calls as the server likes.
    watchdog = Timer(timeout_s, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        connection.connect()
        sockets.append(connection.sock)
        if expired.is_set():
            raise too_late
        sent = {"User-Agent": _AGENT, "Accept-Encoding": "identity", "Connection": "close"}
        if body is not None:
            sent["Content-Type"] = "text/plain; charset=utf-8"
        sent |= headers or {}
        connection.request("GET" if body is None else "POST", f"{endpoint.path}/{path}", body, sent)
        with closing(connection.getresponse()) as answer:
            content = _read(answer, what, max_bytes=max_bytes)
            if expired.is_set():  # an answer without a length seems to be whole when its connection ends
                raise too_late
            return Response(answer.status, answer.getheader("Content-Type", ""), content)
    except TimeoutError:
        raise too_late from None
    except (SourceFailed, OSError, ssl.SSLError, HTTPException, ValueError) as error:
        if expired.is_set():
            raise too_late from error
        if isinstance(error, SourceFailed):
            raise
        raise SourceFailed(f"{what}: {type(error).__name__}: {str(error)[:200]}") from error
    finally:
        watchdog.cancel()
        connection.close()


def _read(answer: HTTPResponse, what: str, *, max_bytes: int) -> bytes:
    if answer.getheader("Content-Encoding", "identity") != "identity":
        raise SourceFailed(f"{what}: the answer is compressed, which was not asked for")
    chunks, received = [], 0
    while chunk := answer.read1(_CHUNK):
        chunks.append(chunk)
        received += len(chunk)
        if received > max_bytes:
            raise SourceFailed(f"{what}: the answer is longer than {max_bytes} bytes")
    if answer.length:
        raise SourceFailed(f"{what}: the answer was cut off")
    return b"".join(chunks)
