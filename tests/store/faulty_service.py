"""A service whose system calls go wrong, with a signed tree, retention and small segments.

Started by the fault tests as a real process under the shim: `python -m tests.store.faulty_service DIRECTORY KEY N`.
A line on stdout, `<seq> <hash>`, is written after the receipt said durable, so whatever the parent reads was
acknowledged.
"""

from __future__ import annotations

import os
import sys

from audit_async import (
    AuditConfig,
    AuditLogger,
    Local,
    RetentionPolicy,
    RotationPolicy,
    Transparency,
    run,
)
from audit_async.errors import AuditError, LogCorrupted
from tests.logs import Counted

TRIES = 20


async def main() -> None:
    """Open, record, apply retention, sign, close; an opening that the disk refuses is tried again."""
    directory, key, events = sys.argv[1:]
    config = AuditConfig(
        mode=Local(directory),
        service_id="faulty",
        instance="00",
        handle_signals=False,
        rotation=RotationPolicy(max_bytes=3000),
        retention=RetentionPolicy(archive_after_days=0, automatic=False),
        transparency=Transparency(key=key, origin="example.org/faulty", interval=3600.0),
    )
    audit = AuditLogger(config)
    for number in range(TRIES):
        try:
            await audit.start()
        except LogCorrupted:
            raise
        except (AuditError, OSError):
            if number == TRIES - 1:
                raise
            audit = AuditLogger(config)
        else:
            break
    try:
        for n in range(int(events)):
            position = await audit.emit_durable(Counted(producer="p", n=n))
            os.write(1, f"{position.seq} {position.hash}\n".encode())
            if n % 8 == 7:
                for step in (audit.apply_retention, audit.checkpoint):
                    try:
                        await step()
                    except (AuditError, OSError):
                        continue  # nothing is lost by it: the next run does it
    finally:
        await audit.aclose()


if __name__ == "__main__":
    run(main)
