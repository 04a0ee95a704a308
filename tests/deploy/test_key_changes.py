"""docs/operations/keys.md: each key is changed by the commands of its section, and nothing is lost by it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.cli import main
from audit_async.config import Privacy
from audit_async.delivery import read_deliver_settings
from audit_async.forwarding import DirectorySink
from audit_async.viewer import read_embed_key
from tests.deploy.runbooks import DOCS, commands, run_commands, run_here, section
from tests.privacy.sealed_logs import success
from tests.trails import check_trail

PAGE = "operations/keys.md"


def run(*arguments: str | Path) -> None:
    """Run a command within this process; it has to end with status 0."""
    assert main([str(argument) for argument in arguments]) == 0


async def record(config: AuditConfig) -> None:
    """Open a log and close it."""
    async with AuditLogger(config):
        pass


def test_a_configuration_file_names_both_signing_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's list: each checkpoint is signed by both keys, then by the new one alone."""
    (both,) = re.findall(r"`key = (\[.*?\])`", section(PAGE, "The signing key of a log"))
    for name in ("audit-key", "audit-key-2"):
        run("keys", "new", "--out", tmp_path / name)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    signatures = []
    for key in ('"credential:audit-key"', both, '"credential:audit-key-2"'):
        (tmp_path / "audit.toml").write_text(
            f'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "audit"\n[transparency]\nkey = {key}\n'
        )
        anyio.run(record, AuditConfig.load(tmp_path / "audit.toml"))
        (checkpoint,) = tmp_path.glob("audit/orders/00/tlog/checkpoint")
        signatures.append(checkpoint.read_text(encoding="utf-8").count("\n— "))
    assert signatures == [1, 2, 1]
    check_trail(tmp_path / "audit")


def test_the_master_key_is_changed_while_a_service_seals(tmp_path: Path) -> None:
    """What was sealed before and after opens with the new key, which is where the service reads it."""
    store, key, trail = tmp_path / "keys", tmp_path / "etc" / "master.key", tmp_path / "audit"
    key.parent.mkdir()
    run("keystore", "init", store, "--master-key", f"file:{key}", "--make-key")
    old = key.read_bytes()
    privacy = Privacy(key_store=str(store), master_key=f"file:{key}")
    config = AuditConfig(mode=Local(trail), service_id="orders", privacy=privacy)
    script = commands(PAGE, "The master key of the key store").replace("-o orders ", "")
    places = {
        "/var/lib/orders/audit": trail,
        "/var/lib/orders-keys": store,
        "/etc/orders": key.parent,
    }

    async def seal_before_and_after() -> str:
        async with AuditLogger(config) as audit:
            await audit.emit_durable(success("before"))
            written = await anyio.to_thread.run_sync(lambda: run_commands(script, tmp_path, places=places))
            await audit.emit_durable(success("after"))
        return written

    written = anyio.run(seal_before_and_after)
    assert key.read_bytes() != old
    assert "missing" in written, "the last command counts what opens"
    run("keystore", "check", trail, "--key-store", store, "--master-key", f"file:{key}")


def test_a_collector_gets_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hosts trust both for a while: at no moment is a log without a confirmation that its host believes."""
    trail, root, keys, engine = (tmp_path / name for name in ("audit", "root", "etc", "engine"))
    keys.mkdir()
    engine.mkdir()
    DirectorySink.prepare(engine)
    for name, value in {"AUDIT_ENGINE_URL": f"file://{engine}", "AUDIT_TENANT": "acme"}.items():
        monkeypatch.setenv(name, value)
    anyio.run(record, AuditConfig(mode=Local(trail), service_id="orders"))
    run("keys", "new", "--out", keys / "collector.pem")
    capsys.readouterr()
    run("keys", "show", keys / "collector.pem", "--origin", "collector-1")
    old = capsys.readouterr().out.strip()
    run("forward", trail, "--host", "web-1", "--once")
    run("collect", root, "--key", keys / "collector.pem", "--name", "collector-1", "--once")

    headline = "The signing key of a collector"
    places: dict[str, Path | str] = {"/srv/audit": root, "/var/lib/orders/audit": trail, "$OLD_VKEY": old}
    places["/etc/audit-async/collector-2.pem"] = keys / "collector-2.pem"
    places["$NEW_VKEY"] = run_here(commands(PAGE, headline, block=0), places=places).split()[-1]
    for block in (1, 2):
        status = run_here(commands(PAGE, headline, block=block), places=places)
        assert re.search(r"caught up +1 +1 +0 +1\n", status), status


def test_the_embed_key_is_made_and_read(tmp_path: Path) -> None:
    """As the viewer and the application read it: another key, in a file of its owner's alone."""
    key = tmp_path / "embed.key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    before = read_embed_key(str(key))
    script = commands(PAGE, "The key of embed links")
    restarted = run_commands(script, tmp_path, places={"/etc/audit-async": tmp_path}, systemctl='echo "$@"')
    assert restarted == "restart audit-serve\n"
    assert read_embed_key(str(key)) != before
    assert key.stat().st_mode & 0o077 == 0


def test_a_secret_of_a_delivery_is_in_a_file_of_its_own(tmp_path: Path) -> None:
    """The page's setting is what the deliverer takes; that it reads the file again is in tests/delivery."""
    (setting,) = re.findall(r"`(token = .*?)`", section(PAGE, "Secrets of deliveries"))
    settings = tmp_path / "deliver.toml"
    settings.write_text(
        'base_dir = "/var/lib/audit"\nstate_dir = "/var/lib/audit-deliver"\n[[sink]]\nname = "siem"\ntype = "http"\n'
        f'url = "https://siem.example"\n{setting}\n'
    )
    assert len(read_deliver_settings(settings).sinks) == 1
    (tmp_path / "new.token").write_text("new")
    script = commands(PAGE, "Secrets of deliveries").replace("-o audit ", "")
    run_commands(script, tmp_path, places={"/etc/audit-async": tmp_path})
    assert (tmp_path / "siem.token").read_text() == "new"


def test_every_section_is_in_the_table() -> None:
    """A key that the page forgets in its table is one that nobody changes."""
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    headlines = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert re.findall(r"^\| \[.*?\]\(#(.*?)\)", text, re.MULTILINE) == [
        headline.lower().replace(" ", "-") for headline in headlines
    ]
    assert shutil.which("bash"), "the commands of the page are run by it"
