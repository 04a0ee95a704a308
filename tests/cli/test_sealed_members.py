"""What a person sees of sealed members: in the clear with the key store, `[sealed]` without, and why if not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_async.privacy import NewKey, key_id_text, new_master_key, open_key_store
from audit_async.privacy.sealed_text import RANDOM_BYTES, event_place, key_prefix, seal_text
from tests.cli.commands import Audit
from tests.privacy.key_stores import ALICE, make_store, open_store, some_keys
from tests.trail.written import WrittenLog


class Trail(NamedTuple):
    """A trail with one sealed record, and its key store."""

    base_dir: Path
    keys: tuple[str, ...]  #: the options that name the store
    sealed: str
    key: NewKey


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    """A person logged in, and her name is sealed."""
    base_dir = tmp_path / "audit"
    store = open_store(make_store(tmp_path))
    (made,) = some_keys(store, ALICE, 1)
    session = store.open_session("orders/00")
    assert session.insert([made]) == []
    session.close()
    store.close()
    log = WrittenLog(base_dir)
    log_id = json.loads((log.directory / "log.json").read_bytes())["log_id"]
    key_id = key_id_text(made.key_id)
    associated = key_prefix(log_id, key_id) + event_place("auth.success", ("actor", "user_id"))
    sealed = seal_text(AESGCM(made.key), key_id, associated, b'"alice"', os.urandom(RANDOM_BYTES))
    actor = {"user_id": sealed, "auth_method": "api_key"}
    log.write(
        {"event_type": "audit.log_opened", "privacy": 1},
        {"event_type": "auth.success", "actor": actor, "method": "api_key", "path": "/"},
    )
    log.close()
    keys = ("--key-store", str(tmp_path / "keys"), "--master-key", f"file:{tmp_path / 'master.key'}")
    return Trail(base_dir, keys, sealed, made)


def test_a_person_sees_no_ciphertext(audit: Audit, trail: Trail) -> None:
    """Without the key store a sealed member is `[sealed]` in every view for people, and as recorded in JSON."""
    for command in (("query", trail.base_dir), ("tail", trail.base_dir), ("show", "1", trail.base_dir)):
        shown = audit(*command)
        assert shown.status == 0
        assert "[sealed]" in shown.out
        assert "sealed:1:" not in shown.out
    (record,) = audit("query", trail.base_dir, "--type", "auth.*", "--json").rows
    assert record["event"]["actor"]["user_id"] == trail.sealed


def test_with_the_key_store_names_are_shown(audit: Audit, trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options may come from the environment as well."""
    for command in (("query", trail.base_dir), ("tail", trail.base_dir), ("show", "1", trail.base_dir)):
        shown = audit(*command, *trail.keys)
        assert shown.status == 0
        assert "alice" in shown.out
        assert "sealed" not in shown.out
    (record,) = audit("query", trail.base_dir, "--type", "auth.*", "--json", *trail.keys).rows
    assert record["event"]["actor"]["user_id"] == "alice"
    monkeypatch.setenv("AUDIT_KEY_STORE", trail.keys[1])
    monkeypatch.setenv("AUDIT_MASTER_KEY", trail.keys[3])
    assert "alice" in audit("query", trail.base_dir).out


def test_an_erased_person_is_shown_as_erased(audit: Audit, trail: Trail) -> None:
    """With the date on which the key was destroyed."""
    store = open_key_store(trail.keys[1], trail.keys[3])
    begun = store.begin_erasure(ALICE, "e1")
    assert begun.key_ids == [trail.key.key_id]
    store.destroy(begun.key_ids, erasure_id="e1")
    store.close()
    shown = audit("query", trail.base_dir, "--type", "auth.*", *trail.keys)
    assert "[erased 20" in shown.out
    assert "alice" not in shown.out


def test_wrong_options_are_refused(audit: Audit, trail: Trail, tmp_path: Path) -> None:
    """A store without its key, one that is not there, and another key: each says what is wrong, and shows no key."""
    _, store, _, master_key = trail.keys
    missing = audit("query", trail.base_dir, "--key-store", store)
    assert (missing.status, "--master-key" in missing.err) == (2, True)
    nowhere = audit("query", trail.base_dir, "--key-store", tmp_path / "none", "--master-key", master_key)
    assert (nowhere.status, nowhere.out) == (3, "")
    other = tmp_path / "other.key"
    other.write_bytes(new_master_key())
    other.chmod(0o600)
    wrong = audit("query", trail.base_dir, "--key-store", store, "--master-key", f"file:{other}")
    assert (wrong.status, wrong.out) == (3, "")
    assert other.read_bytes().hex() not in wrong.err
