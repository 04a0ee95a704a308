"""`doctor` with a key store: who can open it, whether it came back from a backup, and whether a master key opens it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from audit_async.privacy import create_key_store, new_master_key
from tests.cli.commands import Audit
from tests.cli.test_erase import ASKED, Service


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service that has recorded two persons."""
    service = Service(tmp_path)
    service.run("alice", "bob")
    return service


def found(
    audit: Audit, service: Service, *options: str | Path, status: int = 0
) -> dict[tuple[str, str], tuple[str, str]]:
    """Return what the doctor found of the key store, by subject and name."""
    ended = audit("doctor", service.base_dir, "--json", *(options or service.keys))
    assert ended.status == status, ended.out + ended.err
    checks: list[dict[str, Any]] = ended.document["checks"]
    return {
        (check["subject"], check["name"]): (check["status"], check["text"])
        for check in checks
        if "key store" in (check["subject"], check["name"])
    }


def test_a_sound_key_store(audit: Audit, service: Service) -> None:
    """Nothing is wrong, and nothing of a person is shown."""
    assert audit("erase", service.base_dir, *ASKED, *service.keys).status == 0
    checks = found(audit, service)
    assert {of: status for of, (status, _) in checks.items()} == {
        ("key store", "place"): "ok",
        ("key store", "erasures"): "ok",
        ("key store", "recent erasures"): "warn",
        ("key store", "backup"): "warn",
        ("key store", "escrow"): "warn",
        ("key store", "master key"): "ok",
        ("orders/00", "key store"): "ok",
    }
    assert "1 erasure" in checks["orders/00", "key store"][1]
    without_key = found(audit, service, "--key-store", service.store)
    assert ("key store", "master key") not in without_key


def test_the_configured_key_store_is_checked(audit: Audit, service: Service, tmp_path: Path) -> None:
    """No option names it: the configuration does."""
    file = tmp_path / "audit.toml"
    file.write_text(
        f'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "{service.base_dir}"\n'
        f'[privacy]\nkey_store = "{service.store}"\nmaster_key = "{service.master_key}"\n'
    )
    checks = found(audit, service, "--config", file)
    assert checks["key store", "master key"][0] == "ok"


def test_a_store_that_others_can_open_is_wrong(audit: Audit, service: Service) -> None:
    """So is one that is not there."""
    service.store.chmod(0o750)
    status, text = found(audit, service, status=1)["key store", "place"]
    assert status == "fail"
    assert "chmod 700" in text
    service.store.rename(service.store.with_name("lost"))
    status, text = found(audit, service, status=1)["key store", "place"]
    assert status == "fail"
    assert "restore it from its backup" in text


def test_a_store_from_a_backup_is_noticed_before_a_service_starts(audit: Audit, service: Service) -> None:
    """It knows less than the chain states: persons who were erased are legible."""
    copy = service.store.with_name("copy")
    assert audit("keystore", "backup", service.store, copy).status == 0
    assert audit("erase", service.base_dir, *ASKED, *service.keys).status == 0
    shutil.rmtree(service.store)
    copy.rename(service.store)
    status, text = found(audit, service, status=1)["orders/00", "key store"]
    assert status == "fail"
    assert "came back from a backup" in text
    service.run("bob")
    assert found(audit, service)["orders/00", "key store"][0] == "ok"


def test_another_store_and_another_key_are_wrong(audit: Audit, service: Service, tmp_path: Path) -> None:
    """Each is named, and no key is."""
    other = tmp_path / "other.key"
    other.write_bytes(new_master_key())
    other.chmod(0o600)
    create_key_store(tmp_path / "others", f"file:{other}")
    status, text = found(audit, service, "--key-store", tmp_path / "others", status=1)["orders/00", "key store"]
    assert status == "fail"
    assert "another one" in text
    keys = ("--key-store", service.store, "--master-key", f"file:{other}")
    status, text = found(audit, service, *keys, status=1)["key store", "master key"]
    assert status == "fail"
    assert "is not the master key" in text
    assert other.read_text().strip() not in text
