"""`audit-async engine` as an administrator runs it, on a real server."""

from __future__ import annotations

import stat
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from audit_async import tlog
from audit_async.forwarding import PostgresSink, SinkUnavailable
from audit_async.forwarding.confirmations import Confirmation, sign_confirmation
from audit_async.tlog.signing_keys import load_signer
from tests.cli.commands import Audit, Ended, run_in_pipes
from tests.cli.conftest import audit as audit_fixture
from tests.forwarding.logs_to_ship import a_batch, a_log
from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer

audit = audit_fixture
SECRET = "hunter2-s3cret"


def test_an_engine_from_nothing_to_a_host_that_appends(audit: Audit, database: str, tmp_path: Path) -> None:
    """Check, init, check, grant, append, revoke: each as its documentation says."""

    def engine(command: str, url: str, *arguments: str | Path) -> Ended:
        return audit("engine", command, *arguments, "--engine", url, "--tenant", "acme", "--json")

    before = engine("check", database)
    assert (before.status, before.document["ok"]) == (1, False)
    made = engine("init", database)
    assert made.status == 0
    assert "schema audit_acme: made" in made.document["done"]
    after = engine("check", database)
    assert (after.status, after.document["ok"]) == (0, True)

    secret = tmp_path / "web-1.pgpass"
    granted = engine("grant", database, "web-1", "--secret-file", secret, "--max-logs", "1")
    assert granted.status == 0
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text().rstrip("\n").rpartition(":")[2] not in granted.out + granted.err
    url = granted.document["url"]

    async def append() -> None:
        async with PostgresSink(url, tenant="acme") as sink:
            await sink.append(a_log(host="web-1"), a_batch(None), after=None)

    anyio.run(append)
    assert engine("grant", database, "web-1", "--secret-file", secret).status == 2
    collector = engine("grant", database, "c", "--collector", "--secret-file", tmp_path / "c.pgpass").document

    async def logs() -> int:
        async with PostgresSink(collector["url"], tenant="acme") as sink:
            return len(await sink.logs())

    assert anyio.run(logs) == 1
    assert engine("revoke", database, "web-1").status == 0
    with pytest.raises(SinkUnavailable, match="not permitted to log in"):
        anyio.run(append)
    assert engine("revoke", database, "web-9").status == 2


def test_a_finding_is_shown_with_what_to_do(audit: Audit, database: str, tmp_path: Path) -> None:
    """To a person in a table, with status 1; a note is shown and is no finding."""
    command = ("engine", "check", "--engine", database, "--tenant", "acme")
    assert audit("engine", "init", *command[2:]).status == 0
    sound = audit(*command)
    assert sound.status == 0
    assert "synchronous_standby_names" in sound.out
    EngineOfTest(database, tmp_path).run("GRANT DELETE ON SCHEMA.batches TO PUBLIC")
    ended = audit(*command)
    assert ended.status == 1
    assert "DELETE for PUBLIC" in ended.out
    assert "REVOKE ALL ON TABLE" in ended.out
    assert "1 wrong" in ended.out


@pytest.mark.parametrize(
    "url",
    [
        f"postgres://role:{SECRET}@127.0.0.1:1/audit",
        f"postgres://127.0.0.1:1/audit?user=role&password={SECRET}",
        f"postgres://role:{SECRET}@127.0.0.1:port/audit",
    ],
)
def test_a_password_on_the_command_line_is_refused(audit: Audit, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the list of processes; from the environment it is taken. No message repeats it."""
    monkeypatch.setenv("COLUMNS", "200")
    for command in (("init",), ("check",), ("grant", "web-1", "--secret-file", "/nowhere/x"), ("revoke", "web-1")):
        ended = audit("engine", *command, "--engine", url, "--tenant", "acme")
        assert ended.status == 2
        assert "passfile" in ended.err
        assert SECRET not in ended.out + ended.err
    monkeypatch.setenv("AUDIT_ENGINE_URL", url)
    ended = audit("engine", "check", "--tenant", "acme")
    assert ended.status in {2, 3}
    assert "every user of this machine" not in ended.err
    assert SECRET not in ended.out + ended.err


def test_the_url_and_the_tenant_may_come_from_the_environment(database: str) -> None:
    """As in a unit of systemd."""
    variables = {"AUDIT_ENGINE_URL": database, "AUDIT_TENANT": "acme"}
    assert run_in_pipes("engine", "init", **variables).status == 0
    assert run_in_pipes("engine", "check", **variables).status == 0


def test_a_server_that_is_not_there_is_unreadable(audit: Audit, postgres: PostgresServer) -> None:
    """Status 3, with the reason in one line."""
    nowhere = f"postgres:///audit?host={postgres.directory / 'nothing'}"
    ended = audit("engine", "check", "--engine", nowhere, "--tenant", "acme", "--json")
    assert ended.status == 3
    assert ended.err.startswith("audit-async: postgres://")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("command", ["init", "check", "grant", "revoke"])
def test_each_command_explains_itself_with_an_example(
    audit: Audit, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an unknown engine is wrong usage."""
    monkeypatch.setenv("COLUMNS", "200")
    ended = audit("engine", command, "--help")
    assert ended.status == 0
    assert f"Example: audit-async engine {command}" in ended.out
    assert "AUDIT_ENGINE_URL" in ended.out
    arguments = {"grant": ("w", "--secret-file", "/nowhere/x"), "revoke": ("w",)}.get(command, ())
    ended = audit("engine", command, *arguments, "--engine", "mysql://db/audit", "--tenant", "acme")
    assert ended.status == 2
    assert "postgres://" in ended.err


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_trimming_waits_for_trusted_collectors(audit: Audit, engine: EngineOfTest, tmp_path: Path) -> None:
    """A day goes once collectors whose keys are named have confirmed it, in as many places as are asked for."""
    log, batch = a_log(), a_batch(None)
    tlog.write_key(tmp_path / "key.pem", tlog.new_key())
    signer = load_signer(str(tmp_path / "key.pem"), origin="c1")
    stranger = tlog.VerifierKey.of("c2", bytes(32))

    async def trimmed(key: object, *options: str) -> tuple[int, list[bool]]:
        named = ("--keep-days", "30", "--collector-key", str(key), *options)
        command = ("engine", "trim", *named, "--engine", engine.admin_url, "--tenant", "acme", "--json")
        ended = await anyio.to_thread.run_sync(audit, *command)
        return ended.status, [day["dropped"] for day in ended.document["days"]] if ended.status < 2 else []

    async with await engine.sink() as host, await engine.sink("c", "collector") as collector:
        await host.append(log, batch, after=None)
        engine.run(  # as if it had been received 40 days ago
            "SELECT SCHEMA.make_day((now() AT TIME ZONE 'UTC')::date - 40)",
            "UPDATE SCHEMA.batches SET received_day = received_day - 40",
        )
        assert await trimmed("no key") == (2, [])
        assert await trimmed(signer.key) == (1, [False])
        confirmation = Confirmation.of(log.log_id, batch.last_seq, batch.last_hash, collector="c1")
        await collector.confirm(log, await sign_confirmation(confirmation, signer))
        assert await trimmed(stranger) == (1, [False])
        assert await trimmed(signer.key, "--copies", "2") == (1, [False])
        assert await trimmed(signer.key, "--dry-run") == (0, [False])
        assert await trimmed(signer.key) == (0, [True])
        assert await host.head(log) == batch.head
