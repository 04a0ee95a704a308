"""A log never signs two histories: every way to make it do so that its own files can show is refused, loudly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit_async.errors import ConfigError
from audit_async.tlog.checkpoint import Checkpoint
from audit_async.tlog.failures import LogForked, LogRolledBack, TilesDamaged
from tests.tlog.trees import ORIGIN, mth, open_publisher, publish, publish_all, records, sign, signer


def test_a_truncated_tail(tmp_path: Path) -> None:
    """A log that has fewer records than it has signed is not opened."""
    log = records(300)
    publish_all(tmp_path / "tlog", log)
    for size in (299, 200, 0):
        with pytest.raises(LogRolledBack, match=f"has {size} records.* is for 300"):
            open_publisher(tmp_path / "tlog", log[:size])


@pytest.mark.parametrize("at", [0, 150, 299])
def test_a_rewritten_trail(tmp_path: Path, at: int) -> None:
    """Records changed behind a checkpoint change the hash of its last one through the chain, which is compared."""
    log = records(300)
    publish_all(tmp_path / "tlog", log)
    rewritten = log[:at] + records(400, salt="rewritten")[at:]  # a chain: each hash depends on all before it
    with pytest.raises(LogForked, match="record 299"):
        open_publisher(tmp_path / "tlog", rewritten)


def test_records_that_were_signed_and_not_published(tmp_path: Path) -> None:
    """A crash after signing leaves no published checkpoint; the guard still holds the log to it."""
    log = records(300)
    publisher = open_publisher(tmp_path / "tlog", log)
    publisher.append(log)
    signed = sign(publisher.prepare())  # somebody may have it
    publisher.close()
    assert not (tmp_path / "tlog/checkpoint").exists()
    with pytest.raises(LogForked):
        open_publisher(tmp_path / "tlog", records(300, salt="other"))
    with pytest.raises(LogRolledBack):
        open_publisher(tmp_path / "tlog", log[:299])
    publisher = open_publisher(tmp_path / "tlog", log)
    assert publisher.committed == signed.checkpoint
    assert publisher.published is None
    assert publish(publisher, log) == signed
    publisher.close()


def restored_backup(tmp_path: Path, **settings: object) -> None:
    """Publish 200 records, keep a copy of the log's own directory, publish 300, and put the copy back."""
    log = records(300)
    publish_all(tmp_path / "tlog", log[:200], **settings)
    shutil.copytree(tmp_path / "tlog", tmp_path / "backup")
    publish_all(tmp_path / "tlog", log, **settings)
    shutil.rmtree(tmp_path / "tlog")
    shutil.copytree(tmp_path / "backup", tmp_path / "tlog")


def test_a_restored_backup_beside_a_guard_elsewhere(tmp_path: Path) -> None:
    """A guard that was not restored remembers what was signed since: neither 200 nor other records are signed."""
    guard = tmp_path / "elsewhere"
    restored_backup(tmp_path, guard=guard)
    with pytest.raises(LogRolledBack, match="elsewhere is for 300"):
        open_publisher(tmp_path / "tlog", records(200), guard=guard)
    other = records(200) + records(350, salt="other")[200:]
    publisher = open_publisher(tmp_path / "tlog", other, guard=guard)
    with pytest.raises(LogForked, match="elsewhere has another root"):
        publisher.append(other[publisher.size :])
    with pytest.raises(LogForked, match="elsewhere has another root"):
        publisher.append([])
    with pytest.raises(LogForked, match="elsewhere has another root"):
        publisher.prepare()  # also where the caller goes on as if nothing had happened
    publisher.close()
    publisher = open_publisher(tmp_path / "tlog", records(350), guard=guard)
    publisher.append(records(250)[publisher.size :])
    with pytest.raises(LogRolledBack):
        publisher.prepare()
    publisher.close()


def test_a_restored_backup_whose_records_are_all_there_goes_on(tmp_path: Path) -> None:
    """Where only the tree came back from a backup, and the trail has what was signed, the log goes on by itself."""
    guard = tmp_path / "elsewhere"
    restored_backup(tmp_path, guard=guard)
    publisher = open_publisher(tmp_path / "tlog", records(320), guard=guard)
    assert publisher.size == 200
    assert publish(publisher, records(320)).checkpoint.root == mth(records(320))
    publisher.close()


def test_a_restored_backup_beside_what_is_published(tmp_path: Path) -> None:
    """The published directory was not restored with the log: its checkpoint counts as one that the log has signed."""
    www = tmp_path / "www"
    restored_backup(tmp_path, publish_dir=www)
    with pytest.raises(LogRolledBack, match="checkpoint is for 300"):
        open_publisher(tmp_path / "tlog", records(200), publish_dir=www)
    with pytest.raises(LogForked):
        open_publisher(tmp_path / "tlog", records(300, salt="other"), publish_dir=www)


def test_a_restored_publication_beside_the_guard(tmp_path: Path) -> None:
    """The other way round: the published directory came back, the log did not; its tiles are made anew."""
    log, www = records(300), tmp_path / "www"
    publish_all(tmp_path / "tlog", log[:200], publish_dir=www)
    shutil.copytree(www, tmp_path / "backup")
    signed = publish_all(tmp_path / "tlog", log, publish_dir=www)
    shutil.rmtree(www)
    shutil.copytree(tmp_path / "backup", www)
    with pytest.raises(LogRolledBack):
        open_publisher(tmp_path / "tlog", log[:200], publish_dir=www)
    publisher = open_publisher(tmp_path / "tlog", log, publish_dir=www)
    assert publisher.size == 200
    assert publish(publisher, log) == signed
    publisher.close()


def test_a_whole_restored_backup_beside_a_witness(tmp_path: Path) -> None:
    """Where everything local came back, what others remember is brought in as `known`, before anything is signed."""
    restored_backup(tmp_path)
    remembered = (Checkpoint(ORIGIN, 300, mth(records(300))), "the checkpoint that the witness has cosigned")
    with pytest.raises(LogRolledBack, match="the witness has cosigned is for 300"):
        open_publisher(tmp_path / "tlog", records(200), known=[remembered])


def test_checkpoints_in_the_chain_bind_a_log_whose_tree_was_removed(tmp_path: Path) -> None:
    """Somebody who removes `tlog/` gets no fresh start: what the chain records of checkpoints must still come out."""
    log = records(300)
    known = [(publish_all(tmp_path / "tlog", log).checkpoint, "the checkpoint in record 301")]
    shutil.rmtree(tmp_path / "tlog")
    other = records(320, salt="other")
    publisher = open_publisher(tmp_path / "tlog", other, known=known)
    with pytest.raises(LogForked, match="record 301 has another root"):
        publisher.append(other)
    publisher.close()


def test_tiles_and_guard_of_another_history(tmp_path: Path) -> None:
    """Exchanging tiles, checkpoint and guard for those of a rewritten trail is found by the guard elsewhere."""
    log, other = records(300), records(300, salt="other")
    guard = tmp_path / "elsewhere"
    publish_all(tmp_path / "tlog", log, guard=guard)
    publish_all(tmp_path / "forged", other)
    shutil.rmtree(tmp_path / "tlog")
    shutil.copytree(tmp_path / "forged", tmp_path / "tlog")
    with pytest.raises(LogForked, match=r"different roots: .*guard and .*elsewhere"):
        open_publisher(tmp_path / "tlog", other, guard=guard)


def test_a_checkpoint_that_was_not_signed_by_the_log(tmp_path: Path) -> None:
    """A checkpoint by a foreign key in the published directory is not taken for the log's own."""
    log = records(300)
    signed = publish_all(tmp_path / "tlog", log)
    (tmp_path / "tlog/checkpoint").write_bytes(sign(signed.checkpoint, signer(2)).encode())
    with pytest.raises(TilesDamaged, match="not signed by any trusted key"):
        open_publisher(tmp_path / "tlog", log)


def test_two_logs_never_share_a_name_or_a_place(tmp_path: Path) -> None:
    """A directory or guard of another log is refused, and so is a log that is called otherwise than before."""
    publish_all(tmp_path / "tlog", records(3))
    other = "host.example/orders/01"
    with pytest.raises(ConfigError, match=r"transparency\.origin"):
        open_publisher(tmp_path / "tlog", records(3), origin=other, keys=[signer(1, other).key, signer().key])
    with pytest.raises(ConfigError, match=r"transparency\.origin"):
        open_publisher(tmp_path / "new", [], origin=other, keys=[signer(1, other).key], guard=tmp_path / "tlog/guard")
