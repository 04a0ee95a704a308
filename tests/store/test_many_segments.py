"""What is done for a log grows with its segments, and with nothing else: files opened and names listed are counted."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit_async import RetentionPolicy
from audit_async._store.archiving import compress_segment
from audit_async.cli import main
from bench.long_trail import Shape, write_log
from tests.store.chained import memory_directory, open_store

_counters: list[Counter[str]] = []


def _count(event: str, arguments: tuple[object, ...]) -> None:
    for counter in _counters:
        if event == "open" and isinstance(arguments[0], str) and not arguments[0].endswith((".py", ".pyc")):
            counter["opened"] += 1


sys.addaudithook(_count)  # it stays, and counts only for `counted`


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count the files that are opened, by this process, and the names that are listed, until the block ends."""
    counter: Counter[str] = Counter()
    listdir, scandir = os.listdir, os.scandir

    def list_names(path: object = ".") -> list[str]:
        names = listdir(path)  # type: ignore[call-overload]  # whatever it was called with
        counter["listed"] += len(names)
        return list(names)

    def scan(path: object = ".") -> object:
        counter["listed"] += len(listdir(path))  # type: ignore[call-overload]  # likewise
        return scandir(path)  # type: ignore[call-overload]  # likewise

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", list_names)
        patch.setattr(os, "scandir", scan)
        _counters.append(counter)
        try:
            yield counter
        finally:
            _counters.remove(counter)


def run(*arguments: object) -> None:
    """Run a command that finds nothing wrong, but perhaps with where the test's files are."""
    assert main([str(argument) for argument in arguments]) in {0, 1}


def open_and_close(base_dir: Path) -> None:
    """Open the log as the writer's disk thread does, plan what is due, and close it."""
    store = open_store(base_dir, service="bench")
    store.plan_retention(RetentionPolicy(), datetime.now(UTC))
    store.close()


WORK: dict[str, Callable[[Path], None]] = {
    "opening": open_and_close,
    "doctor": lambda base_dir: run("doctor", base_dir, "--json"),
    "retention": lambda base_dir: run("retention", base_dir, "--json"),
    "hold show": lambda base_dir: run("hold", "show", base_dir, "--json"),
    "backup": lambda base_dir: run("backup", base_dir, base_dir.with_name("copy"), "--json"),
    "backup again": lambda base_dir: run("backup", base_dir, base_dir.with_name("before"), "--json"),
    "restore": lambda base_dir: run("restore", base_dir, base_dir.with_name("back"), "--json"),
    "restore a copy": lambda base_dir: run("restore", "--from-copy", base_dir, base_dir.with_name("back"), "--json"),
}
#: Files opened for each segment, at most: itself and its checksum, in the log and in the copy, and to judge the copy.
MOST_OPENED = {"backup": 6, "restore": 6, "restore a copy": 8}


@pytest.mark.parametrize("name", WORK)
def test_the_work_is_linear(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Four hundred segments more need so many steps for each of them, not for each pair of them."""
    counts = []
    with memory_directory() as directory:
        for segments in (100, 500):
            base_dir = directory / str(segments) / "t"
            write_log(base_dir, Shape(2 * segments, segments, rare_hits=0))
            if name == "backup again":
                run("backup", base_dir, base_dir.with_name("before"))
            with counted(monkeypatch) as counter:
                WORK[name](base_dir)
            counts.append(counter)
            capsys.readouterr()
            shutil.rmtree(directory / str(segments))
    few, many = counts
    assert many["opened"] - few["opened"] <= 400 * MOST_OPENED.get(name, 2), (few, many)
    assert many["listed"] - few["listed"] <= 400 * 30, (few, many)


def test_archiving_a_segment_lists_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty thousand archives listed for each of twenty thousand segments would be 87 s of CPU (4.3 ms on average)."""
    with memory_directory() as base_dir:
        directory = write_log(base_dir, Shape(400, segments=200, rare_hits=0)).directory
        store = open_store(base_dir, service="bench")
        with counted(monkeypatch) as counter:
            for entry in store.sealed_segments:
                compress_segment(directory, entry)
        store.close()
        assert counter["listed"] == 0
