"""Requests to machines that nobody here answers for: bounded in time and size, and never half an answer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest

from audit_async.tlog.failures import Malformed, SourceFailed
from audit_async.tlog.http_client import Endpoint, Response, request

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """Run a server that answers one request, whatever it is, in this way."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        thread = Thread(target=serve)
        thread.start()
        try:
            yield Endpoint.parse(f"http://127.0.0.1:{server.getsockname()[1]}/log/")
        finally:
            thread.join()


def get(endpoint: Endpoint, *, timeout_s: float = 60.0) -> Response:
    """Fetch one file."""
    return request(endpoint, "checkpoint", timeout_s=timeout_s, max_bytes=1000)


def test_a_whole_answer() -> None:
    """Status, type and body come back, with and without a length."""
    with answering(lambda connection: connection.sendall(HEAD + b"Content-Length: 5\r\n\r\nhello")) as endpoint:
        assert get(endpoint) == Response(200, "text/plain", b"hello")
    with answering(lambda connection: connection.sendall(HEAD + b"\r\nhello")) as endpoint:
        assert get(endpoint) == Response(200, "text/plain", b"hello")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HEAD + b"Content-Length: 50\r\n\r\nhello", "cut off|IncompleteRead"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "IncompleteRead"),
        (HEAD + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000, "longer than 1000 bytes"),
        (HEAD + b"\r\n" + b"x" * 2000, "longer than 1000 bytes"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", "compressed"),
        (b"nonsense\r\n\r\n", "BadStatusLine"),
        (b"", "RemoteDisconnected"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", "HTTPException"),
    ],
)
def test_what_is_no_answer(answer: bytes, reason: str) -> None:
    """Half an answer, too long a one, or none at all is an error that names the URL."""
    with (
        answering(lambda connection: connection.sendall(answer)) as endpoint,
        pytest.raises(SourceFailed, match=f"^http://127.0.0.1:[0-9]*/log/checkpoint: .*({reason})"),
    ):
        get(endpoint)


def test_a_server_that_says_nothing() -> None:
    """It is given up after the time that it was given."""
    end = Event()

    def hang(_: socket.socket) -> None:
        end.wait(60)

    with answering(hang) as endpoint:
        try:
            with pytest.raises(SourceFailed, match=r"no whole answer within 0\.2 s"):
                get(endpoint, timeout_s=0.2)
        finally:
            end.set()


@pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 200 OK\r\nX: ", HEAD + b"\r\n", HEAD + b"Content-Length: 999\r\n\r\n"]
)
def test_a_server_that_sends_a_byte_now_and_then(begin: bytes) -> None:
    """The time is for the whole answer, headers included: one that never quite stops is given up as well."""
    end = Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(begin)
        for _ in range(400):  # 20 s
            if end.wait(0.05):
                break
            connection.sendall(b"x")

    with answering(drip) as endpoint:
        try:
            with pytest.raises(SourceFailed, match=r"no whole answer within 0\.5 s"):
                get(endpoint, timeout_s=0.5)
        finally:
            end.set()


def test_addresses() -> None:
    """A prefix is http or https, a host, perhaps a port and a path; nothing that could carry a secret."""
    assert str(Endpoint.parse("https://witness.example/a/b/")) == "https://witness.example/a/b"
    assert Endpoint.parse("http://[::1]:80") == Endpoint(secure=False, host="::1", port=80, path="")
    assert str(Endpoint.parse("http://[::1]:80")) == "http://[::1]:80"
    for wrong in ("", "witness.example", "ftp://a", "http://", "http://a:b", "http://u:p@a", "http://a?q", "http://a#f",
                  "http://a/ b", "http://a/\u00fc", "http://[::1"):  # fmt: skip
        with pytest.raises(Malformed, match="URL"):
            Endpoint.parse(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        "https://me:hunter2@a/b",
        "https://me:hunter2@a/b?next=https://b",
        "https://me:hunter2://x@a/b",
        "https://hun@ter2:hunter2@a/b",
        "https://a/b?key=hunter2",
        "https://a/b#hunter2",
        "//me:hunter2@a/b",
        "me:hunter2@a/b",
        "https://me:hunter2@[::1",
    ],
)
def test_what_a_wrong_address_carries_is_not_repeated(wrong: str) -> None:
    """The message shows the host, so that the setting is found, and neither user, password, query nor fragment."""
    with pytest.raises(Malformed) as caught:
        Endpoint.parse(wrong)
    assert "hunter2" not in str(caught.value)
    assert "a/b" in str(caught.value) or "[::1" in str(caught.value)
