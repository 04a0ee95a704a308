"""Ports of loopback for servers that can't report which one they got, or that come back on the same one."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Below the range that Linux takes ports of connections from, so no connection of another test gets one by chance.
_FIRST: Final = 20_000
_BLOCK: Final = 100
_BLOCKS: Final = 120


def free_port() -> int:
    """Return a port that nobody listens on, and that no other process of any test session gets while this one lives.

    A port that the system chooses is free only as long as the socket that has it: another server may have it before
    the test's own server listens, or while that one is down. Here each process takes a block of ports and keeps it.
    """
    return next(_PORTS)


def free_ports(count: int) -> int:
    """Return the first of so many such ports in a row."""
    row = [free_port()]
    while len(row) < count:
        port = free_port()
        row = [*row, port] if port == row[-1] + 1 else [port]
    return row[0]


def _ports() -> Iterator[int]:
    """Yield the free ports of one block after the other, each once."""
    while True:
        for port in _locked_block():
            with socket.socket() as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    tried.bind(("127.0.0.1", port))
                except OSError:
                    continue
            yield port


def _locked_block() -> range:
    """Return the ports of a block that no other process has; its lock ends with this process, and is never released."""
    directory = Path(tempfile.gettempdir()) / f"audit-async-test-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    numbers = list(range(_BLOCKS))
    random.SystemRandom().shuffle(numbers)
    for number in numbers:
        descriptor = os.open(directory / str(number), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return range(_FIRST + number * _BLOCK, _FIRST + (number + 1) * _BLOCK)
    raise AssertionError(f"every block of ports is taken; end other test sessions, or remove {directory}")


_PORTS: Final = _ports()
