"""The restore drill of docs/privacy.md, command for command: from copies of trail and keys, without the master key."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.cli.commands import Ended, run_in_pipes
from tests.cli.test_erase import Service

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"


def commands_below(heading: str) -> list[list[str]]:
    """Return the commands of the first console block below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"{heading}\n")[2]
    block = re.search(r"```console\n(.*?)```", section, flags=re.DOTALL)
    assert block is not None
    return [shlex.split(line.removeprefix("$ audit-async ")) for line in block[1].splitlines()]


@pytest.fixture
def host(tmp_path: Path) -> Service:
    """A service with a store that has an escrow key, in directories like those of the page."""
    for name in ("mnt/safe", "mnt/backup", "mnt/other-place", "srv/drill"):
        (tmp_path / name).mkdir(parents=True)
    private = rsa.generate_private_key(65537, 3072)
    escrow = tmp_path / "mnt/safe/escrow.pem"
    escrow.touch(0o600)
    escrow.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Service(tmp_path, escrow=public)


def run_page(commands: list[list[str]], places: dict[str, Path]) -> dict[str, Ended]:
    """Run commands of the page in other places than it names; return how each ended, by its first words."""
    ended: dict[str, Ended] = {}
    for command in commands:
        line = shlex.join(command)
        for named, place in places.items():
            line = line.replace(named, str(place))
        name = " ".join(command[: 2 if command[0] == "keystore" else 1])
        ended[name] = run_in_pipes(*shlex.split(line), *(["--json"] if name in {"keystore check", "query"} else []))
        assert ended[name].status == 0, (name, ended[name])
    return ended


def test_the_drill_of_the_page(host: Service, tmp_path: Path) -> None:
    """What was sealed can be read from the copies with the escrow key, and who was erased before is erased there."""
    places = {
        "/var/lib/orders-keys": host.store,
        "/var/lib/audit": host.base_dir,
        "/mnt": tmp_path / "mnt",
        "/srv": tmp_path / "srv",
    }
    host.run("alice", "bob")
    host.run("alice")
    bob = ("--subject", "bob", "--reason", "request 1", "--by", "R. Roe")
    assert run_in_pipes("erase", host.base_dir, *bob, *host.keys).status == 0
    run_page(commands_below("## Backup"), places)
    before = {path: path.read_bytes() for path in (tmp_path / "mnt").rglob("*") if path.is_file()}
    master_key = Path(host.master_key.removeprefix("file:"))
    master_key.unlink()  # lost
    ended = run_page(commands_below("### Restore drill"), places)
    (check,) = [log for log in ended["keystore check"].document["logs"] if log["log"] == "orders/00"]
    assert (check["missing"], check["forged"], check["damaged"]) == (0, 0, 0)
    assert check["open"] >= 2
    assert check["erased"] >= 1
    assert [row["event"]["actor"]["user_id"] for row in ended["query"].rows] == ["alice", "alice"]
    assert {path: path.read_bytes() for path in (tmp_path / "mnt").rglob("*") if path.is_file()} == before
