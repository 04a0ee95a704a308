"""A monitor on another machine finds each way in which a published log can be another than before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from audit_async.tlog.checkpoint import Checkpoint, verify_checkpoint
from audit_async.tlog.failures import (
    InvalidSignature,
    LogForked,
    LogRolledBack,
    Malformed,
    QuorumNotMet,
    SourceFailed,
    TilesDamaged,
)
from audit_async.tlog.log_monitor import Seen, directory_source, http_source, load_seen, observe, save_seen
from audit_async.tlog.policy import Policy
from tests.tlog.trees import ORIGIN, Cosigner, mth, publish_all, records, sign, signer

POLICY = Policy.of([signer().key])


def look(directory: Path, seen: Seen | None, *, entries: bool = False) -> Seen:
    """Look at a log once, and return what is remembered."""
    return observe(directory_source(directory), POLICY, seen, entries=entries).seen


def test_a_log_that_grows_honestly(tmp_path: Path) -> None:
    """Each look at an honest log passes, with and without its entries, and remembers the largest checkpoint."""
    seen = None
    for size in (0, 1, 200, 256, 257, 257, 700):
        publish_all(tmp_path / "www", records(size))
        for entries in (False, True):
            observation = observe(directory_source(tmp_path / "www"), POLICY, seen, entries=entries)
            assert observation.latest.checkpoint == Checkpoint(ORIGIN, size, mth(records(size)))
        seen = observation.seen
        assert seen.checkpoint.size == size


def replace(tmp_path: Path, log: list[bytes]) -> None:
    """Put another log, signed with the same key, in the place of the published one."""
    shutil.rmtree(tmp_path / "www")
    publish_all(tmp_path / "www", log)


@pytest.mark.parametrize("at", [0, 100, 199])
@pytest.mark.parametrize("size", [200, 201, 300, 512])
def test_a_rewritten_log(tmp_path: Path, at: int, size: int) -> None:
    """Whoever has the key and rewrites records convicts himself: two notes, both signed by the log."""
    publish_all(tmp_path / "www", records(200))
    seen = look(tmp_path / "www", None)
    replace(tmp_path, records(at) + records(size, salt="rewritten")[at:])
    with pytest.raises(LogForked) as caught:
        look(tmp_path / "www", seen)
    before, after = [verify_checkpoint(note, [signer().key]).checkpoint for note in caught.value.evidence]
    assert (before.size, after.size) == (200, size)


def test_a_rollback(tmp_path: Path) -> None:
    """A log that shows fewer records than before is found out, honest as its older state was."""
    publish_all(tmp_path / "www", records(300))
    seen = look(tmp_path / "www", None)
    replace(tmp_path, records(200))
    with pytest.raises(LogRolledBack, match="had 300 records and shows 200") as caught:
        look(tmp_path / "www", seen)
    assert len(caught.value.evidence) == 2


def test_a_checkpoint_by_another_key_or_of_another_log(tmp_path: Path) -> None:
    """What is not signed by the log that was seen before is not looked at further."""
    signed = publish_all(tmp_path / "www", records(10))
    seen = look(tmp_path / "www", None)
    (tmp_path / "www/checkpoint").write_bytes(sign(signed.checkpoint, signer(2)).encode())
    with pytest.raises(InvalidSignature):
        look(tmp_path / "www", seen)
    other = signer(3, "another.example/log")
    foreign = sign(Checkpoint("another.example/log", 10, signed.checkpoint.root), other)
    (tmp_path / "www/checkpoint").write_bytes(foreign.encode())
    both = Policy.of([signer().key, other.key])
    observe(directory_source(tmp_path / "www"), both, None)
    with pytest.raises(InvalidSignature, match=r"accepts host\.example/orders/00"):
        observe(directory_source(tmp_path / "www"), both, seen)


def test_a_quorum_is_demanded(tmp_path: Path) -> None:
    """A policy with witnesses makes a monitor refuse what they have not seen."""
    publish_all(tmp_path / "www", records(10))
    policy = Policy.parse(f"log {signer().key}\nwitness w {Cosigner(1).key}\nquorum w\n".encode())
    with pytest.raises(QuorumNotMet):
        observe(directory_source(tmp_path / "www"), policy, None)


def test_damage_is_not_called_a_fork(tmp_path: Path) -> None:
    """Tiles that are missing or wrong are a fault to be mended, and no evidence against the log."""
    publish_all(tmp_path / "www", records(200))
    seen = look(tmp_path / "www", None)
    publish_all(tmp_path / "www", records(600))
    tile = tmp_path / "www/tile/0/000"
    content = tile.read_bytes()
    tile.write_bytes(b"x" + content[1:])
    with pytest.raises(TilesDamaged, match=r"tile/0/000: .* the tile above"):
        look(tmp_path / "www", seen)
    tile.write_bytes(content[:-1])
    with pytest.raises(TilesDamaged, match="tile/0/000"):
        look(tmp_path / "www", seen)
    tile.unlink()
    with pytest.raises(TilesDamaged, match="tile/0/000"):
        look(tmp_path / "www", seen)


def test_entries_are_compared_with_their_tiles(tmp_path: Path) -> None:
    """With `entries`, a bundle that is wrong or missing is found before somebody needs it."""
    publish_all(tmp_path / "www", records(200))
    seen = look(tmp_path / "www", None)
    publish_all(tmp_path / "www", records(600))
    bundle = tmp_path / "www/tile/entries/001"
    content = bundle.read_bytes()
    for damaged in (content[:2] + b"x" + content[3:], content[:-34], content[:-1]):
        bundle.write_bytes(damaged)
        look(tmp_path / "www", seen)
        with pytest.raises(TilesDamaged):
            look(tmp_path / "www", seen, entries=True)
    bundle.write_bytes(content)
    for tile in ("tile/0/001", "tile/1/000.p/2"):
        good = (tmp_path / "www" / tile).read_bytes()
        (tmp_path / "www" / tile).write_bytes(b"x" + good[1:])
        with pytest.raises(TilesDamaged, match="tile/"):
            look(tmp_path / "www", None, entries=True)
        (tmp_path / "www" / tile).write_bytes(good)


def test_every_tile_of_every_level_is_compared(tmp_path: Path) -> None:
    """With `entries`, one wrong byte in any file of the log is found, whether or not the root depends on it."""
    publish_all(tmp_path / "www", records(66_000))
    look(tmp_path / "www", None, entries=True)
    levels = ["tile/0/000", "tile/0/257.p/208", "tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1"]
    for path in [*levels, "tile/entries/128", "tile/entries/257.p/208"]:
        content = (tmp_path / "www" / path).read_bytes()
        (tmp_path / "www" / path).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(TilesDamaged):
            look(tmp_path / "www", None, entries=True)
        (tmp_path / "www" / path).write_bytes(content)
    look(tmp_path / "www", None, entries=True)


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    """No checkpoint, or one that nobody can read, is an error and not a pass."""
    with pytest.raises(SourceFailed, match="no checkpoint"):
        look(tmp_path / "www", None)
    (tmp_path / "www").mkdir()
    (tmp_path / "www/checkpoint").write_bytes(b"nonsense")
    with pytest.raises(Malformed):
        look(tmp_path / "www", None)
    (tmp_path / "www/checkpoint").unlink()
    (tmp_path / "www/checkpoint").mkdir()
    with pytest.raises(SourceFailed, match="checkpoint"):
        look(tmp_path / "www", None)


def test_state_is_kept(tmp_path: Path) -> None:
    """What was seen survives in a file; a file that is none is refused and not taken for a first look."""
    publish_all(tmp_path / "www", records(10))
    state = tmp_path / "seen.json"
    assert load_seen(state) is None
    seen = look(tmp_path / "www", None)
    save_seen(state, seen)
    assert load_seen(state) == seen
    publish_all(tmp_path / "www", records(20))
    save_seen(state, look(tmp_path / "www", seen))
    again = load_seen(state)
    assert again is not None
    assert again.checkpoint.size == 20
    assert [path.name for path in tmp_path.glob("seen*")] == ["seen.json"]
    for content in (b"", b"{}", b'{"version":1,"note":"x"}', state.read_bytes().replace(b":1,", b":2,"), b"\xff"):
        state.write_bytes(content)
        with pytest.raises(TilesDamaged, match=r"seen\.json"):
            load_seen(state)


def test_two_looks_at_once_keep_the_larger_checkpoint(tmp_path: Path) -> None:
    """The slower one does not make the monitor forget what the other has seen; two trees of one size are a fork."""
    state = tmp_path / "seen.json"
    seen: list[Seen] = []
    for size, salt in ((10, ""), (20, ""), (20, "rewritten")):
        publish_all(tmp_path / str(len(seen)), records(size, salt=salt))
        seen.append(look(tmp_path / str(len(seen)), None))
    slower, faster, forked = seen
    save_seen(state, faster)
    save_seen(state, slower)
    assert load_seen(state) == faster
    with pytest.raises(LogForked) as caught:
        save_seen(state, forked)
    assert caught.value.evidence == (faster.note.encode(), forked.note.encode())
    assert load_seen(state) == faster


def test_two_looks_that_were_shown_different_histories(tmp_path: Path) -> None:
    """Whichever is kept first, and whichever is larger: neither look may make the monitor forget the other's."""
    state = tmp_path / "seen.json"
    publish_all(tmp_path / "before", records(5))
    publish_all(tmp_path / "small", records(10))
    publish_all(tmp_path / "large", records(20, salt="rewritten"))
    publish_all(tmp_path / "grown", records(20))
    before, small, large, grown = (look(tmp_path / name, None) for name in ("before", "small", "large", "grown"))
    for first, second in ((small, large), (large, small)):
        save_seen(state, before)
        state.write_bytes(msgspec.json.encode(first))
        with pytest.raises(LogForked) as caught:
            save_seen(state, second, after=before, read_file=directory_source(tmp_path / "large"))
        assert caught.value.evidence == (small.note.encode(), large.note.encode())
        assert load_seen(state) == first
    for first, second in ((small, grown), (grown, small)):
        state.write_bytes(msgspec.json.encode(first))
        save_seen(state, second, after=before, read_file=directory_source(tmp_path / "grown"))
        assert load_seen(state) == grown


# -- over HTTP --------------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    """A static file server that logs nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def static_server(directory: Path) -> Iterator[str]:
    """Serve a directory as any web server does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_watching_over_http(tmp_path: Path) -> None:
    """A static web server is enough to publish a log; what a monitor finds is the same."""
    publish_all(tmp_path / "tlog", records(300), publish_dir=tmp_path / "www")
    with static_server(tmp_path) as url:
        source = http_source(f"{url}/www/")
        seen = observe(source, POLICY, None, entries=True).seen
        publish_all(tmp_path / "tlog", records(700), publish_dir=tmp_path / "www")
        assert observe(source, POLICY, seen, entries=True).latest.checkpoint.size == 700
        assert source("tile/0/999") is None
        replace(tmp_path, records(800, salt="rewritten"))
        with pytest.raises(LogForked):
            observe(source, POLICY, seen)
    with pytest.raises(SourceFailed, match="127"):
        observe(source, POLICY, seen)
