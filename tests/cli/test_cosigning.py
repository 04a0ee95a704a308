"""A collector as a witness, by the commands of docs/platform.md."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio

from audit_async.forwarding import DirectorySink
from tests.cli.commands import Audit
from tests.forwarding.test_collected_checkpoints import ORIGIN, write_signed


def test_the_commands_of_a_witness(tmp_path: Path, audit: Audit) -> None:
    """As docs/platform.md has them: the collector's key as a witness's, and a policy that demands it."""
    for key in ("log.pem", "collector.pem"):
        assert audit("keys", "new", "--out", tmp_path / key).status == 0
    anyio.run(partial(write_signed, tmp_path / "host", tmp_path / "log.pem", 20))
    (tmp_path / "engine").mkdir()
    DirectorySink.prepare(tmp_path / "engine")
    to = ("--tenant", "acme")
    assert (
        audit(
            "forward", tmp_path / "host", "--to", f"file://{tmp_path}/engine", *to, "--host", "web-1", "--once"
        ).status
        == 0
    )
    log_key = audit("keys", "show", tmp_path / "log.pem", "--origin", ORIGIN).out.strip()
    witness = audit("keys", "show", tmp_path / "collector.pem", "--origin", "collector-1", "--cosigner").out.strip()
    collect = ("collect", tmp_path / "root", "--from", f"file://{tmp_path}/engine", *to, "--once", "--log-key", log_key)
    assert audit(*collect).status == 2
    assert audit(*collect, "--key", tmp_path / "collector.pem", "--name", "collector-1").status == 0
    (tmp_path / "trusted.policy").write_text(f"log {log_key}\nwitness c1 {witness}\nquorum c1\n")
    orders = next(tmp_path.glob("root/acme/web-1/orders/*"))
    assert audit("verify", orders, "--policy", tmp_path / "trusted.policy").status == 0
    [published] = orders.glob("tlog/checkpoint")
    published.write_bytes(b"\n".join(published.read_bytes().split(b"\n")[:-2]) + b"\n")  # without the cosignature
    assert audit("verify", orders, "--policy", tmp_path / "trusted.policy").status == 1
