"""A service that writes a log while a command looks at it: `python -m tests.cli.running_service BASE_DIR`.

It emits an event for each line that it reads and answers with its sequence number, once that is durable.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from audit_async import AuditConfig, AuditLogger, Local, RetentionPolicy, run
from tests.logs import Counted
from tests.processes import started


class Service:
    """A running service, seen from the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def emit(self, producer: str) -> int:
        """Have it emit an event; return the sequence number, which is durable."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{producer}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def running_service(base_dir: Path) -> Iterator[Service]:
    """Run the service `orders` until the block ends."""
    command = [sys.executable, "-m", "tests.cli.running_service", str(base_dir)]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        service = Service(process)
        service.emit("first")
        try:
            yield service
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=60) == 0


async def _serve(base_dir: str) -> None:
    keep = RetentionPolicy(automatic=False)
    async with AuditLogger(AuditConfig(mode=Local(base_dir), service_id="orders", retention=keep)) as audit:
        number = 0
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            position = await audit.emit_durable(Counted(producer=line.strip(), n=number))
            number += 1
            sys.stdout.write(f"{position.seq}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    run(_serve, sys.argv[1])
