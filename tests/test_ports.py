"""The ports that servers of the tests get."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.ports import free_port, free_ports


def test_no_other_process_gets_a_port_of_this_one() -> None:
    """Though nobody listens on any of them: a server may be about to, or be killed and come back."""
    ours = {free_port() for _ in range(150)}  # more than a block
    code = "from tests.ports import free_port; print(*(free_port() for _ in range(150)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    theirs = set(map(int, done.stdout.split()))
    assert (len(ours), len(theirs)) == (150, 150)
    assert not ours & theirs


def test_a_port_that_somebody_listens_on_is_passed_over() -> None:
    """A server of another program may be anywhere."""
    after_this_one = free_port() + 1
    with socket.create_server(("127.0.0.1", after_this_one)):
        assert free_port() != after_this_one


def test_ports_in_a_row() -> None:
    """For a service whose workers count on from a port; nobody gets one of them afterwards."""
    first = free_ports(4)
    assert not {free_port() for _ in range(20)} & set(range(first, first + 4))
