"""The master key: its sources, the proof that it is the store's, and its rotation while services run."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_async import AuditLogger
from audit_async.errors import ConfigError
from audit_async.privacy import (
    ExternalMasterKey,
    KeyStoreUnavailable,
    MasterKeyError,
    MasterKeySource,
    SqliteKeyStore,
    create_key_store,
    new_master_key,
    open_key_store,
)
from audit_async.privacy.master_key import load_master_key
from tests.logs import ConfigFor
from tests.privacy.key_stores import ALICE, TODAY, copies_in_files, make_store, open_store, some_keys
from tests.privacy.sealed_logs import opened, recorded, sealing, success

SECRET = bytes(range(1, 33))


def written(path: Path, content: bytes, mode: int = 0o600) -> str:
    """Write a secret to a file; return its source."""
    path.write_bytes(content)
    path.chmod(mode)
    return f"file:{path}"


def kms(master: bytes = SECRET, asked: list[str] | None = None) -> ExternalMasterKey:
    """Return a KMS that wraps as a local key does, and notes what it was asked for."""
    inner = load_master_key(_raw_source(master), b"")

    def noted(function: Callable[[bytes, str], bytes]) -> Callable[[bytes, str], bytes]:
        def call(key: bytes, purpose: str) -> bytes:
            if asked is not None:
                asked.append(purpose)
            return function(key, purpose)

        return call

    return ExternalMasterKey(name="arn:kms:key/1", wrap=noted(inner.wrap), unwrap=noted(inner.unwrap))


def _raw_source(master: bytes) -> str:
    os.environ["AUDIT_TEST_KMS"] = master.hex()
    return "env:AUDIT_TEST_KMS"


class TestSources:
    """Every source gives the same key, and a wrong one is named, never quoted."""

    def test_every_source_and_spelling_opens_the_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Raw, hex, base64 of both alphabets; a file, the environment, a credential of systemd, a KMS."""
        raw = written(tmp_path / "raw", SECRET)
        create_key_store(tmp_path / "keys", raw)
        monkeypatch.setenv("MASTER", base64.urlsafe_b64encode(SECRET).decode())
        (tmp_path / "credentials").mkdir()
        written(tmp_path / "credentials" / "master", SECRET.hex().encode(), 0o440)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
        sources: tuple[MasterKeySource, ...] = (
            raw,
            str(tmp_path / "raw"),
            written(tmp_path / "base64", base64.b64encode(SECRET) + b"\n"),
            written(tmp_path / "base64url", base64.urlsafe_b64encode(SECRET).rstrip(b"=")),
            written(tmp_path / "hex", SECRET.hex().upper().encode() + b"\n"),
            "env:MASTER",
            "credential:master",
            kms(),
        )
        for source in sources:
            open_key_store(tmp_path / "keys", source).close()

    def test_a_passphrase_opens_the_store_that_it_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the store's own salt, so the same passphrase is another key elsewhere."""
        source = "passphrase:" + written(tmp_path / "pass", b"correct horse battery\n")
        for name in ("one", "two"):
            create_key_store(tmp_path / name, source)
        open_key_store(tmp_path / "one", source).close()
        monkeypatch.setenv("PASS", "correct horse batterx")
        with pytest.raises(MasterKeyError, match="environment variable PASS is not the master key"):
            open_key_store(tmp_path / "one", "passphrase:env:PASS")
        (tmp_path / "one" / "main.db").write_bytes((tmp_path / "two" / "main.db").read_bytes())
        open_key_store(tmp_path / "one", source).close()
        monkeypatch.setenv("PASS", "short")
        with pytest.raises(MasterKeyError, match="shorter than 12"):
            open_key_store(tmp_path / "one", "passphrase:env:PASS")

    def test_a_wrong_key_is_named_and_not_shown(self, tmp_path: Path) -> None:
        """Another key, no key, one that others can read, one that is not there."""
        create_key_store(tmp_path / "keys", written(tmp_path / "raw", SECRET))
        other = bytes(range(2, 34))
        for source, reason in (
            (written(tmp_path / "other", other.hex().encode()), "is not the master key of this key store"),
            (written(tmp_path / "long", b"SECRETSECRET" * 4), "holds no master key: 32 bytes"),
            (written(tmp_path / "open", SECRET, 0o644), "run: chmod 600"),
            (f"file:{tmp_path / 'nowhere'}", "nowhere can't be read"),
            ("env:NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set"),
        ):
            with pytest.raises(MasterKeyError, match=reason) as caught:
                open_key_store(tmp_path / "keys", source)
            assert other.hex() not in str(caught.value)
            assert "SECRETSECRET" not in str(caught.value)
        with pytest.raises(ConfigError, match=r"privacy\.master_key"):
            open_key_store(tmp_path / "keys", "file:")

    def test_a_kms_that_answers_with_another_key_is_found_out(self, tmp_path: Path) -> None:
        """The canary proves what it returned, not only that it answered."""
        create_key_store(tmp_path / "keys", kms())
        for answer, reason in (
            (bytes(32), "not the master key"),
            (bytes(5), "not the master key"),
            ("text", "no bytes"),
        ):
            lying = ExternalMasterKey(name="arn:kms:key/2", wrap=lambda *_: b"", unwrap=lambda *_, a=answer: a)
            with pytest.raises(MasterKeyError, match=f"arn:kms:key/2.*{reason}|{reason}.*arn:kms:key/2"):
                open_key_store(tmp_path / "keys", lying)

    def test_a_kms_is_asked_once_a_day_and_its_failure_is_worth_a_retry(self, tmp_path: Path) -> None:
        """Never for each subject; an exception of the client is not passed on, since it may quote its request."""
        asked: list[str] = []
        create_key_store(tmp_path / "keys", kms(asked=asked))
        store = open_key_store(tmp_path / "keys", kms(asked=asked))
        session = store.open_session("orders/00")
        asked.clear()
        for _ in range(5):
            session.insert(some_keys(store, ALICE, 10))
        assert len(asked) == 1
        store.close()

        def refuse(*_: object) -> bytes:
            raise RuntimeError("denied for token SECRET")

        with pytest.raises(KeyStoreUnavailable, match=r"could not unwrap a key: RuntimeError") as caught:
            open_key_store(tmp_path / "keys", ExternalMasterKey(name="arn", wrap=refuse, unwrap=refuse))
        assert "SECRET" not in str(caught.value)
        assert isinstance(caught.value, OSError)

    def test_an_external_key_is_checked_early(self) -> None:
        """At its making, not at the first new day."""
        with pytest.raises(ConfigError, match="printable"):
            ExternalMasterKey(name="", wrap=lambda key, _: key, unwrap=lambda key, _: key)
        with pytest.raises(ConfigError, match="wrap and unwrap"):
            ExternalMasterKey(name="arn", wrap=None, unwrap=lambda key, _: key)  # type: ignore[arg-type]


class TestRotation:
    """After a rotation the new key opens everything, the old one nothing, and a service that runs goes on."""

    def test_the_new_key_opens_everything_and_the_old_one_nothing(self, tmp_path: Path) -> None:
        """Data keys and pseudonyms are what they were; no wrap by the old key is left in any file."""
        path = make_store(tmp_path)
        store = open_store(path)
        days = [TODAY - back for back in range(0, 90, 7)]
        keys = [key for day in days for key in some_keys(store, ALICE, 2, day=day)]
        store.open_session("orders/00").insert(keys)
        old_wraps = [store._main.wrapped(day) or b"" for day in (-1, *days)]
        assert sum(copies_in_files(path, old_wraps).values()) >= len(old_wraps)
        new = written(tmp_path / "new.key", new_master_key())
        assert store.rotate_master_key(new) == len(days)
        assert copies_in_files(path, old_wraps) == {}
        assert store.find(ALICE)
        store.close()
        with pytest.raises(MasterKeyError, match=r"master\.key is not the master key"):
            open_store(path)
        again = open_key_store(path, new)
        assert again.keys(key.key_id for key in keys) == {key.key_id: key.key for key in keys}
        assert sorted(again.find(ALICE)) == sorted(key.key_id for key in keys)
        assert again.rotate_master_key("passphrase:" + written(tmp_path / "pass", b"correct horse battery")) == len(
            days
        )
        again.close()

    def test_a_service_that_runs_goes_on(self, tmp_path: Path) -> None:
        """With the keys that it has; for a new day it reads its source again, and wraps nothing by the old key."""
        path = make_store(tmp_path)
        service, admin = open_store(path), open_store(path)
        session = service.open_session("orders/00")
        session.insert(some_keys(service, ALICE, 2))
        new = written(tmp_path / "new.key", new_master_key())
        admin.rotate_master_key(new)
        assert session.insert(some_keys(service, ALICE, 2)) == []  # the day's key is in memory
        tomorrow = some_keys(service, ALICE, 2, day=TODAY + 1)
        with pytest.raises(MasterKeyError, match=r"master\.key is not the master key"):
            session.insert(tomorrow)
        (tmp_path / "master.key").write_bytes((tmp_path / "new.key").read_bytes())
        assert session.insert(tomorrow) == []
        assert len(admin.keys(service.find(ALICE))) == 6
        service.close()
        admin.close()

    @pytest.mark.anyio
    async def test_a_log_that_has_the_old_key_keeps_events_until_it_has_the_new_one(
        self, config_for: ConfigFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a new day: nothing is lost, nothing is written without its key, and the health says what to do."""
        config = sealing(config_for, tmp_path)
        # As if each key were the first of a new day: none is kept in memory.
        monkeypatch.setattr(SqliteKeyStore, "_remember", lambda _self, _day, key: AESGCM(key))
        async with AuditLogger(config) as audit:
            await audit.emit(success("alice")).durable()
            admin = open_store(tmp_path / "keys")
            new = written(tmp_path / "new.key", new_master_key())
            admin.rotate_master_key(new)
            receipt = audit.emit(success("bob"))
            with anyio.fail_after(60):
                while "not the master key" not in (audit.health().reason or ""):
                    await anyio.sleep(0.05)
            assert not receipt.is_durable
            assert len(recorded(config)) == 1
            (tmp_path / "master.key").write_bytes((tmp_path / "new.key").read_bytes())
            with anyio.fail_after(60):
                await receipt.durable()
            admin.close()
        assert [one.event["actor"]["user_id"] for one in opened(config, tmp_path)] == ["alice", "bob"]  # type: ignore[index]

    def test_a_rotation_that_fails_changes_nothing(self, tmp_path: Path) -> None:
        """A KMS that fails in the middle: the old key opens the store."""
        path = make_store(tmp_path)
        store = open_store(path)
        store.open_session("orders/00").insert(
            [key for back in range(5) for key in some_keys(store, ALICE, 1, day=TODAY - back)]
        )
        calls: list[str] = []

        def fails_later(key: bytes, purpose: str) -> bytes:
            calls.append(purpose)
            if len(calls) > 3:
                raise TimeoutError
            return key

        with pytest.raises(KeyStoreUnavailable, match="TimeoutError"):
            store.rotate_master_key(ExternalMasterKey(name="arn", wrap=fails_later, unwrap=fails_later))
        store.close()
        again = open_store(path)
        assert len(again.keys(again.find(ALICE))) == 5
        again.close()
