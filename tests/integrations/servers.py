"""Real servers under real requests, for as long as a test needs them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Self

import httpx

from tests.processes import PATIENCE_S, wait_until

PROJECT = Path(__file__).parents[2]
#: What gunicorn's own workers say once they heed signals, as uvicorn's do: until then SIGTERM would pass them by.
_GUNICORN_CONFIGURATION = """
def post_worker_init(worker):
    if "Uvicorn" not in type(worker).__name__:
        print("startup complete", flush=True)
"""
_ADDRESS = re.compile(r"(?:[Rr]unning on|Listening at:) http://([0-9.:]+)|TCP address ([0-9.:]+) \(port")


def asking(address: str, **options: Any) -> httpx.Client:
    """Return a client that is as patient as the tests are; httpx itself gives up after five seconds."""
    return httpx.Client(base_url=address, timeout=PATIENCE_S, trust_env=False, verify=False, **options)  # noqa: S501 - loopback


class Server(NamedTuple):
    """A server that is up."""

    process: subprocess.Popen[str]
    address: str
    log: Path

    def said(self) -> str:
        """Return what it wrote."""
        return self.log.read_text()

    def asking(self, **options: Any) -> httpx.Client:
        """Return a client of this server."""
        return asking(self.address, **options)

    def stop(self, signum: int) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(signum)
        return self.process.wait(timeout=PATIENCE_S)


@contextmanager
def serving(
    directory: Path,
    command: list[str],
    *,
    starts: int | None = None,
    environment: Mapping[str, str] | None = None,
    before: tuple[str, ...] = (),
    program: tuple[str, ...] = (sys.executable, "-m"),
) -> Iterator[Server]:
    """Run `python -m command` in `directory`, on a port of the system's choice, until the end of the block.

    The block begins once that many workers say that their startup is complete: by default all of uvicorn's and
    gunicorn's, and none of other servers, which don't say it. `before` is a command that executes the server, as `nice`
    does; `program` is what runs it instead of Python.
    """
    awaited = _workers(command) if starts is None else starts
    if command[0] == "gunicorn" and "--config" not in command:
        (directory / "gunicorn.conf.py").write_text(_GUNICORN_CONFIGURATION)  # its default
    log = directory / "server.log"
    env = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"} | dict(environment or {})
    with log.open("w") as output:
        process = subprocess.Popen(
            [*before, *program, *command], cwd=directory, env=env, stdout=output, stderr=output, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            addresses: list[str] = []

            def is_up() -> bool:
                said = log.read_text()
                addresses[:] = [f"http://{one or other}" for one, other in _ADDRESS.findall(said)]
                return bool(addresses) and said.count("startup complete") >= awaited

            wait_until(is_up, process, log)
            # A supervisor names its address before its workers listen there.
            wait_until(lambda: _listens(addresses[0]), process, log)
            yield Server(process, addresses[0], log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers as well
            process.wait()


def _workers(command: list[str]) -> int:
    """Return how many workers a server will start, 0 if it will not say so."""
    if command[0] not in {"uvicorn", "gunicorn"}:
        return 0
    return int(command[command.index("--workers") + 1]) if "--workers" in command else 1


def _listens(address: str) -> bool:
    host, _, port = address.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
    except ConnectionError:
        return False
    return True


class Visitors:
    """Threads that ask one thing after the other until the server is gone, or the end of the block.

    What was answered is known afterwards.
    """

    def __init__(
        self,
        address: str,
        threads: int = 6,
        path: Callable[[int], str] = lambda n: f"/{('sync', 'async')[n % 2]}/{n}",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.answered: list[int] = []
        self._headers = headers
        self._is_over = False
        self._path = path
        self._address = address
        self._next = count().__next__
        self._threads = [Thread(target=self._visit, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join(timeout=2 * PATIENCE_S)  # longer than a request may take
            assert not thread.is_alive()

    def _visit(self) -> None:
        with asking(self._address, headers=self._headers) as client:
            while not self._is_over:
                n = self._next()
                try:
                    response = client.get(self._path(n))
                except httpx.TransportError:
                    return
                if response.status_code == 503:  # a server that is about to end may say so
                    return
                assert response.status_code == 200, response.text
                self.answered.append(n)

    def wait_for(self, answers: int, server: Server) -> None:
        """Return once that many more requests were answered."""
        enough = len(self.answered) + answers

        def answered_enough() -> bool:
            assert any(thread.is_alive() for thread in self._threads), f"turned away: {server.said()}"
            return len(self.answered) >= enough

        wait_until(answered_enough, server.process, server.log)
