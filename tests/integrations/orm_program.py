"""A service that changes a database, and is killed at a certain moment.

`python -m tests.integrations.orm_program HOW DIRECTORY URL RELATION`. On stdout, `!` and the name of an item: the
application was told that it is committed; `-` and a name: it was rolled back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.integrations.sqlalchemy import audit_session
from audit_async.sync import SyncAuditLogger
from tests.integrations.orm_models import ALICE, WATCHED, Item, marker

_THREADS = 4


def say(line: str) -> None:
    """Tell the parent, in one piece."""
    os.write(1, f"{line}\n".encode())


def die() -> None:
    """End as kill -9 ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def die_at_commit(engine: Engine, how: str) -> None:
    """Have the process killed just before COMMIT, or after it, or after PREPARE."""
    dialect: Any = engine.dialect
    name = "do_prepare_twophase" if how == "prepared" else "do_commit"
    original: Callable[..., None] = getattr(dialect, name)

    def killed(*arguments: Any) -> None:
        if how != "before":
            original(*arguments)
        die()

    setattr(dialect, name, killed)


def killed(how: str, directory: Path, url: str, relation: Any) -> None:
    """One transaction of a Session, and a kill."""
    engine = create_engine(url)
    with SyncAuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as log:
        sessions = sessionmaker(engine, twophase=how == "prepared")
        audit_session(sessions, WATCHED, audit=log, actor=ALICE, relation=relation, marker=_marker(url))
        die_at_commit(engine, how)
        with sessions.begin() as session:
            session.add(Item(name="killed"))


async def killed_async(how: str, directory: Path, url: str, relation: Any) -> None:
    """The same of an AsyncSession, whose log lives on the same loop."""
    engine = create_async_engine(url)
    async with AuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as log:
        sessions = async_sessionmaker(engine)
        audit_session(sessions, WATCHED, audit=log, actor=ALICE, relation=relation, marker=_marker(url))
        die_at_commit(engine.sync_engine, how)
        async with sessions.begin() as session:
            session.add(Item(name="killed"))


def serve(directory: Path, url: str, relation: Any, *, is_orderly: bool) -> None:
    """Threads that commit and roll back until SIGTERM, with a server's handler for it, or with none."""
    stopping = threading.Event()
    if is_orderly:
        signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    engine = create_engine(url)
    with SyncAuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as log:
        sessions = sessionmaker(engine)
        audit_session(sessions, WATCHED, audit=log, actor=ALICE, relation=relation)
        threads = [
            threading.Thread(target=_work, args=(sessions, number, stopping), daemon=True) for number in range(_THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _work(sessions: sessionmaker[Session], worker: int, stopping: threading.Event) -> None:
    for number in range(100_000):
        if stopping.is_set():
            return
        name = f"{worker}-{number}"
        with sessions() as session:
            session.add(Item(name=name))
            if number % 3 == 2:
                session.flush()
                session.rollback()
                say(f"-{name}")
            else:
                session.commit()
                say(f"!{name}")


def _marker(url: str) -> Any:
    return marker if url.startswith("sqlite") else None


if __name__ == "__main__":
    _how, _directory, _url, _relation = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    if _how in {"serve", "serve-orderly"}:
        serve(_directory, _url, _relation, is_orderly=_how == "serve-orderly")
    elif _how.startswith("async-"):
        asyncio.run(killed_async(_how.removeprefix("async-"), _directory, _url, _relation))
    else:
        killed(_how, _directory, _url, _relation)
