"""The key store on the command line: made, shown, rotated, copied, recovered; no key is ever printed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from audit_async.privacy import MasterKeyError, new_master_key, open_key_store
from tests.cli.commands import Audit, run_in_pipes
from tests.privacy.key_stores import ALICE, TODAY, some_keys


@pytest.fixture
def made(tmp_path: Path, audit: Audit) -> Path:
    """Return a key store that the command made, with its master key next to it, and keys of three days in it."""
    key = f"file:{tmp_path / 'master.key'}"
    ended = audit("keystore", "init", tmp_path / "keys", "--master-key", key, "--make-key")
    assert (ended.status, ended.err) == (0, "")
    store = open_key_store(tmp_path / "keys", key)
    keys = [made for back in range(3) for made in some_keys(store, ALICE, 4, day=TODAY - back)]
    store.open_session("orders/00").insert(keys)
    store.close()
    return tmp_path / "keys"


def keys_in(path: Path, master_key: Path) -> int:
    """Return how many keys of the subject a store opens."""
    store = open_key_store(path, f"file:{master_key}")
    try:
        return len(store.keys(store.find(ALICE)))
    finally:
        store.close()


def test_a_key_store_is_made_and_shown(made: Path, tmp_path: Path, audit: Audit) -> None:
    """The key file is its owner's alone; the status needs no key, and proves one that is given."""
    key = tmp_path / "master.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    shown = audit("keystore", "status", made)
    assert (shown.status, shown.err) == (0, "")
    for part in (str(made), str(key), "no: if the master key is lost", "3 (", "no log", "0 begun"):
        assert part in shown.out
    assert key.read_text().strip() not in shown.out
    document = audit("keystore", "status", made, "--master-key", f"file:{key}", "--json").document
    assert document["opens"] is True
    assert document["status"]["days"] == 3
    assert document["status"]["normalize"] == "NFC"
    assert audit("keystore", "status", made, "--json").document["opens"] is None


def test_the_status_says_what_keeps_keys_and_who_uses_them(made: Path, tmp_path: Path, audit: Audit) -> None:
    """Holds, erasures that have not ended, and the logs that are open."""
    store = open_key_store(made, f"file:{tmp_path / 'master.key'}")
    session = store.open_session("orders/07")
    store.begin_erasure(ALICE, "erasure-1")
    store.set_hold("log-1", "case-7")
    status = audit("keystore", "status", made, "--json").document["status"]
    assert status["sessions"] == ["orders/07"]
    assert status["holds"] == [["log-1", "case-7"]]
    assert status["unfinished_erasures"] == ["erasure-1"]
    assert status["epoch"] == 1
    session.close()
    store.close()


def test_a_journal_that_vanishes_while_the_status_is_taken(
    made: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's journals come and go: one that is gone after the listing is no error."""
    real = os.scandir

    @contextmanager
    def scandir(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        journal = Path(path) / "2026-11.sqlite3-journal"
        journal.write_bytes(b"")
        with real(path) as entries:
            found = list(entries)
        journal.unlink()
        yield found

    monkeypatch.setattr(os, "scandir", scandir)
    assert audit("keystore", "status", made, "--json").document["status"]["size_bytes"] > 0


def test_a_wrong_key_and_a_missing_store_end_with_status_3(made: Path, tmp_path: Path, audit: Audit) -> None:
    """With the source's name and what to do; never what the source holds."""
    other = tmp_path / "other.key"
    other.write_text("ab" * 32)
    other.chmod(0o600)
    ended = audit("keystore", "status", made, "--master-key", f"file:{other}")
    assert ended.status == 3
    assert "other.key is not the master key" in ended.err
    assert "abab" not in ended.err
    ended = audit("keystore", "status", tmp_path / "nowhere")
    assert ended.status == 3
    assert "audit-async keystore init" in ended.err


def test_nothing_is_made_over_anything(made: Path, tmp_path: Path, audit: Audit) -> None:
    """Neither a store nor a key file; and a key is made in a file only."""
    before = (tmp_path / "master.key").read_bytes()
    key = f"file:{tmp_path / 'master.key'}"
    assert audit("keystore", "init", made, "--master-key", key).status == 3
    ended = audit("keystore", "init", tmp_path / "second", "--master-key", key, "--make-key")
    assert ended.status == 3
    assert "never overwritten" in ended.err
    assert (tmp_path / "master.key").read_bytes() == before
    assert audit("keystore", "init", tmp_path / "second", "--master-key", "env:KEY", "--make-key").status == 2
    assert audit("keystore", "init", tmp_path / "second", "--master-key", "file:").status == 2


def test_a_store_in_the_trail_is_refused(tmp_path: Path, audit: Audit) -> None:
    """It would be copied with the trail."""
    (tmp_path / "audit").mkdir()
    key = f"file:{tmp_path / 'master.key'}"
    trail = tmp_path / "audit"
    ended = audit("keystore", "init", trail / "keys", "--master-key", key, "--make-key", "--trail", trail)
    assert ended.status == 3
    assert "outside of it" in ended.err


def test_the_master_key_is_rotated(made: Path, tmp_path: Path, audit: Audit) -> None:
    """The new key opens everything, the old one nothing; the same again finds it done, by a third key it is refused."""
    old, new = tmp_path / "master.key", tmp_path / "new.key"
    ended = audit(
        "keystore",
        "rotate-master",
        made,
        "--master-key",
        f"file:{old}",
        "--new-master-key",
        f"file:{new}",
        "--make-key",
    )
    assert (ended.status, ended.err) == (0, "")
    assert "3 days" in ended.out
    assert keys_in(made, new) == 12
    with pytest.raises(MasterKeyError):
        keys_in(made, old)
    again = audit("keystore", "rotate-master", made, "--master-key", f"file:{old}", "--new-master-key", f"file:{new}")
    assert (again.status, again.err) == (0, "")
    assert "3 days" in again.out
    third = tmp_path / "third.key"
    third.write_bytes(new_master_key())
    third.chmod(0o600)
    without = audit(
        "keystore", "rotate-master", made, "--master-key", f"file:{old}", "--new-master-key", f"file:{third}"
    )
    assert without.status == 3
    assert keys_in(made, new) == 12


def test_a_copy_needs_no_key_and_opens_by_the_same(made: Path, tmp_path: Path, audit: Audit) -> None:
    """Also while a service has the store open; a second copy to the same place is refused."""
    store = open_key_store(made, f"file:{tmp_path / 'master.key'}")
    document = audit("keystore", "backup", made, tmp_path / "copy", "--json").document
    store.close()
    assert document["files"] == len(list(made.glob("*.db")))
    assert keys_in(tmp_path / "copy", tmp_path / "master.key") == 12
    assert audit("keystore", "backup", made, tmp_path / "copy").status == 3


def test_the_escrow_key_opens_a_store_whose_master_key_is_lost(tmp_path: Path, audit: Audit) -> None:
    """It and no other; the store is then under a new master key, and the escrow remains."""
    private = rsa.generate_private_key(65537, 3072)
    public = tmp_path / "escrow.pub"
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for name, key in (("escrow.pem", private), ("wrong.pem", rsa.generate_private_key(65537, 3072))):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / name).write_bytes(pem)
        (tmp_path / name).chmod(0o600)
    path, lost, new = tmp_path / "keys", tmp_path / "lost.key", tmp_path / "new.key"
    ended = audit("keystore", "init", path, "--master-key", f"file:{lost}", "--make-key", "--escrow", public)
    assert (ended.status, ended.err) == (0, "")
    store = open_key_store(path, f"file:{lost}")
    store.open_session("orders/00").insert(some_keys(store, ALICE, 3))
    store.close()
    lost.unlink()
    recover = ("keystore", "recover", path, "--new-master-key", f"file:{new}")
    wrong = audit(*recover, "--make-key", "--escrow-key", tmp_path / "wrong.pem")
    assert wrong.status == 3
    assert "not the escrow key" in wrong.err
    assert audit(*recover, "--escrow-key", tmp_path / "escrow.pem").status == 0
    assert keys_in(path, new) == 3
    assert audit("keystore", "status", path, "--json").document["status"]["has_escrow"] is True
    # The master key's next rotation wraps for the escrow key as well.
    store = open_key_store(path, f"file:{new}")
    store.rotate_master_key(f"file:{new}")
    store.close()
    assert audit(*recover, "--escrow-key", tmp_path / "escrow.pem").status == 0


def test_a_store_without_escrow_is_not_recovered(made: Path, tmp_path: Path, audit: Audit) -> None:
    """And what is no RSA key of enough bits is no escrow key."""
    pem = tmp_path / "escrow.pem"
    private = rsa.generate_private_key(65537, 2048)
    pem.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pem.chmod(0o600)
    key = f"file:{tmp_path / 'master.key'}"
    ended = audit("keystore", "recover", made, "--escrow-key", pem, "--new-master-key", key)
    assert ended.status == 3
    assert "without an escrow key" in ended.err
    public = tmp_path / "escrow.pub"
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    ended = audit("keystore", "init", tmp_path / "second", "--master-key", key, "--escrow", public)
    assert ended.status == 3
    assert "3072 to 4096 bits" in ended.err


def test_the_real_command_has_examples(made: Path) -> None:
    """Through a process, with the store from the environment."""
    ended = run_in_pipes("keystore", "status", AUDIT_KEY_STORE=str(made))
    assert ended.status == 0, ended.err
    assert str(made) in ended.out
    for command in ("init", "status", "rotate-master", "backup", "recover"):
        helped = run_in_pipes("keystore", command, "--help")
        assert helped.status == 0
        assert "Example: audit-async keystore" in " ".join(helped.out.split())
