"""A writer that is killed: emits without end, and names each acknowledged record on stdout.

Started by test_kill.py as a real process: `python -m tests.writer.killed_writer DIRECTORY FLUSH_MODE`. A line on
stdout, `<seq> <audit_id> <n>`, is written after the receipt said durable, so whatever the parent reads was
acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import sys

from audit_async import (
    AuditConfig,
    AuditLogger,
    Batched,
    BufferFull,
    Hybrid,
    Immediate,
    Local,
    Receipt,
    RotationPolicy,
    run,
)
from audit_async.config import FlushMode
from tests.logs import Counted

MODES: dict[str, FlushMode] = {
    "immediate": Immediate(),
    "delayed": Immediate(max_delay=0.005),
    "batched": Batched(size=50, interval=0.01),
    "hybrid": Hybrid(batch_size=50, batch_interval=0.01),
}


async def main() -> None:
    """Emit until killed; small segments, so that rotation and sealing are among what is interrupted."""
    directory, mode = sys.argv[1:]
    config = AuditConfig(
        mode=Local(directory),
        service_id="killed",
        flush_mode=MODES[mode],
        rotation=RotationPolicy(max_bytes=40_000),
    )
    async with AuditLogger(config) as audit:
        unreported: asyncio.Queue[tuple[int, Receipt]] = asyncio.Queue()

        async def report() -> None:
            while True:
                n, receipt = await unreported.get()
                position = await receipt.durable()
                os.write(1, f"{position.seq} {receipt.audit_id} {n}\n".encode())

        reporting = asyncio.create_task(report())
        n = 0
        while not reporting.done():
            try:
                receipt = audit.emit(Counted(producer=str(os.getpid()), n=n))
            except BufferFull:
                await asyncio.sleep(0)
                continue
            unreported.put_nowait((n, receipt))
            n += 1
            if n % 20 == 0:
                await asyncio.sleep(0)
        await reporting


if __name__ == "__main__":
    run(main)
