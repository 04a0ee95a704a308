"""A server for WSGI applications without a socket, so that tests can end an answer anywhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audit_async import AuditConfig
from audit_async.sync import SyncAuditLogger
from tests.logs import log_directory
from tests.trails import check_trail, read_events

Application = Callable[[dict[str, Any], Any], Any]


def environment(path: str = "/", *, method: str = "GET", body: bytes = b"", **variables: Any) -> dict[str, Any]:
    """Return the environment of a request as a server makes it."""
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "198.51.100.7",
        "CONTENT_LENGTH": str(len(body)) if body else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **variables,
    }


class Answer:
    """What came back from an application."""

    def __init__(self) -> None:
        self.status = ""
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """Be the server's `start_response`."""
        if self.parts and exc_info:
            raise exc_info[1]
        assert not self.status or exc_info, "begun twice"
        self.status, self.headers = status, dict(headers)
        return self.parts.append

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.parts)


def ask(app: Application, environ: dict[str, Any], *, parts: int | None = None) -> Answer:
    """Serve one request as servers do; with `parts` the client goes away after so many."""
    answer = Answer()
    result = app(environ, answer.start)
    try:
        for number, part in enumerate(result, 1):
            if part:
                assert answer.status, "no beginning"
                answer.parts.append(part)
            if number == parts:
                break
    finally:
        if hasattr(result, "close"):
            result.close()
    return answer


@contextmanager
def opened(config: AuditConfig) -> Iterator[SyncAuditLogger]:
    """Open a synchronous log; check its trail at the end."""
    with SyncAuditLogger(config) as audit:
        yield audit
    check_trail(log_directory(config))


def events_of(config: AuditConfig) -> list[dict[str, Any]]:
    """Return the records of requests and incidents, with their context."""
    directory: Path = log_directory(config)
    return [record for record in read_events(directory) if not record["event"]["event_type"].startswith("audit.")]
