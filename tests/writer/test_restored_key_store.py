"""A key store from a backup has keys again that were destroyed since: nobody who was erased becomes readable by it."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local, RetentionPolicy, RotationPolicy
from audit_async.privacy import KeyStoreOutdated, Subject, create_key_store
from audit_async.privacy.sqlite_key_store import SqliteKeyStore
from audit_async.reader import AuditQuery, AuditReader
from tests.age_keys import IDENTITIES, RECIPIENT
from tests.logs import ConfigFor, failure
from tests.privacy.key_stores import ALICE, BOB, open_store
from tests.privacy.sealed_logs import opened, recorded, sealing, success

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="key stores are kept on Linux"),
]

CAROL = Subject("", "user", "carol")


class Logs:
    """Several logs that share a key store, and a backup of it."""

    def __init__(self, config_for: ConfigFor, tmp_path: Path) -> None:
        self._config_for = config_for
        self._tmp_path = tmp_path

    def config(self, service_id: str, *, elsewhere: bool = False) -> AuditConfig:
        """Return the configuration of a log; `elsewhere`: under a base directory of its own."""
        mode = Local(self._tmp_path / (service_id if elsewhere else "audit"))
        return sealing(self._config_for, self._tmp_path, service_id=service_id, mode=mode)

    async def run(self, config: AuditConfig, *names: str, erase: str | None = None) -> str | None:
        """Open a log, record what these people did, and erase one; return its trouble."""
        async with AuditLogger(config) as audit:
            for name in names:
                audit.emit(success(name))
            await audit.flush()
            if erase is not None:
                await audit.erase_subject(erase, reason="asked", requested_by="officer")
            return audit.health().reason

    def back_up(self) -> None:
        """Keep a copy of the key store."""
        shutil.copytree(self._tmp_path / "keys", self._tmp_path / "backup")

    def restore(self) -> None:
        """Put the copy in the place of the key store."""
        shutil.rmtree(self._tmp_path / "keys")
        shutil.copytree(self._tmp_path / "backup", self._tmp_path / "keys")

    def living(self) -> list[str]:
        """Return whose keys the store has."""
        store = open_store(self._tmp_path / "keys")
        try:
            return [subject.id for subject in (ALICE, BOB, CAROL) if store.find(subject)]
        finally:
            store.close()

    def missing(self) -> int:
        """Return how many erasures the store knows to be missing."""
        store = open_store(self._tmp_path / "keys")
        try:
            return store.changes_since(0).missing
        finally:
            store.close()


@pytest.fixture
def logs(config_for: ConfigFor, tmp_path: Path) -> Logs:
    """Logs that share a key store."""
    return Logs(config_for, tmp_path)


def restorations(config: AuditConfig) -> list[dict[str, Any]]:
    """Return what a log records of restored key stores."""
    return [record["event"] for record in recorded(config, event_type="audit.key_store_restored")]


@pytest.mark.parametrize("first", ["orders", "billing"])
async def test_whichever_log_is_opened_first_destroys_again(logs: Logs, first: str) -> None:
    """Also the one that did not record the erasure: it finds it in the other log, which is next to it."""
    await logs.run(logs.config("orders"), "alice", "bob")
    await logs.run(logs.config("billing"), "carol")
    logs.back_up()
    await logs.run(logs.config("orders"), erase="alice")
    await logs.run(logs.config("billing"))
    logs.restore()
    assert logs.living() == ["alice", "bob", "carol"]
    config = logs.config(first)
    assert await logs.run(config) is None
    assert logs.living() == ["bob", "carol"]
    (restored,) = restorations(config)
    assert (restored["keys"], restored["epoch"], restored["expected_epoch"]) == (1, 0, 1)
    assert "missing" not in restored
    second = logs.config("billing" if first == "orders" else "orders")
    await logs.run(second)
    assert logs.living() == ["bob", "carol"]
    assert restorations(second) == []


async def test_nothing_is_opened_until_an_erasure_that_is_elsewhere_is_done_again(logs: Logs, tmp_path: Path) -> None:
    """The log that recorded it is under another directory: this log says so, and the key store opens nothing."""
    orders, billing = logs.config("orders", elsewhere=True), logs.config("billing", elsewhere=True)
    await logs.run(orders, "alice", "bob")
    await logs.run(billing, "carol")
    logs.back_up()
    await logs.run(orders, erase="alice")
    await logs.run(billing)
    logs.restore()
    for expected in (1, 1):  # the second opening says it again in its health, not in the chain
        assert "backup" in (await logs.run(billing, "carol") or "")
        assert logs.missing() == expected
    (restored,) = restorations(billing)
    assert (restored["keys"], restored["missing"]) == (0, 1)
    for config in (orders, billing):
        with pytest.raises(KeyStoreOutdated, match="each log that uses the key store"):
            opened(config, tmp_path)
    reader = AuditReader(tmp_path / "orders", key_store=open_store(tmp_path / "keys"))
    with pytest.raises(KeyStoreOutdated):
        [record async for record in reader.query(AuditQuery(actor="bob"))]
    assert await logs.run(orders) is None
    assert logs.living() == ["bob", "carol"]
    assert logs.missing() == 0
    assert [one.event["actor"]["user_id"] for one in opened(orders, tmp_path)][1:] == ["bob"]  # type: ignore[index]
    assert (restorations(orders)[0]["keys"], restorations(orders)[0].get("missing")) == (1, None)
    assert await logs.run(billing) is None


async def test_an_erasure_since_then_does_not_hide_it(logs: Logs) -> None:
    """A new log noticed nothing, and erased somebody under the same epoch: a destroyed key that is alive says it."""
    orders, billing = logs.config("orders", elsewhere=True), logs.config("billing", elsewhere=True)
    await logs.run(orders, "alice", "bob")
    logs.back_up()
    await logs.run(orders, erase="alice")
    await logs.run(orders)
    logs.restore()
    await logs.run(billing, erase="bob")
    assert logs.living() == ["alice"]
    await logs.run(orders)
    assert logs.living() == []
    assert restorations(orders)[0]["keys"] == 1


async def test_an_older_erasure_is_not_hidden_by_a_newer_one_of_another_log(logs: Logs) -> None:
    """Each log states a key of its own newest erasure as well, also if somebody else has erased since."""
    orders, billing = logs.config("orders", elsewhere=True), logs.config("billing", elsewhere=True)
    await logs.run(orders, "alice", "bob")
    logs.back_up()
    await logs.run(orders, erase="alice")
    await logs.run(billing, erase="bob")
    await logs.run(orders)
    logs.restore()
    await logs.run(logs.config("crm", elsewhere=True), "carol", erase="carol")  # raises the epoch
    await logs.run(billing)
    assert logs.living() == ["alice"]
    await logs.run(orders)
    assert logs.living() == []
    await logs.run(logs.config("crm", elsewhere=True))
    assert logs.missing() == 0


async def test_a_log_that_runs_states_an_erasure_of_another(logs: Logs) -> None:
    """It knows then, though it was killed before its next opening, that an older store is from a backup."""
    orders, billing = logs.config("orders", elsewhere=True), logs.config("billing", elsewhere=True)
    async with AuditLogger(billing) as audit:
        audit.emit(success("alice"))
        await audit.flush()
        await logs.run(orders, erase="alice")
        with anyio.fail_after(60):
            while not recorded(billing, event_type="audit.erasure_noticed"):
                await anyio.sleep(0.1)
                await audit.flush()
    (noticed,) = recorded(billing, event_type="audit.erasure_noticed")
    (started,) = recorded(orders, event_type="audit.erasure_started")
    assert noticed["event"]["epoch"] == started["event"]["epoch"] == 1
    assert noticed["event"]["erased_key"] == started["event"]["key_ids"][-1]
    assert recorded(orders, event_type="audit.erasure_noticed") == []


async def test_a_copy_that_was_taken_during_an_erasure_contradicts_itself(logs: Logs, tmp_path: Path) -> None:
    """Files of different moments: the main file says that a key is gone which its month's file has."""
    orders = logs.config("orders")
    await logs.run(orders, "alice", "bob")
    months = [(month, month.read_bytes()) for month in (tmp_path / "keys").glob("keys-*.db")]
    await logs.run(orders, erase="alice")
    for month, content in months:
        month.write_bytes(content)
    assert logs.living() == ["alice", "bob"]
    await logs.run(logs.config("crm"))
    assert logs.living() == ["bob"]


async def test_another_key_store_is_not_taken_for_an_old_one(logs: Logs, config_for: ConfigFor, tmp_path: Path) -> None:
    """It never had the keys, so nothing can be readable again: it opens what is sealed under its own."""
    orders = logs.config("orders", elsewhere=True)
    await logs.run(logs.config("billing", elsewhere=True), "bob", erase="bob")
    await logs.run(orders, "alice", erase="alice")
    create_key_store(tmp_path / "other", f"file:{tmp_path / 'master.key'}")
    shutil.rmtree(tmp_path / "keys")
    (tmp_path / "other").rename(tmp_path / "keys")
    assert await logs.run(orders, "carol") is None
    assert logs.missing() == 0
    assert opened(orders, tmp_path)[-1].event["actor"]["user_id"] == "carol"  # type: ignore[index]


DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from audit_async import AuditConfig, AuditLogger, Local
from audit_async.config import Privacy
from audit_async.privacy.sqlite_key_store import SqliteKeyStore

base, service, step, when = Path(sys.argv[1]), *sys.argv[2:]
real = getattr(SqliteKeyStore, step)

def call(*args, **kwargs):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(SqliteKeyStore, step, call)

async def main():
    privacy = Privacy(key_store=str(base / "keys"), master_key=f"file:{base / 'master.key'}")
    mode = Local(base / sys.argv[2])
    async with AuditLogger(AuditConfig(mode=mode, service_id=service, handle_signals=False, privacy=privacy)):
        print("open", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("first", ["orders", "billing"])
@pytest.mark.parametrize(("step", "when"), [("destroy", "before"), ("destroy", "after"), ("catch_up", "before"),
                                            ("catch_up", "after")])  # fmt: skip
async def test_an_opening_that_is_killed_half_way_is_repeated(
    logs: Logs, tmp_path: Path, first: str, step: str, when: str
) -> None:
    """Whichever log is opened next, in the end nobody who was erased can be read."""
    orders, billing = logs.config("orders", elsewhere=True), logs.config("billing", elsewhere=True)
    await logs.run(orders, "alice", "bob", "carol")
    await logs.run(billing, "alice", "carol")
    logs.back_up()
    await logs.run(orders, erase="alice")
    await logs.run(billing, erase="bob")
    logs.restore()
    died = await anyio.run_process([sys.executable, "-c", DYING, str(tmp_path), first, step, when], check=False)
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, b""), died.stderr.decode()
    for config in (billing, orders):
        await logs.run(config)
    assert logs.living() == ["carol"]
    assert logs.missing() == 0
    assert opened(orders, tmp_path)[-1].event["actor"]["user_id"] == "carol"  # type: ignore[index]


async def test_what_is_missing_for_good_can_be_accepted(logs: Logs, tmp_path: Path) -> None:
    """The log that recorded the erasure is gone: somebody has to say that it does not matter."""
    orders, billing = logs.config("orders", elsewhere=True), logs.config("billing", elsewhere=True)
    await logs.run(orders, "alice")
    await logs.run(billing, "bob")
    logs.back_up()
    await logs.run(orders, erase="alice")
    await logs.run(billing)
    logs.restore()
    await logs.run(billing)
    shutil.rmtree(tmp_path / "orders")
    store = open_store(tmp_path / "keys")
    assert store.accept_missing() == 1
    assert store.accept_missing() == 0
    store.close()
    for _ in range(2):
        assert await logs.run(billing) is None
        assert opened(billing, tmp_path)[0].event["actor"]["user_id"] == "bob"  # type: ignore[index]


async def test_two_logs_that_are_opened_at_once_agree(
    logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has seen the store as it came back; the other has destroyed again meanwhile what the first calls missing."""
    orders, billing = logs.config("orders", elsewhere=True), logs.config("billing", elsewhere=True)
    await logs.run(orders, "alice")
    await logs.run(billing, "bob")
    logs.back_up()
    await logs.run(orders, erase="alice")
    await logs.run(billing)
    logs.restore()
    real = SqliteKeyStore.catch_up

    def after_the_other(self: SqliteKeyStore, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(SqliteKeyStore, "catch_up", real)
        anyio.run(logs.run, orders)
        real(self, *args, **kwargs)

    monkeypatch.setattr(SqliteKeyStore, "catch_up", after_the_other)
    assert await logs.run(billing) is None
    assert logs.missing() == 0
    assert logs.living() == ["bob"]


async def test_an_erasure_in_an_archive_that_the_host_cannot_read_counts_as_missing(
    config_for: ConfigFor, tmp_path: Path, logs: Logs
) -> None:
    """The log opens and records; what is sealed stays shut, since nobody knows whom to erase again."""
    config = sealing(
        config_for,
        tmp_path,
        service_id="orders",
        mode=Local(tmp_path / "audit"),
        rotation=RotationPolicy(max_bytes=4096),
        retention=RetentionPolicy(archive_after_days=0, archive_recipients=(RECIPIENT,)),
    )
    await logs.run(config, "alice")
    logs.back_up()
    async with AuditLogger(config) as audit:
        await audit.erase_subject("alice", reason="asked", requested_by="officer")
        for number in range(40):
            await audit.emit_durable(failure(number))
    log = tmp_path / "audit" / "orders" / "00"
    assert all(b"audit.erasure_started" not in path.read_bytes() for path in log.glob("*.audit"))
    logs.restore()
    trouble = await logs.run(config, "bob")
    assert trouble is not None
    assert "nothing that is sealed can be read" in trouble
    assert (logs.living(), logs.missing()) == (["alice", "bob"], 1)
    store = open_store(tmp_path / "keys")
    with pytest.raises(KeyStoreOutdated):
        async for _ in AuditReader(tmp_path / "audit", key_store=store, identities=IDENTITIES).query(AuditQuery()):
            pass
    store.close()
