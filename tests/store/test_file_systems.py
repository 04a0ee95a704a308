"""File systems, sandboxes and attributes that a log does not expect: it works or says what to do, and never hangs."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit_async._durable import disk
from audit_async._layout.archive_reading import DAMAGED_ARCHIVE, open_segment_for_reading
from audit_async._layout.hold_file import read_hold
from audit_async._layout.holds_in_force import find_holds
from audit_async._layout.manifest import read_manifest
from audit_async._store.archiving import compress_segment
from audit_async.errors import LogCorrupted
from tests.store.chained import Chain, log_path, open_store
from tests.store.shim import build_shim, environment
from tests.trails import check_trail

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SERVICE = """
import asyncio, sys
from audit_async import AuditConfig, AuditLogger, Local
from audit_async.events import AuthFailure
async def run():
    async with AuditLogger(AuditConfig(mode=Local(sys.argv[1]), service_id="orders", handle_signals=False)) as audit:
        for _ in range(5):
            await audit.emit_durable(AuthFailure(reason="invalid_token", ip="203.0.113.9", path="/v2/tasks"))
asyncio.run(run())
"""


def serve(directory: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a small service in a process with this environment."""
    command = [sys.executable, "-c", SERVICE, str(directory)]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_sandbox_without_pwritev2(tmp_path: Path, number: int) -> None:
    """Where every pwritev2 is refused, a service records all the same."""
    base_dir, hit = tmp_path / "audit", tmp_path / "hit"
    settings = environment(
        build_shim(tmp_path), base_dir, kind="error", only="pwritev2", call=1, times=10**9, errno=number, hit=hit
    )
    ended = serve(base_dir, settings)
    assert ended.returncode == 0, ended.stderr
    assert hit.exists(), "the call was refused"
    check_trail(base_dir)


def test_a_file_system_that_can_not_sync_directories(tmp_path: Path) -> None:
    """A directory fsync that answers EINVAL ends the opening with the call, the directory, and what to do."""
    base_dir = tmp_path / "audit"
    settings = environment(
        build_shim(tmp_path), base_dir, kind="error", only="fsync", call=1, times=10**9, errno=errno.EINVAL
    )
    ended = serve(base_dir, settings)
    assert ended.returncode != 0
    last = ended.stderr.strip().splitlines()[-1]
    assert "WriteFailed" in last
    assert "fsync of the directory" in last
    assert f"'{base_dir}" in last
    assert "local" in last


# -- chattr +a, +i -------------------------------------------------------------------------------------------------


@contextmanager
def attribute(path: Path, letter: str) -> Iterator[None]:
    """Set an attribute with chattr; skips the test if that is not permitted, or the file system has none."""
    done = subprocess.run(["chattr", f"+{letter}", path], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"chattr +{letter} is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{letter}", path], check=True, timeout=60)


@pytest.mark.skipif(not os.access("/usr/bin/chattr", os.X_OK), reason="no chattr here")
@pytest.mark.parametrize("letter", ["a", "i"])
@pytest.mark.parametrize("what", ["directory", "segment", "lock"])
def test_an_attribute_that_forbids_writing_is_named(tmp_path: Path, letter: str, what: str) -> None:
    """An append-only or immutable file or directory ends the opening with its path and the command that helps."""
    chain = Chain()
    store = open_store(tmp_path)
    store.commit(chain.batch(3), sync=True)
    store.close()
    log = log_path(tmp_path)
    path = {"directory": log, "segment": next(log.glob("*.audit")), "lock": log / "lock"}[what]
    (log / "left.unfinished").write_bytes(b"")  # opening removes it, which needs the directory
    with attribute(path, letter), pytest.raises(OSError, match=rf"chattr \+{letter}.*chattr -{letter}") as caught:
        open_store(tmp_path)
    assert caught.value.errno == errno.EPERM
    assert str(path) in str(caught.value)
    store = open_store(tmp_path)
    assert store.head == chain.head
    store.close()


def test_what_is_said_of_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without the right to set attributes: what the kernel would answer is put into the words of the error."""
    path = tmp_path / "file"
    path.write_bytes(b"")

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    def append_only(_fd: int, _request: int, flags: list[int]) -> int:
        flags[0] = 0x20
        return 0

    fd = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(fcntl, "ioctl", append_only)
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError, match=r"file is append-only \(chattr \+a\).*chattr -a"):
        disk.unlink("file", dir_fd=fd)
    os.close(fd)


# -- files that are none, and files without an end ----------------------------------------------------------------


def fifo(path: Path) -> None:
    """Put a FIFO there, which nobody writes to."""
    os.mkfifo(path)


def device(path: Path) -> None:
    """Put a link to a device without an end there."""
    path.symlink_to("/dev/zero")


def directory(path: Path) -> None:
    """Put a directory there."""
    path.mkdir()


def huge(path: Path) -> None:
    """Put a file of 4 GB there, of which nothing is on the disk."""
    path.write_bytes(b"")
    os.truncate(path, 4 << 30)


def endless_array(path: Path) -> None:
    """Put JSON there that nests too deeply to be decoded."""
    path.write_bytes(b"[" * 100_000)


@pytest.mark.parametrize("put", [fifo, device, directory, huge, endless_array])
@pytest.mark.parametrize("name", ["log.json", "manifest.json", "hold.json"])
def test_what_is_no_small_file_is_refused_at_once(tmp_path: Path, put: Callable[[Path], None], name: str) -> None:
    """Opening and reading end with an error that names the file; they neither wait nor run out of memory."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=1500)
    for _ in range(6):
        store.commit(chain.batch(2), sync=True)
    store.close()
    path = log_path(tmp_path) / name
    path.unlink(missing_ok=True)
    put(path)
    if name == "hold.json":
        with pytest.raises(LogCorrupted, match=r"hold\.json"):
            read_hold(log_path(tmp_path))
        with pytest.raises(LogCorrupted, match=r"hold\.json"):
            find_holds(log_path(tmp_path))
        store = open_store(tmp_path)  # an unreadable hold is a hold
        assert store.opening.unrecorded_holds
        store.close()
        return
    if name == "manifest.json":
        with pytest.raises(LogCorrupted, match=r"manifest\.json"):
            read_manifest(log_path(tmp_path))
    with pytest.raises(LogCorrupted, match=name.replace(".", r"\.")):
        open_store(tmp_path)


@pytest.mark.parametrize("put", [fifo, device, directory])
def test_what_is_no_segment_is_refused_at_once(tmp_path: Path, put: Callable[[Path], None]) -> None:
    """The same in the place of a sealed segment, of the active one, and of a lock."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=1500)
    for _ in range(6):
        store.commit(chain.batch(2), sync=True)
    store.close()
    for path in (*sorted(log_path(tmp_path).glob("*.audit")), log_path(tmp_path) / "lock"):
        aside = path.rename(tmp_path / "aside")
        put(path)
        with pytest.raises((LogCorrupted, OSError)):
            open_store(tmp_path)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        aside.rename(path)
    open_store(tmp_path).close()


def test_an_archive_that_inflates_without_an_end_is_stopped(tmp_path: Path) -> None:
    """Reading stops at the bytes that the manifest has, and compressing believes no such archive."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=1500)
    for _ in range(6):
        store.commit(chain.batch(2), sync=True)
    first, second = store.sealed_segments[:2]
    store.archive_segments([compress_segment(store.directory, first)])
    bomb = zstd.compress(b"\0" * (256 << 20))
    path = store.directory / "archive" / f"{first.segment}.zst"
    path.chmod(0o600)
    path.write_bytes(bomb)
    read = 0
    with pytest.raises(EOFError, match=f"more than the {first.bytes} bytes"):  # noqa: SIM117 - raised while reading
        with open_segment_for_reading(store.directory, read_manifest(store.directory)[0]) as file:
            while chunk := file.read(1 << 10):
                read += len(chunk)
    assert read <= first.bytes + (1 << 20)
    assert EOFError in DAMAGED_ARCHIVE
    (store.directory / "archive" / f"{second.segment}.zst").write_bytes(bomb)
    with pytest.raises(LogCorrupted, match="not the segment that was sealed"):
        compress_segment(store.directory, second)
    store.close()


def test_the_largest_event_that_can_be_configured_is_opened_again(tmp_path: Path) -> None:
    """A record of somewhat more than 64 MiB is no damage at the next opening."""
    chain = Chain()
    store = open_store(tmp_path, max_bytes=1 << 30)
    store.commit(chain.batch(1, event_bytes=(64 << 20) + 4096), sync=True)
    store.commit(chain.batch(1), sync=True)
    store.close()
    store = open_store(tmp_path, max_bytes=1 << 30)
    assert store.head == chain.head
    store.close()
