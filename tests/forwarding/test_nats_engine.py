"""Preparing a NATS engine: what is made, what is wrong, who gets which rights."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread
from typing import Any

import anyio.to_thread
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import json, structs

from audit_async.errors import ConfigError
from audit_async.forwarding import Limits, NatsSink, SinkRefused, SinkUnavailable, nats_accounts, open_engine
from audit_async.forwarding.nats_accounts import Accounts, Member
from audit_async.forwarding.nats_checks import ServerAnswer, StreamDescription, check_servers, check_stream
from audit_async.forwarding.nats_connection import NatsServers
from audit_async.forwarding.nats_engine import NatsEngine
from audit_async.forwarding.nats_streams import Stream, streams_of
from tests.cli.commands import Audit, Ended
from tests.cli.conftest import audit as audit_fixture
from tests.forwarding.logs_to_ship import a_batch, a_log
from tests.forwarding.nats_engines import NatsEngineOfTest, nats_engine

audit = audit_fixture
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The servers are what is prepared, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="module")
async def engine(anyio_backend: object) -> AsyncIterator[NatsEngineOfTest]:
    """One server with an engine."""
    with nats_engine(1) as made:
        await made.start()
        yield made


def wrong(found: list[Any]) -> list[str]:
    """Return the names of what is wrong."""
    return [one.name for one in found if one.verdict == "wrong"]


async def test_an_engine_is_made_in_two_steps() -> None:
    """Keys and accounts, then, once the servers have these, the streams: on three servers, with nothing wrong."""
    with nats_engine(3) as made:
        first = await made.engine.init()
        assert 'include "accounts.conf"' in first[-1]
        for name in ("admin.nk", "system.nk"):
            assert stat.S_IMODE((made.directory / name).stat().st_mode) == 0o600
            assert (made.directory / name).read_text() not in (made.directory / "accounts.conf").read_text()
        assert stat.S_IMODE((made.directory / "accounts.conf").stat().st_mode) == 0o644
        made.servers.start()
        await made.until_made()
        found = await made.engine.check()
        assert wrong(found) == []
        assert {one.name for one in found if one.verdict == "note"} == {
            f"{name}_acme: max_bytes" for name in ("audit", "audit_confirmed", "audit_described")
        }
        assert len([one for one in found if one.name.endswith("sync_interval") and one.found == "always"]) == 3
        assert all(line.endswith("as it has to be") for line in await made.engine.init())
        made.servers.nodes[0].kill()
        gone = await made.engine.check()
        assert "servers" in wrong(gone)
        assert "audit_acme: replicas" in wrong(gone)


_WRONG: dict[str, list[object]] = {
    "subjects": [["audit.>"], []],
    "storage": ["memory"],
    "num_replicas": [1, 2],
    "retention": ["workqueue", "interest"],
    "compression": ["s2"],
    "persist_mode": ["async"],
    "no_ack": [True],
    "discard": ["old"],
    "max_msgs": [10],
    "allow_direct": [False, None],
    "deny_delete": [False],
    "deny_purge": [False],
    "allow_rollup_hdrs": [True],
    "allow_msg_ttl": [True],
    "allow_msg_counter": [True],
    "allow_msg_schedules": [True],
    "sealed": [True],
    "mirror": [{"name": "other"}],
    "sources": [[{"name": "other"}]],
    "republish": [{"src": ">", "dest": "copy.>"}],
    "subject_transform": [{"src": ">", "dest": "other.>"}],
    "discard_new_per_subject": [False],
    "max_msgs_per_subject": [-1, 1000],
    "max_age": [0, 86400 * 10**9],
    "max_msg_size": [1000],
}


def test_every_setting_has_a_wrong_value_here() -> None:
    """So that no check is without a test."""
    for stream in streams_of("acme", 3):
        assert set(stream.settings) == set(_WRONG)


@pytest.mark.parametrize("setting", _WRONG)
async def test_a_wrong_setting_is_named_with_the_reason(engine: NatsEngineOfTest, setting: str) -> None:
    """Compared with what a real server says of a stream that is right otherwise."""
    records = streams_of("acme", 1)[0]
    async with engine.engine._connected() as servers:
        described = await engine.engine._described(servers, records.name)
    assert described is not None
    assert wrong(check_stream(records, described, 1)) == []
    stricter = streams_of("acme", 3)[0] if setting == "num_replicas" else records
    for value in _WRONG[setting]:
        changed = StreamDescription(config=described.config | {setting: value})
        [found] = [one for one in check_stream(stricter, changed, 1) if one.verdict == "wrong"]
        assert found.name == f"audit_acme: {setting}"
        assert "audit-async engine init; otherwise:" in found.fix


async def update(engine: NatsEngineOfTest, stream: Stream, call: str, **settings: object) -> None:
    """Change a stream as its administrator can."""
    async with engine.engine._connected() as servers:
        config = json.encode(stream.config() | settings)
        servers.check(await servers.request(f"$JS.API.STREAM.{call}.{stream.name}", config))


async def test_what_was_changed_is_corrected(engine: NatsEngineOfTest) -> None:
    """What is more than is needed stays."""
    records = streams_of("acme", 1)[0]
    week = 7 * 86400 * 10**9
    await update(engine, records, "UPDATE", max_age=week, compression="s2", max_msgs_per_subject=10**9)
    assert wrong(await engine.engine.check()) == ["audit_acme: compression", "audit_acme: max_age"]
    done = await engine.engine.init()
    assert "stream audit_acme: corrected compression, max_age" in done
    assert wrong(await engine.engine.check()) == []
    async with engine.engine._connected() as servers:
        described = await engine.engine._described(servers, records.name)
    assert described is not None
    assert described.config["max_msgs_per_subject"] == 10**9


async def test_what_can_not_be_corrected_is_refused_by_name() -> None:
    """A stream in memory was lost at the last restart anyway."""
    with nats_engine(1) as made:
        await made.engine.init()
        made.servers.start()
        confirmations = streams_of("acme", 1)[1]
        for attempt in range(100):
            try:
                await update(made, confirmations, "CREATE", storage="memory")
                break
            except SinkUnavailable:
                assert attempt < 99
        with pytest.raises(SinkRefused, match=r"audit_confirmed_acme can't be corrected \(storage\)"):
            await made.engine.init()


async def test_wrong_settings_of_the_servers_are_named() -> None:
    """An interval of syncing, and messages that are too small: the latter also to a host, when it connects."""
    more = "max_payload: 65536\n"
    with nats_engine(1, more=more, options="&replicas=1") as made:
        [node] = made.servers.nodes
        made.servers.configure(lambda text: text.replace("sync_interval: always", 'sync_interval: "2m"'))
        await made.start()
        assert wrong(await made.engine.check()) == [f"{node.name}: sync_interval", f"{node.name}: max_payload"]
        host = await made.host()
        with pytest.raises(SinkRefused, match="max_payload is 65,536 bytes"):
            await host.head(a_log())


async def test_each_wrong_thing_of_a_server_is_named(engine: NatsEngineOfTest) -> None:
    """Compared with what a real server says of itself."""
    [answer] = await engine.engine._server_answers()
    assert wrong(check_servers([answer], 1)) == []
    assert wrong(check_servers([answer], 3)) == ["servers"]
    own = structs.replace(answer.data, host="0.0.0.0")  # noqa: S104 - as a server would say that listens everywhere
    for changed, named in (
        (own, "tls"),
        (structs.replace(answer.data, version="2.9.10"), "version"),
        (structs.replace(answer.data, auth_required=False), "accounts"),
        (
            structs.replace(
                answer.data, cluster=structs.replace(answer.data.cluster, name="c", addr="10.0.0.1")
            ),
            "cluster tls",
        ),
    ):  # fmt: skip
        assert wrong(check_servers([ServerAnswer(changed)], 1)) == [f"n0: {named}"]


async def test_servers_that_nobody_may_ask_are_a_finding(engine: NatsEngineOfTest) -> None:
    """Without a key of the system account, nobody knows whether they sync."""
    url = engine.admin_url.replace(f"&system={engine.directory}/system.nk", "")
    assert wrong(await open_engine(url, tenant="acme").check()) == ["servers"]


@pytest.mark.parametrize("other", ["another process", "another task", "a task that only looks"])
def test_two_administrators_at_once(tmp_path: Path, other: str) -> None:
    """What one grants or revokes is in the file after the other has written it, whichever is last."""
    nkey = f"U{'A' * 55}"
    accounts = Accounts(tmp_path / "accounts.conf", "acme")
    theirs = Accounts(accounts.path, "acme") if other == "another process" else accounts
    with accounts.changed():
        accounts.put(Member(kind="host", name="revoked", nkey=nkey))

    def change() -> None:
        if other == "a task that only looks":
            theirs.load()
            return
        with theirs.changed():
            theirs.put(Member(kind="host", name="b", nkey=nkey))
            theirs.remove("host", "revoked")

    thread = Thread(target=change)
    with accounts.changed():
        accounts.put(Member(kind="host", name="a", nkey=nkey))
        thread.start()
        thread.join(0.2)  # it gets no further if it waits for us, as it has to
    thread.join(60)
    accounts.load()
    expected = {"a", "revoked"} if other == "a task that only looks" else {"a", "b"}
    assert {member.name for member in accounts.members} == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accounts.conf", "accounts.conf.lock"]


def test_an_administrator_that_was_stopped_is_named_by_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes second learns which file it is about and that nothing was changed, and not an error number."""
    monkeypatch.setattr(nats_accounts, "_WAIT_S", 0.01)
    accounts = [Accounts(tmp_path / "accounts.conf", "acme") for _ in range(2)]
    with (
        accounts[0].changed(),
        pytest.raises(ConfigError, match=r"been changing .*accounts\.conf for 0\.01 s, and nothing was changed"),
        accounts[1].changed(),
    ):
        pass


async def test_accounts_that_were_changed_by_hand_are_a_finding(engine: NatsEngineOfTest) -> None:
    """And written again by init, with everybody who has a key."""
    url = await engine.granted("web-1")
    path = engine.directory / "accounts.conf"
    as_written = path.read_text()
    path.write_text(as_written.replace('"$JS.API.STREAM.INFO.audit_acme"', '"$JS.API.>"', 1))
    assert wrong(await engine.engine.check()) == ["accounts"]
    assert "accounts: brought up to date" in await engine.engine.init()
    assert path.read_text() == as_written
    async with NatsSink(url, tenant="acme") as host:
        assert await host.head(a_log()) is None


async def test_a_new_key_makes_the_one_before_void(engine: NatsEngineOfTest, tmp_path: Path) -> None:
    """For a host as for a collector; a file that is there is not overwritten."""
    keys = [tmp_path / "1.nk", tmp_path / "2.nk"]
    urls = [
        (await engine.engine.grant("web-7", kind="host", secret_file=key, limits=Limits())).url for key in keys
    ]  # fmt: skip
    async with NatsSink(urls[0], tenant="acme") as before, NatsSink(urls[1], tenant="acme") as now:
        with pytest.raises(SinkRefused, match="do not know this key"):
            await before.head(a_log(host="web-7"))
        await now.append(a_log(host="web-7"), a_batch(None), after=None)
    accounts = (engine.directory / "accounts.conf").read_text()
    with pytest.raises(ConfigError, match="is there already"):
        await engine.engine.grant("web-8", kind="host", secret_file=keys[0], limits=Limits())
    assert (engine.directory / "accounts.conf").read_text() == accounts


async def test_what_is_left_to_do_is_said(engine: NatsEngineOfTest, tmp_path: Path) -> None:
    """If the servers do not read the file that was written: they are elsewhere."""
    copy = tmp_path / "accounts.conf"
    copy.write_bytes((engine.directory / "accounts.conf").read_bytes())
    url = engine.admin_url.replace(f"accounts={engine.directory}/accounts.conf", f"accounts={copy}")
    there = NatsEngine(url, tenant="acme")
    granted = await there.grant("web-6", kind="host", secret_file=tmp_path / "6.nk", limits=Limits())
    assert str(copy) in granted.next_step
    assert "reload" in granted.next_step


async def test_what_this_engine_can_not_do_is_refused(engine: NatsEngineOfTest, tmp_path: Path) -> None:
    """Limits of a host, trimming, another tenant's accounts, rights that are not there."""
    with pytest.raises(ConfigError, match="can't bound a host"):
        await engine.engine.grant("w", kind="host", secret_file=tmp_path / "w", limits=Limits(max_logs=1))
    with pytest.raises(ConfigError, match="max_age"):
        await engine.engine.trim(keep_days=1, confirmed=None, dry_run=True)  # type: ignore[arg-type]  # never called
    with pytest.raises(ConfigError, match="does not hold the accounts of tenant 'other'"):
        await open_engine(engine.admin_url, tenant="other").check()
    with pytest.raises(ConfigError, match="no rights"):
        await engine.engine.revoke("nobody", kind="host")
    for url in ("nats://h", "nats://h?nkey=a", "nats://h?nkey=a&accounts=b&replicas=2"):
        with pytest.raises(ConfigError):
            open_engine(url, tenant="acme")


async def test_the_commands_of_an_engine(audit: Audit, engine: NatsEngineOfTest, tmp_path: Path) -> None:
    """As a person runs them; no output has a secret."""

    async def run(*command: str | Path) -> Ended:
        return await anyio.to_thread.run_sync(lambda: audit("engine", *command, *place))

    place = ("--engine", engine.admin_url, "--tenant", "acme")
    secret = tmp_path / "web-5.nk"
    check = await run("check")
    assert check.status == 0, check.out + check.err
    assert "max_bytes" in check.out
    granted = await run("grant", "web-5", "--secret-file", secret, "--json")
    assert granted.status == 0, granted.err
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text() not in granted.out + granted.err
    async with NatsSink(granted.document["url"], tenant="acme") as host:
        await host.append(a_log(host="web-5"), a_batch(None), after=None)
    assert (await run("revoke", "web-5")).status == 0
    assert (await run("revoke", "web-5")).status == 2


def certificates(directory: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that is its own authority; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nats of tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    certificate, secret = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    return certificate, secret


async def test_a_server_proves_its_name_by_tls(tmp_path: Path) -> None:
    """The right authority is let in, another one is not, and grant names it in the URL."""
    certificate, key = certificates(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    stranger, _ = certificates(other)
    more = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n'
    with nats_engine(1, more=more, options=f"&replicas=1&ca={certificate}") as made:
        await made.start()
        assert wrong(await made.engine.check()) == []
        url = await made.granted("web-1")
        assert f"ca={certificate}" in url
        async with NatsSink(url, tenant="acme") as host:
            assert await host.head(a_log()) is None
        servers = NatsServers(url.replace(str(certificate), str(stranger)), timeout_s=5)
        with pytest.raises(SinkUnavailable, match="certificate"):
            await servers.max_payload()
