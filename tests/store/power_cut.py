"""A recorder at the store's system calls, and what could be on the disk if the power went at any moment.

The model. A file's write or cut, and a directory's change, is durable once a sync of that file or directory has
returned. Until then each directory change may have happened or not, independently of every other; of a file's bytes
any part may be there: none, all, a prefix, the new size with zeros in it, later blocks without earlier ones. What was
unsynced when a sync failed is never made durable by a later one: the kernel calls those pages clean.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from audit_async._chain import Head
from audit_async._durable import disk

_BLOCK = 512


class Call(NamedTuple):
    """One system call that succeeded, or a sync that failed."""

    kind: str
    target: int  #: number of the file or directory
    name: str = ""
    other: int = 0  #: number of the file that a name got; of the directory that a rename led to
    other_name: str = ""
    offset: int = 0
    data: bytes = b""
    moved: int = 0  #: number of the file that a rename gave another name


class Recorder:
    """Records what the store does to the disk below one directory."""

    def __init__(self, base_dir: Path) -> None:
        self.calls: list[Call] = []
        self.acknowledged: list[tuple[int, Head]] = []  #: (number of calls before it, head)
        self.fail_sync: Callable[[int], bool] = lambda _: False
        self._numbers: dict[int, int] = {os.stat(base_dir).st_ino: 0}
        self._syncs = 0

    def acknowledge(self, head: Head) -> None:
        """Note that everything up to `head` was called durable now."""
        self.acknowledged.append((len(self.calls), head))

    def acknowledged_after(self, count: int) -> int:
        """Return the last seq that had been acknowledged when `count` calls had been made."""
        return max((head.seq for at, head in self.acknowledged if at <= count), default=-1)

    @property
    def inodes(self) -> frozenset[int]:
        """The files and directories that are recorded."""
        return frozenset(self._numbers)

    def _number(self, fd: int) -> int:
        return self._numbers[os.fstat(fd).st_ino]

    def _new(self, fd: int) -> int:
        number = self._numbers[os.fstat(fd).st_ino] = len(self.calls) + 1
        return number

    def _sync_fails(self) -> bool:
        self._syncs += 1
        return self.fail_sync(self._syncs)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put the recorder between the store and the disk."""
        real = {name: getattr(disk, name) for name in vars(disk) if callable(getattr(disk, name))}

        def make_directory(name: str, *, dir_fd: int | None = None) -> None:
            assert dir_fd is not None
            real["make_directory"](name, dir_fd=dir_fd)
            fd = os.open(name, os.O_RDONLY, dir_fd=dir_fd)
            self.calls.append(Call("mkdir", self._number(dir_fd), name, self._new(fd)))
            os.close(fd)

        def create_file(name: str, *, dir_fd: int) -> int:
            fd: int = real["create_file"](name, dir_fd=dir_fd)
            self.calls.append(Call("create", self._number(dir_fd), name, self._new(fd)))
            return fd

        def open_or_create_file(name: str, *, dir_fd: int) -> int:
            there = name in os.listdir(dir_fd)
            fd: int = real["open_or_create_file"](name, dir_fd=dir_fd)
            if not there:
                self.calls.append(Call("create", self._number(dir_fd), name, self._new(fd)))
            return fd

        def rename(source: str, target: str, *, dir_fd: int, target_dir_fd: int | None = None) -> None:
            moved = self._numbers[os.stat(source, dir_fd=dir_fd, follow_symlinks=False).st_ino]
            real["rename"](source, target, dir_fd=dir_fd, target_dir_fd=target_dir_fd)
            there = dir_fd if target_dir_fd is None else target_dir_fd
            self.calls.append(Call("rename", self._number(dir_fd), source, self._number(there), target, moved=moved))

        def unlink(name: str, *, dir_fd: int) -> None:
            real["unlink"](name, dir_fd=dir_fd)
            self.calls.append(Call("unlink", self._number(dir_fd), name))

        def write_at(fd: int, data: bytes, offset: int) -> None:
            real["write_at"](fd, data, offset)
            self.calls.append(Call("write", self._number(fd), offset=offset, data=bytes(data)))

        def truncate(fd: int, size: int) -> None:
            real["truncate"](fd, size)
            self.calls.append(Call("truncate", self._number(fd), offset=size))

        def change_mode(fd: int, mode: int) -> None:
            real["change_mode"](fd, mode)
            self.calls.append(Call("chmod", self._number(fd), offset=mode))

        def sync(fd: int) -> None:
            if os.fstat(fd).st_ino not in self._numbers:
                return  # the directory above ours, whose only change was made before we began
            if self._sync_fails():
                self.calls.append(Call("sync failed", self._number(fd)))
                raise OSError(errno.EIO, "Input/output error")
            self.calls.append(Call("sync", self._number(fd)))

        def write_and_sync_at(fd: int, data: bytes, offset: int) -> None:
            write_at(fd, data, offset)
            sync(fd)

        for wrapper in (make_directory, create_file, open_or_create_file, rename, unlink, write_at, truncate,
                        change_mode, write_and_sync_at):  # fmt: skip
            patch.setattr(disk, wrapper.__name__, wrapper)
        patch.setattr(disk, "sync_data", sync)
        patch.setattr(disk, "sync_directory", sync)


class _Object:
    """A file or a directory: what is durable, what may be there, what never will be for certain."""

    def __init__(self, *, directory: bool) -> None:
        self.directory = directory
        self.changes: list[list[Any]] = []  #: [state, call]; state is durable, pending or doubtful

    def undecided(self) -> list[int]:
        return [at for at, (state, _) in enumerate(self.changes) if state != "durable"]

    def synced(self, *, failed: bool) -> None:
        for change in self.changes:
            if change[0] == "pending":
                change[0] = "doubtful" if failed else "durable"


class State(NamedTuple):
    """One thing that could be on the disk."""

    files: tuple[tuple[str, int, bytes], ...]  #: path, mode, content
    directories: tuple[str, ...]

    def write_to(self, base_dir: Path) -> None:
        """Make it."""
        for directory in self.directories:
            (base_dir / directory).mkdir(mode=0o700)
        for path, mode, content in self.files:
            (base_dir / path).write_bytes(content)
            (base_dir / path).chmod(mode)


def crash_states(calls: list[Call], since: int = 0) -> Iterator[tuple[int, State]]:
    """Give every state that the disk could be in after each call from `since` on: (number of calls made, state)."""
    for count in range(since, len(calls) + 1):
        for state in _states(_replay(calls[:count])):
            yield count, state


def _replay(calls: list[Call]) -> dict[int, _Object]:
    objects = {0: _Object(directory=True)}
    for call in calls:
        target = objects[call.target]
        if call.kind in {"sync", "sync failed"}:
            target.synced(failed=call.kind == "sync failed")
            continue
        if call.kind in {"mkdir", "create"}:
            objects[call.other] = _Object(directory=call.kind == "mkdir")
        change = ["pending", call]
        target.changes.append(change)
        if call.kind == "rename" and call.other != call.target:
            objects[call.other].changes.append(change)
    return objects


def _states(objects: dict[int, _Object]) -> Iterator[State]:
    """Combine every choice of directory changes with the shapes of the files that have unsynced changes."""
    directory_changes: list[list[Any]] = []
    for thing in objects.values():
        if thing.directory:
            for at in thing.undecided():
                if not any(thing.changes[at] is change for change in directory_changes):
                    directory_changes.append(thing.changes[at])
    shapes = {number: list(_shapes(thing)) for number, thing in objects.items() if not thing.directory}
    for happened in itertools.product([True, False], repeat=len(directory_changes)):
        left_out = [change for change, did in zip(directory_changes, happened, strict=True) if not did]
        tree = _tree(objects, left_out)
        numbers = sorted({number for _, number in tree[0]})
        for chosen in _choices([shapes[number] for number in numbers], every=len(left_out) in {0, len(happened)}):
            content = dict(zip(numbers, chosen, strict=True))
            files = tuple((path, *content[number]) for path, number in tree[0])
            yield State(files, tree[1])


def _choices(shapes: list[list[tuple[int, bytes]]], *, every: bool) -> Iterator[tuple[tuple[int, bytes], ...]]:
    """Choose a shape for each file: with `every` all combinations, else each shape beside the others' extremes."""
    if every:
        yield from itertools.product(*shapes)
        return
    for extreme in (0, -1):
        rest = [shape[extreme] for shape in shapes]
        yield tuple(rest)
        for at, shape in enumerate(shapes):
            for one in shape:
                yield (*rest[:at], one, *rest[at + 1 :])


def _tree(objects: dict[int, _Object], left_out: list[list[Any]]) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """Return (path, file number) of every file, and every directory, if these changes never reached the disk."""
    names: dict[int, dict[str, int]] = {number: {} for number, thing in objects.items() if thing.directory}
    ordered: list[tuple[int, list[Any]]] = []
    for number, thing in objects.items():
        if thing.directory:
            ordered += [(number, change) for change in thing.changes if not any(change is o for o in left_out)]
    # Each directory's changes are in order; a rename between two directories stands in both and is done once.
    done: list[list[Any]] = []
    for number, change in ordered:
        call: Call = change[1]
        if any(change is other for other in done):
            continue
        done.append(change)
        entries = names[number]
        if call.kind in {"mkdir", "create"}:
            entries[call.name] = call.other
        elif call.kind == "unlink":
            entries.pop(call.name, None)
        else:
            if names[call.target].get(call.name) == call.moved:
                del names[call.target][call.name]
            names[call.other][call.other_name] = call.moved
    files: list[tuple[str, int]] = []
    directories: list[str] = []

    def walk(number: int, path: str) -> None:
        for name, child in sorted(names[number].items()):
            if objects[child].directory:
                directories.append(path + name)
                walk(child, f"{path}{name}/")
            else:
                files.append((path + name, child))

    walk(0, "")
    return files, tuple(directories)


def _apply(calls: list[Call]) -> tuple[int, bytes]:
    content = bytearray()
    mode = 0o600
    for call in calls:
        if call.kind == "chmod":
            mode = call.offset
        elif call.kind == "truncate":
            del content[call.offset :]
        else:
            content.extend(b"\0" * (call.offset - len(content)))
            content[call.offset : call.offset + len(call.data)] = call.data
    return mode, bytes(content)


def _shapes(file: _Object) -> Iterator[tuple[int, bytes]]:
    """Give each (mode, content) that a file with unsynced changes could have; one for a file without.

    Blocks reach the disk as a whole, so a write that is missing before one that is there leaves zeros up to a
    block's edge, not up to its own last byte.
    """
    undecided = file.undecided()
    found: dict[tuple[int, bytes], None] = {}
    calls: list[Call] = [call for _, call in file.changes]
    for until in [*undecided, len(calls)]:
        made = [call for at, call in enumerate(calls) if at not in undecided or at < until]
        lost_cuts = [call for call in made if call.kind != "truncate" or calls.index(call) not in undecided]
        found[_apply(made)] = None
        found[_apply(lost_cuts)] = None
    writes = [calls[at] for at in undecided if calls[at].kind == "write"]
    if writes:
        dirty = min(call.offset for call in writes)
        for mode, whole in list(found):
            for content in _torn(whole, dirty):
                found[mode, content] = None
    yield from found


def _torn(whole: bytes, dirty: int) -> Iterator[bytes]:
    """Give what can be there of a file that is not synced from byte `dirty` on: prefixes, and missing blocks."""
    size = len(whole)
    if size <= dirty:
        return
    for kept in sorted({dirty, dirty + 1, (dirty + size) // 2, size - 1}):
        yield whole[:kept]
    edges = [dirty, *range((dirty // _BLOCK + 1) * _BLOCK, size, _BLOCK), size]
    blocks = list(itertools.pairwise(edges))
    for first, last in {(0, 1), (1, 2), (0, len(blocks) - 1), (len(blocks) - 1, len(blocks)), (0, len(blocks))}:
        if 0 <= first < last <= len(blocks):
            begin, end = blocks[first][0], blocks[last - 1][1]
            yield whole[:begin] + b"\0" * (end - begin) + whole[end:]
