"""A disk that hangs: each commit waits until the test lets it go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from audit_async._store.log_store import LogStore


@contextmanager
def hanging_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Let every commit hang inside the block until the function that is given is called."""
    released = Event()
    commit = LogStore.commit

    def hang(self: LogStore, batch: Any, *, sync: bool) -> Any:
        released.wait(120)
        return commit(self, batch, sync=sync)

    with monkeypatch.context() as patch:
        patch.setattr(LogStore, "commit", hang)
        try:
            yield released.set
        finally:
            released.set()
