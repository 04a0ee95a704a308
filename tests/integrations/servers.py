"""Real servers under real requests, for as long as a test needs them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Thread
from typing import NamedTuple, Self

import httpx

PROJECT = Path(__file__).parents[2]


class Server(NamedTuple):
    """A server that is up."""

    process: subprocess.Popen[str]
    address: str
    log: Path

    def said(self) -> str:
        """Return what it wrote."""
        return self.log.read_text()

    def stop(self, signum: int) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(signum)
        return self.process.wait(timeout=60)


def wait_until(condition: Callable[[], object], server: subprocess.Popen[str], log: Path) -> None:
    """Return once the condition holds; fail if the server has ended instead, or after two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


@contextmanager
def serving(
    directory: Path,
    command: list[str],
    *,
    starts: int | None = None,
    environment: Mapping[str, str] | None = None,
    before: tuple[str, ...] = (),
) -> Iterator[Server]:
    """Run `python -m command` in `directory`, on a port of the system's choice, until the end of the block.

    The block begins once that many life spans say that their startup is complete: by default one under uvicorn and none
    under other servers, which don't say it. `before` is a command that executes the server, as `nice` does.
    """
    awaited = (1 if command[0] == "uvicorn" else 0) if starts is None else starts
    log = directory / "server.log"
    env = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"} | dict(environment or {})
    with log.open("w") as output:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", *command], cwd=directory, env=env, stdout=output, stderr=output, text=True
        )
        try:
            addresses: list[str] = []

            def is_up() -> bool:
                said = log.read_text()
                addresses[:] = re.findall(r"(?:[Rr]unning on|Listening at:) (http://[0-9.:]+)", said)
                return bool(addresses) and said.count("startup complete") >= awaited

            wait_until(is_up, process, log)
            # A supervisor names its address before its workers listen there.
            wait_until(lambda: _listens(addresses[0]), process, log)
            yield Server(process, addresses[0], log)
        finally:
            process.kill()
            process.wait()


def _listens(address: str) -> bool:
    host, _, port = address.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionError:
        return False
    return True


class Visitors:
    """Threads that ask one thing after the other, until the server is gone; what was answered is known afterwards."""

    def __init__(
        self, address: str, threads: int = 6, path: Callable[[int], str] = lambda n: f"/{('sync', 'async')[n % 2]}/{n}"
    ) -> None:
        self.answered: list[int] = []
        self._path = path
        self._address = address
        self._next = count().__next__
        self._threads = [Thread(target=self._visit, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for thread in self._threads:
            thread.join(timeout=60)

    def _visit(self) -> None:
        with httpx.Client(base_url=self._address, timeout=30) as client:
            while True:
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
