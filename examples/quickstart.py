"""The shortest use: open a log, record an event, wait until it is durable. `python -m examples.quickstart [DIR]`."""

import sys

import anyio

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.events import AuthFailure


async def main(directory: str) -> None:
    """Record one refused token below `directory`."""
    async with AuditLogger(AuditConfig(mode=Local(directory), service_id="orders")) as audit:
        receipt = audit.emit(
            AuthFailure(attempted_user="mallory", reason="invalid_token", ip="203.0.113.9", path="/v2/tasks")
        )
        position = await receipt.durable()  # optional: returns once the record is on stable storage
        print(f"{receipt.audit_id} is record {position.seq} of {audit.directory}, hash {position.hash}")


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "./audit")
