"""Write the trail that a release leaves to all later ones: `python -m tests.deploy.write_released_trail VERSION`.

It goes to `tests/data/trails/VERSION/`, and has a log for each form that records and the files next to them can have:
sealed, compressed and active segments, signed checkpoints, sealed members with their key store, encrypted archives, a
hold in force, and a line that a crash has torn. The keys are in the directory as well: they protect nothing else.
docs/releasing.md says when it is run. `test_released_trails.py` holds every later release to what is there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import anyio
import pyrage

from audit_async import AuditConfig, AuditLogger, Local, RetentionPolicy, RotationPolicy, Transparency
from audit_async.cli import main
from audit_async.config import Privacy
from audit_async.events import ActorInfo, AuthFailure, ResourceInfo, ResourceRead
from tests.conftest import DATA

#: Of each log, half of them log-ins that failed and half reads.
EVENTS: Final = 60
_SEGMENT_BYTES: Final = 8192
_STAY: Final = RetentionPolicy(automatic=False)


def write_released_trail(directory: Path) -> None:
    """Write `trail/`, `keys/` and `expected.json`, how many events each log has, to a directory that is not there."""
    trail, keys = directory / "trail", directory / "keys"
    keys.mkdir(parents=True)
    identity = pyrage.x25519.Identity.generate()
    (keys / "identity.txt").write_text(f"{identity}\n")
    _run("keys", "new", "--out", keys / "signing.pem", "--origin", "released.example/orders/signed")
    _run("keystore", "init", keys / "store", "--master-key", f"file:{keys / 'master.key'}", "--make-key")
    archived = RetentionPolicy(automatic=False, archive_after_days=0)
    encrypted = RetentionPolicy(automatic=False, archive_after_days=0, archive_recipients=(str(identity.to_public()),))
    signing = Transparency(key=str(keys / "signing.pem"), origin="released.example/orders/signed")
    privacy = Privacy(key_store=str(keys / "store"), master_key=f"file:{keys / 'master.key'}")
    anyio.run(_record, _config(trail, "archived", retention=archived))
    anyio.run(_record, _config(trail, "signed", transparency=signing))
    anyio.run(_record, _config(trail, "sealed", privacy=privacy))
    anyio.run(_record, _config(trail, "encrypted", retention=encrypted))
    anyio.run(_record, _config(trail, "held"))
    _run("hold", "set", trail, "--instance", "held", "--as", "R. Roe", "--reason", "case 4711")
    anyio.run(_record, _config(trail, "torn"))
    with max(trail.glob("orders/torn/*.audit")).open("ab") as segment:
        segment.write(b'{"seq":9')  # as a power cut leaves it; the next session puts it aside
    anyio.run(_record, _config(trail, "torn"))
    sessions = dict.fromkeys(("archived", "encrypted", "held", "sealed", "signed"), 1) | {"torn": 2}
    expected = {f"orders/{name}": EVENTS * number for name, number in sessions.items()}
    (directory / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def _run(*arguments: str | Path) -> None:
    if main([str(argument) for argument in arguments]) != 0:
        raise SystemExit(f"audit-async {' '.join(map(str, arguments))} failed")


def _config(trail: Path, instance: str, **settings: Any) -> AuditConfig:
    rotation = RotationPolicy(max_bytes=_SEGMENT_BYTES)
    kept = {"retention": _STAY, "rotation": rotation} | settings
    return AuditConfig(mode=Local(trail), service_id="orders", instance=instance, **kept)


async def _record(config: AuditConfig) -> None:
    async with AuditLogger(config) as audit:
        for number in range(EVENTS // 2):
            alice = ActorInfo(user_id="alice", display_name="Zoë", ip="203.0.113.9")
            audit.emit(
                AuthFailure(attempted_user="dana", reason="bad_password", ip="203.0.113.7", path="/login", known=True)
            )
            audit.emit(ResourceRead(actor=alice, resource=ResourceInfo(resource_type="order", resource_id=str(number))))
        await audit.flush()
        if config.retention.archive_after_days == 0:
            report = await audit.apply_retention()
            if not report.ok or not report.steps:
                raise SystemExit(f"nothing was archived: {report}")


if __name__ == "__main__":
    target = DATA / "trails" / sys.argv[1]
    if target.exists():
        raise SystemExit(f"{target} is there, and no file of a released version is ever changed")
    write_released_trail(target)
