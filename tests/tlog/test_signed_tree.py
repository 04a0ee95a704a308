"""The published directory: whole, readable, carried on after an end of any kind, and cheap to open again."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_async._durable import disk
from audit_async.errors import ConfigError
from audit_async.tlog import published_files as publishing
from audit_async.tlog.checkpoint import verify_checkpoint
from audit_async.tlog.failures import InvalidSignature, LogForked, PublisherStopped, TilesDamaged
from audit_async.tlog.log_monitor import check_entries, directory_source
from audit_async.tlog.merkle import leaf_hash, verify_consistency, verify_inclusion
from audit_async.tlog.published_files import PublishedFiles
from audit_async.tlog.tiles import Tile
from tests.tlog.trees import mth, open_publisher, partial_tiles, publish, publish_all, records, sign, signer


def published_files(directory: Path) -> set[str]:
    """Return the paths of all files below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 70_000])
def test_what_is_published_is_what_the_standard_lists(tmp_path: Path, size: int) -> None:
    """Checkpoint, vkey, and exactly the tiles and bundles that a tree of this size has; entries are record hashes."""
    log = records(size)
    signed = publish_all(tmp_path / "tlog", log)
    content = (tmp_path / "tlog/checkpoint").read_bytes()
    assert content == signed.encode()
    assert (tmp_path / "tlog/vkey").read_text() == f"{signer().key}\n"
    verified = verify_checkpoint(content, [signer().key]).checkpoint
    assert (verified.size, verified.root) == (size, mth(log))
    levels = [level for level in range(3) if size >> (8 * (level + 1))]
    full = [Tile(level, number) for level in levels for number in range(size >> (8 * (level + 1)))]
    full += [Tile(None, number) for number in range(size // 256)]
    expected = {tile.path for tile in [*full, *partial_tiles(size)]}
    assert published_files(tmp_path / "tlog") == expected | {"checkpoint", "vkey", "guard"}
    check_entries(directory_source(tmp_path / "tlog"), verified)


def test_a_log_grows_and_is_opened_again(tmp_path: Path) -> None:
    """Each checkpoint follows from the one before, across openings; proofs of old and new records verify."""
    log = records(1500)
    heads = []
    for size in (1, 2, 200, 255, 256, 256, 511, 700, 1024, 1500):
        heads.append(publish_all(tmp_path / "tlog", log[:size]).checkpoint)
        assert heads[-1].root == mth(log[:size])
    publisher = open_publisher(tmp_path / "tlog", log)
    assert publisher.size == 1500
    for old in heads:
        for new in heads[heads.index(old) :]:
            proof = publisher.consistency(old.size, new.size)
            verify_consistency(old.size, new.size, old.root, new.root, proof)
    for index in (0, 199, 255, 256, 1023, 1499):
        verify_inclusion(index, 1500, leaf_hash(log[index]), heads[-1].root, publisher.prove(index, log[index]).hashes)
    publisher.close()


def test_opening_reads_the_right_edge_and_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart reads the tiles at the right edge, not the whole trail, and asks for one record's hash."""
    log = records(70_000)
    publish_all(tmp_path / "tlog", log)
    read: list[str] = []
    asked: list[int] = []
    real = PublishedFiles.read

    def counting(self: PublishedFiles, path: str) -> bytes | None:
        read.append(path)
        return real(self, path)

    monkeypatch.setattr(PublishedFiles, "read", counting)
    publisher = open_publisher(tmp_path / "tlog", log)
    publisher.close()
    assert publisher.size == 70_000
    assert len(read) < 20

    def record_hash(index: int) -> bytes:
        asked.append(index)
        return log[index]

    open_publisher(tmp_path / "tlog", log, record_hash=record_hash).close()
    assert asked == [69_999]


def test_partial_tiles_go_when_the_full_one_is_published(tmp_path: Path) -> None:
    """What a partial tile held is in the full one, so a log with a checkpoint a minute keeps few small files."""
    log = records(300)
    publisher = open_publisher(tmp_path / "tlog", log)
    for size in (10, 20, 255):
        publisher.append(log[publisher.size : size])
        publisher.publish(sign(publisher.prepare()))
    partial = tmp_path / "tlog/tile/0/000.p"
    assert sorted(os.listdir(partial)) == ["10", "20", "255"]
    publisher.append(log[255:])
    prepared = publisher.prepare()
    assert partial.exists(), "readers still see the checkpoint that needs it"
    publisher.publish(sign(prepared))
    assert not partial.exists()
    assert not (tmp_path / "tlog/tile/entries/000.p").exists()
    assert (tmp_path / "tlog/tile/0/001.p/44").exists()
    publisher.close()


def test_partial_tiles_that_a_crash_has_left_go_at_the_next_opening(tmp_path: Path) -> None:
    """A process that died between publishing and tidying leaves nothing for ever."""
    log = records(300)
    publish_all(tmp_path / "tlog", log)
    for level in ("0", "entries"):
        (tmp_path / f"tlog/tile/{level}/000.p").mkdir()
        (tmp_path / f"tlog/tile/{level}/000.p/7").write_bytes(b"x")
    open_publisher(tmp_path / "tlog", log).close()
    assert not (tmp_path / "tlog/tile/0/000.p").exists()
    assert not (tmp_path / "tlog/tile/entries/000.p").exists()


def test_a_directory_for_a_web_server(tmp_path: Path) -> None:
    """What goes to `publish_dir` may be read by everybody; the guard stays with the log, and is private."""
    old = os.umask(0o077)
    try:
        publish_all(tmp_path / "tlog", records(300), publish_dir=tmp_path / "www")
    finally:
        os.umask(old)
    assert published_files(tmp_path / "tlog") == {"guard"}
    assert stat.S_IMODE((tmp_path / "tlog").stat().st_mode) == 0o700
    for path in [tmp_path / "www", *(tmp_path / "www").rglob("*")]:
        mode = 0o755 if path.is_dir() else 0o600 if path.name == ".lock" else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
    publish_all(tmp_path / "private", records(300))
    for path in (tmp_path / "private").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_places_that_can_not_be_published_to(tmp_path: Path) -> None:
    """A link, a file, a missing parent directory: each is refused with the setting's name."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link", "none/www"):
        with pytest.raises(ConfigError, match=r"transparency\.publish_dir"):
            open_publisher(tmp_path / "tlog", [], publish_dir=tmp_path / name)
    with pytest.raises(ConfigError, match=r"transparency\.guard"):
        open_publisher(tmp_path / "tlog", [], guard=tmp_path / "none/guard")


def test_links_inside_the_directory_are_not_followed(tmp_path: Path) -> None:
    """Somebody who may write there can't lead the log to write, or to read, elsewhere."""
    log = records(3)
    publish_all(tmp_path / "tlog", log)
    outside = tmp_path / "outside"
    outside.mkdir()
    os.rename(tmp_path / "tlog/tile/0", tmp_path / "moved")
    (tmp_path / "tlog/tile/0").symlink_to(outside)
    with pytest.raises(TilesDamaged):
        publish_all(tmp_path / "tlog", records(5))
    assert not list(outside.iterdir())
    os.rename(tmp_path / "tlog/checkpoint", outside / "checkpoint")
    (tmp_path / "tlog/checkpoint").symlink_to(outside / "checkpoint")
    with pytest.raises(TilesDamaged, match="link"):
        open_publisher(tmp_path / "tlog", log)


def test_cosignatures_are_published_beside_the_checkpoint(tmp_path: Path) -> None:
    """A checkpoint is published at once, and again when witnesses have answered; never over a newer one."""
    log = records(10)
    publisher = open_publisher(tmp_path / "tlog", log)
    publisher.append(log[:5])
    first = sign(publisher.prepare())
    assert publisher.publish(first)
    again = sign(first.checkpoint, signer(1), signer(2))
    assert publisher.publish(again)
    assert (tmp_path / "tlog/checkpoint").read_bytes() == again.encode()
    second = publish(publisher, log)
    assert not publisher.publish(again)
    assert publisher.published == second
    assert (tmp_path / "tlog/checkpoint").read_bytes() == second.encode()
    publisher.close()


def test_only_what_was_prepared_and_signed_is_published(tmp_path: Path) -> None:
    """A checkpoint of another tree, and one that none of the log's keys has signed, are refused."""
    log = records(10)
    publisher = open_publisher(tmp_path / "tlog", log)
    publisher.append(log)
    checkpoint = publisher.prepare()
    with pytest.raises(InvalidSignature):
        publisher.publish(sign(checkpoint, signer(2)))
    with pytest.raises(LogForked, match="size 10 was signed that this log did not prepare"):
        publisher.publish(sign(checkpoint._replace(root=mth(records(10, salt="x")))))
    publisher.close()
    publisher = open_publisher(tmp_path / "tlog", log)
    with pytest.raises(LogForked, match="size 9 was signed that this log did not prepare"):
        publisher.publish(sign(checkpoint._replace(size=9)))
    assert not (tmp_path / "tlog/checkpoint").exists()
    publisher.close()


def test_a_key_is_changed_while_both_sign(tmp_path: Path) -> None:
    """The published keys follow the configuration; the first opening after a change says which came and went."""
    log = records(3)
    old, new = signer(1), signer(2)
    publish_all(tmp_path / "tlog", log)
    publisher = open_publisher(tmp_path / "tlog", log, keys=[new.key, old.key])
    assert (publisher.added_keys, publisher.retired_keys) == ((str(new.key),), ())
    publisher.publish(sign(publisher.prepare(), new, old))
    publisher.close()
    assert (tmp_path / "tlog/vkey").read_text() == f"{new.key}\n{old.key}\n"
    publisher = open_publisher(tmp_path / "tlog", log, keys=[new.key])
    assert (publisher.added_keys, publisher.retired_keys) == ((), (str(old.key),))
    publisher.publish(sign(publisher.prepare(), new))
    publisher.close()
    publisher = open_publisher(tmp_path / "tlog", log, keys=[new.key])
    assert (publisher.added_keys, publisher.retired_keys) == ((), ())
    publisher.close()


def test_record_hashes_have_32_bytes(tmp_path: Path) -> None:
    """Anything else would make bundles that nobody can read."""
    publisher = open_publisher(tmp_path / "tlog", [])
    with pytest.raises(ValueError, match="32 bytes"):
        publisher.append([b"x" * 32, b"x" * 31])
    publisher.close()


# -- lost and damaged files -------------------------------------------------------------------------------------------


def test_lost_tiles_are_rebuilt_from_the_records(tmp_path: Path) -> None:
    """Without its tiles a log is not opened by mistake as a new one; `rebuild` makes them anew, and they must fit."""
    log = records(600)
    signed = publish_all(tmp_path / "tlog", log)
    before = {path: (tmp_path / "tlog" / path).read_bytes() for path in published_files(tmp_path / "tlog")}
    for path in before:
        if path.startswith("tile/0/"):
            (tmp_path / "tlog" / path).unlink()
    with pytest.raises(TilesDamaged, match="rebuild"):
        open_publisher(tmp_path / "tlog", log)
    publisher = open_publisher(tmp_path / "tlog", log, rebuild=True)
    assert publisher.size == 0
    assert publish(publisher, log).checkpoint == signed.checkpoint
    publisher.close()
    assert {path: (tmp_path / "tlog" / path).read_bytes() for path in before} == before
    publisher = open_publisher(tmp_path / "tlog", log, rebuild=True)
    with pytest.raises(LogForked):
        publisher.append(records(600, salt="another history"))
    publisher.close()


@pytest.mark.parametrize(
    "path", ["tile/0/002.p/88", "tile/entries/002.p/88", "tile/1/000.p/2", "guard", "checkpoint", "vkey"]
)
def test_a_damaged_file_is_named(tmp_path: Path, path: str) -> None:
    """One byte that changed in a file that opening needs is found, and nothing is signed on top of it."""
    log = records(600)
    publish_all(tmp_path / "tlog", log)
    file = tmp_path / "tlog" / path
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    with pytest.raises((TilesDamaged, LogForked)):
        open_publisher(tmp_path / "tlog", log)


# -- many files, and failing ones -------------------------------------------------------------------------------------


def test_many_tiles_are_synced_before_they_get_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether file by file or all at once: contents are durable, then names are given, then names are durable."""
    calls: list[str] = []

    def noting(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object, **kwargs: object) -> None:
            calls.append(name)
            real(*args, **kwargs)

        return call

    for name in ("rename", "sync_data", "sync_directory"):
        monkeypatch.setattr(disk, name, noting(name, getattr(disk, name)))
    monkeypatch.setattr(publishing, "_sync_file_system", noting("syncfs", publishing._sync_file_system))
    log = records(256 * 20)
    publish_all(tmp_path / "all_at_once", log)
    assert calls.count("syncfs") == 2
    first, last = calls.index("syncfs"), len(calls) - 1 - calls[::-1].index("syncfs")
    assert calls[first + 1 : last] == ["rename"] * 41
    assert "rename" not in calls[:first]
    calls.clear()
    monkeypatch.setattr(publishing, "_syncfs", None)
    publish_all(tmp_path / "one_by_one", log)
    assert "syncfs" not in calls
    assert calls[:42] == ["sync_directory", *["sync_data"] * 41]
    assert calls[42:83] == ["rename"] * 41
    assert calls[83:90] == [*["sync_directory"] * 6, "sync_data"]  # each that was made or changed; then the guard
    assert published_files(tmp_path / "one_by_one") == published_files(tmp_path / "all_at_once")


def test_what_is_staged_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records come between two checkpoints, neither descriptors nor a list of files grow with them."""
    monkeypatch.setattr(publishing, "_MOST_STAGED", 20)
    log = records(256 * 50)
    publisher = open_publisher(tmp_path / "tlog", log)
    descriptors = len(os.listdir("/proc/self/fd"))
    for at in range(0, len(log), 256):
        publisher.append(log[at : at + 256])
        assert len(publisher._files._staged) < 20
        assert len(os.listdir("/proc/self/fd")) < descriptors + 30
    assert publish(publisher, log).checkpoint.root == mth(log)
    publisher.close()


@pytest.mark.parametrize("call", ["append", "prepare", "publish"])
def test_nothing_is_written_on_top_of_what_failed(in_memory: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """After an error of the disk a publisher must be opened again, whichever call has met it."""
    log = records(600)
    publisher = open_publisher(in_memory / "tlog", log)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    publisher.append(log[:10])
    signed = sign(publisher.prepare())
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: publisher.append(log[10:]),
        "prepare": publisher.prepare,
        "publish": lambda: publisher.publish(signed),
    }
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_at", fail)
        with pytest.raises(OSError, match="No space left"):
            calls[call]()
    for again in calls.values():
        with pytest.raises(PublisherStopped, match="open it again"):
            again()
    publisher.close()
    assert publish_all(in_memory / "tlog", log).checkpoint.root == mth(log)


def test_after_any_failing_call_the_log_is_opened_again_and_goes_on(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes the disk fails once: the error comes out, and the next opening goes on."""
    log = records(300)
    names = ("make_directory", "create_file", "write_at", "sync_data", "rename", "sync_directory", "unlink")
    real = {name: getattr(disk, name) for name in names}
    at = 0
    while True:
        base, count = in_memory / str(at), 0
        base.mkdir()
        first = publish_all(base / "tlog", log[:200])

        def failing(name: str, fatal: int = at + 1) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal count
                count += 1
                if count == fatal:
                    raise OSError(errno.EIO, "Input/output error")
                return real[name](*args, **kwargs)

            return call

        for name in names:
            monkeypatch.setattr(disk, name, failing(name))
        try:
            publish_all(base / "tlog", log)
        except OSError:
            pass
        else:
            break
        finally:
            for name in names:
                monkeypatch.setattr(disk, name, real[name])
        seen = verify_checkpoint((base / "tlog/checkpoint").read_bytes(), [signer().key]).checkpoint
        assert seen.size in {200, 300}
        check_entries(directory_source(base / "tlog"), seen)
        second = publish_all(base / "tlog", log)
        publisher = open_publisher(base / "tlog", log)
        verify_consistency(200, 300, first.checkpoint.root, second.checkpoint.root, publisher.consistency(200, 300))
        publisher.close()
        at += 1
    assert at > 25


def test_two_logs_are_never_published_in_one_place(tmp_path: Path) -> None:
    """Two workers that start at once find no checkpoint there, and would write over each other's tiles.

    Whoever may only read what is published can lock its directory, and keeps nobody from publishing.
    """
    (tmp_path / "www").mkdir()
    readers = os.open(tmp_path / "www", os.O_RDONLY)
    disk.lock(readers)
    first = open_publisher(tmp_path / "00", records(3), publish_dir=tmp_path / "www")
    with pytest.raises(ConfigError, match=r"publish_dir.*another log is being published in .*www; give each log"):
        open_publisher(tmp_path / "01", records(3), publish_dir=tmp_path / "www")
    first.close()
    publish_all(tmp_path / "00", records(3), publish_dir=tmp_path / "www")
    assert (tmp_path / "www" / ".lock").stat().st_mode & 0o777 == 0o600
    os.close(readers)


def test_a_forked_child_neither_keeps_nor_ends_the_right_to_publish(tmp_path: Path) -> None:
    """It has a copy of the descriptor: until it closes that, as its first step, and after its parent has."""
    first = open_publisher(tmp_path / "00", records(3), publish_dir=tmp_path / "www")
    end, until_closed = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(until_closed)
        os.read(end, 1)
        os._exit(0)  # without having closed anything
    closing = os.fork()
    if closing == 0:
        os.close(until_closed)
        first.close()
        os._exit(0)
    try:
        assert os.waitpid(closing, 0)[1] == 0
        with pytest.raises(ConfigError, match="another log is being published"):
            open_publisher(tmp_path / "01", records(3), publish_dir=tmp_path / "www")
        first.close()
        publish_all(tmp_path / "00", records(3), publish_dir=tmp_path / "www")
    finally:
        os.close(until_closed)
        assert os.waitpid(child, 0)[1] == 0
        os.close(end)
