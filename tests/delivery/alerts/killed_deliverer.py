"""A deliverer with alerts that is killed: `python -m tests.delivery.alerts.killed_deliverer DIRECTORY`.

Started by test_alert_sink.py as a real process. It delivers what is in DIRECTORY/audit in small batches, and says when
it is at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from audit_async.delivery import AlertSettings, Deliverer, DeliverSettings


async def main(directory: Path) -> None:
    """Deliver what is there, and say so."""
    alerts = AlertSettings(name="alerts", rules=str(directory / "alerts.toml"), max_records=40)
    settings = DeliverSettings(
        base_dir=str(directory / "audit"), state_dir=str(directory / "state"), host="web-1", sinks=(alerts,)
    )
    sys.stdout.write("started\n")
    sys.stdout.flush()
    await Deliverer(settings).run_once()
    sys.stdout.write("done\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
