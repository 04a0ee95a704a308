"""The room of the system calls: no other room changes a disk, and an error says which call and which file."""

from __future__ import annotations

import ast
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit_async._durable import disk

PACKAGE = Path(disk.__file__).parents[1]
#: What changes a disk or makes it durable, as functions of `os` and methods of `Path`.
CHANGING = frozenset({
    "chmod", "chown", "fchmod", "fchown", "fdatasync", "fsync", "ftruncate", "hardlink_to", "link", "makedirs", "mkdir",
    "pwrite", "pwritev", "remove", "removedirs", "rename", "renames", "rmdir", "symlink", "symlink_to", "sync", "touch",
    "truncate", "unlink", "utime", "write_bytes", "write_text",
})  # fmt: skip
#: Methods that no other object of the package has.
OF_PATHS = frozenset({"hardlink_to", "mkdir", "rmdir", "symlink_to", "touch", "unlink", "write_bytes", "write_text"})


def changing_calls(path: Path) -> Iterator[str]:
    """Yield each call in a module that changes a disk without going through `disk`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner, name = node.func.value, node.func.attr
        named = owner.id if isinstance(owner, ast.Name) else ""
        is_function = named == "shutil" or (named == "os" and name in CHANGING | {"replace"})
        if is_function or (named not in {"os", "disk"} and name in OF_PATHS):
            yield f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node.func)}"


def test_no_other_room_changes_a_disk() -> None:
    """Every call that changes a disk is in `_durable`, where its guarantee is stated and a test can make it fail."""
    found = [
        call
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent.name != "_durable"
        for call in changing_calls(path)
    ]
    assert found == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_an_error_names_the_call_and_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A call on a descriptor fails with its name and the file's path, and with the class that its number has."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("pwrite", "pwritev", "fdatasync", "fsync", "ftruncate", "fchmod"):
        monkeypatch.setattr(os, name, refuse)
    calls: tuple[tuple[Callable[[], None], str], ...] = (
        (lambda: disk.write_at(fd, b"x", 0), "pwrite"),
        (lambda: disk.write_and_sync_at(fd, b"x", 0), "pwritev2"),
        (lambda: disk.sync_data(fd), "fdatasync"),
        (lambda: disk.sync_directory(fd), "fsync of the directory"),
        (lambda: disk.truncate(fd, 0), "ftruncate"),
        (lambda: disk.change_mode(fd, 0o600), "fchmod"),
    )
    for call, named in calls:
        with pytest.raises(OSError, match=named) as caught:
            call()
        assert caught.value.errno == number
        assert caught.value.filename == str(tmp_path / "file")
    os.close(fd)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_directory_that_can_not_be_synced_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A file system that can't make names durable is told from a disk that fails, with what to do."""
    fd = os.open(tmp_path, os.O_RDONLY)

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"fsync of the directory: .*can't make names durable.*local") as caught:
        disk.sync_directory(fd)
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path))
    os.close(fd)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_pwritev2_two_calls_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A kernel, a file system or a sandbox that refuses the one call gets a write and a sync."""
    synced: list[int] = []
    real = os.fdatasync

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    def sync(fd: int) -> None:
        synced.append(fd)
        real(fd)

    monkeypatch.setattr(os, "pwritev", refuse)
    monkeypatch.setattr(os, "fdatasync", sync)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    disk.write_and_sync_at(fd, b"abc", 2)
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"\0\0abc"
    assert synced == [fd]
