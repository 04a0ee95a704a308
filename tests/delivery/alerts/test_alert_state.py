"""What the alerts have counted, on a disk that fails: whoever tries again and goes on has lost nothing."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path
from typing import Any

import pytest

from audit_async._durable import disk
from audit_async.delivery.alerts import AlertStateUnusable
from audit_async.delivery.alerts.alert_state import JournalEntry, LogState, Snapshot, StateFiles

_STEPS = ("open_or_create_file", "write_at", "truncate", "sync_data", "rename", "sync_directory", "unlink")


class Disk:
    """The disk, on which one step fails, counted from now; what was done is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails_in = 0
        self.done: list[str] = []
        for name in _STEPS:
            monkeypatch.setattr(disk, name, self._failing(name))

    def _failing(self, name: str) -> Any:
        step = getattr(disk, name)

        def run(*args: Any, **more: Any) -> Any:
            self.fails_in -= 1
            if self.fails_in == 0:
                raise OSError(errno.EIO, "the disk has failed")
            result = step(*args, **more)
            is_journal = name == "open_or_create_file" and str(args[0]).endswith(".journal")
            self.done.append("create" if is_journal else name)
            return result

        return run

    @property
    def since_creation(self) -> list[str]:
        """The steps after the newest journal was created."""
        at = max(index for index, name in enumerate(self.done) if name == "create")
        return self.done[at:]


def append(files: StateFiles, log_id: str) -> bool:
    """Append an entry; return whether it could be stored."""
    try:
        files.append(JournalEntry(log_id=log_id, state=LogState(seq=1)))
    except AlertStateUnusable:
        return False
    return True


def loaded(directory: Path) -> list[str]:
    """Return the logs of which something is stored."""
    found: list[str] = []
    StateFiles(directory).load(lambda entry: found.append(entry.log_id), lambda stored: found.extend(stored.logs))
    return found


def test_a_step_that_fails_loses_nothing_that_is_stored_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step of an entry or of a snapshot it is, a crash later finds every entry that was stored."""
    failing = Disk(monkeypatch)
    for number in itertools.count(1):
        directory = tmp_path / str(number)
        directory.mkdir()
        failing.fails_in = number
        files = StateFiles(directory)
        for log_id in "abcd":
            if log_id == "c":
                try:
                    files.store(Snapshot(logs={"a": LogState(seq=1), "b": LogState(seq=1)}))
                except AlertStateUnusable as unusable:
                    assert "the disk has failed" in str(unusable)  # noqa: PT017 - it may as well go well
            assert append(files, log_id) or append(files, log_id)
            assert "sync_directory" in failing.since_creation  # or a power cut would remove what was created
        assert loaded(directory) == list("abcd"), number
        files.close()
        if failing.fails_in > 0:  # there are not so many steps
            break
    assert number > 20
