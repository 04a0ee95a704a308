"""Other libraries, each driven the way its own documentation shows, with the same logical event.

`python -m bench.rival NAME DIRECTORY SECONDS` measures one of them in a process of its own and prints JSON; `NAME` is
one of `RIVALS`. What is measured of each: how many events one producer brings to where the library says that they are
kept, and what a call costs its caller. What each syncs, blocks and verifies is in `bench.rivals`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from importlib import import_module
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final, NamedTuple

from audit_async import AuditLogger, Immediate, Receipt
from audit_async.events import ModelAccessed
from bench.frame import config, median

#: The logical event: who accessed what, and how.
_ACTOR: Final = "c-20931"
_ACTION: Final = "model.accessed"
_SUBJECT: Final = "llama-3-70b/7"
_METADATA: Final = {"access_type": "inference"}

_BURST: Final = 64
_MANY: Final = 1000  # records of an `append_many`


class Measured(NamedTuple):
    """What one run of a rival brought about."""

    events: int
    events_per_s: float  #: until the last was where the library keeps it
    call_us: float  #: median of a call, as its caller sees it; of an awaited call, until it returned


Rival = Callable[[Path, float], Measured]


def _calls(call: Callable[[], object], seconds: float) -> tuple[list[float], float]:
    """Call again and again for that long; return what each call took and when the first began."""
    took_s: list[float] = []
    began = perf_counter()
    until = began + seconds
    while perf_counter() < until:
        for _ in range(_BURST):
            called = perf_counter()
            call()
            took_s.append(perf_counter() - called)
    return took_s, began


async def _awaits(call: Callable[[], Coroutine[object, object, object]], seconds: float) -> tuple[list[float], float]:
    """Do the same with a call that is awaited."""
    took_s: list[float] = []
    began = called = perf_counter()
    until = began + seconds
    while called < until:
        await call()
        returned = perf_counter()
        took_s.append(returned - called)
        called = returned
    return took_s, began


def _measured(took_s: list[float], began: float, *, events_a_call: int = 1) -> Measured:
    """Return the outcome; call this once everything is where the library keeps it."""
    elapsed_s = perf_counter() - began
    events = len(took_s) * events_a_call
    return Measured(events, events / elapsed_s, 1e6 * median(took_s))


# -- this library -------------------------------------------------------------------------------------------------


def _audit_async(directory: Path, seconds: float) -> Measured:
    """Emit as fast as it goes; everything is durable at the end of the time."""

    async def run() -> Measured:
        event = ModelAccessed(customer_id=_ACTOR, model_ref=_SUBJECT, access_type="inference")
        took_s: list[float] = []
        outstanding: deque[Receipt] = deque()
        async with AuditLogger(config(directory, Immediate())) as audit:
            emit = audit.emit
            began = perf_counter()
            until = began + seconds
            while perf_counter() < until:
                if len(outstanding) == 16:
                    await outstanding.popleft().durable()
                for number in range(500):
                    if number % 8:  # every call timed would halve the rate
                        receipt = emit(event)
                    else:
                        called = perf_counter()
                        receipt = emit(event)
                        took_s.append(perf_counter() - called)
                outstanding.append(receipt)
                await asyncio.sleep(0)
            await audit.flush()
            elapsed_s = perf_counter() - began
            events = audit.stats().durable - 1  # the log's own opening
        return Measured(events, events / elapsed_s, 1e6 * median(took_s))

    return asyncio.run(run())


def _audit_async_one_by_one(directory: Path, seconds: float) -> Measured:
    """Await each event until it is durable: how the rivals that sync are used."""

    async def run() -> Measured:
        event = ModelAccessed(customer_id=_ACTOR, model_ref=_SUBJECT, access_type="inference")
        async with AuditLogger(config(directory, Immediate())) as audit:
            return _measured(*await _awaits(lambda: audit.emit_durable(event), seconds))

    return asyncio.run(run())


# -- libraries for audit logs -------------------------------------------------------------------------------------


def _auditchain(backend: str, many: int = 1) -> Rival:
    def rival(directory: Path, seconds: float) -> Measured:
        auditchain = import_module("auditchain")

        async def run() -> Measured:
            async with auditchain.AuditLog(getattr(auditchain, backend)(directory / "audit")) as log:
                if many == 1:
                    one = lambda: log.append(_ACTOR, _ACTION, _SUBJECT, metadata=_METADATA)  # noqa: E731
                    return _measured(*await _awaits(one, seconds))
                entries = [(_ACTOR, _ACTION, _SUBJECT, _METADATA)] * many
                return _measured(*await _awaits(lambda: log.append_many(entries), seconds), events_a_call=many)

        return asyncio.run(run())

    return rival


def _nexuscone(directory: Path, seconds: float) -> Measured:
    ledger_of = import_module("nexuscone").Ledger

    async def run() -> Measured:
        async with ledger_of(str(directory / "audit.db")) as ledger:
            payload = {"subject": _SUBJECT, **_METADATA}
            one = lambda: ledger.log(actor=_ACTOR, action=_ACTION, payload=payload)  # noqa: E731
            return _measured(*await _awaits(one, seconds))

    return asyncio.run(run())


def _rust_py_audit(*, fsync: bool) -> Rival:
    def rival(directory: Path, seconds: float) -> Measured:
        logger = import_module("rust_py_audit").AuditLogger("bench", str(directory / "audit.jsonl"), fsync=fsync)

        def one() -> object:
            return logger.log(_ACTOR, _ACTION, "model", _SUBJECT, _METADATA)

        return _measured(*_calls(one, seconds))

    return rival


# -- libraries for logs, with JSON to a file ----------------------------------------------------------------------


def _file(directory: Path, *, synced: bool) -> IO[str]:
    """Open the file that a logging library writes to; `synced` has the kernel sync each write (`O_DSYNC`)."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_DSYNC if synced else 0)
    return os.fdopen(os.open(directory / "log.json", flags, 0o600), "w", encoding="utf-8")


def _structlog(*, synced: bool) -> Rival:
    def rival(directory: Path, seconds: float) -> Measured:
        structlog: Any = import_module("structlog")
        with _file(directory, synced=synced) as file:
            structlog.configure(
                processors=[
                    structlog.contextvars.merge_contextvars,
                    structlog.processors.add_log_level,
                    structlog.processors.TimeStamper(fmt="iso", utc=True),
                    structlog.processors.JSONRenderer(),
                ],
                wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
                logger_factory=structlog.WriteLoggerFactory(file),
                cache_logger_on_first_use=True,
            )
            log = structlog.get_logger()
            one = lambda: log.info(_ACTION, actor=_ACTOR, subject=_SUBJECT, **_METADATA)  # noqa: E731
            return _measured(*_calls(one, seconds))

    return rival


def _loguru(*, synced: bool) -> Rival:
    def rival(directory: Path, seconds: float) -> Measured:
        logger: Any = import_module("loguru").logger
        logger.remove()
        with _file(directory, synced=synced) as file:
            logger.add(file if synced else str(directory / "loguru.json"), serialize=True)
            bound = logger.bind(actor=_ACTOR, subject=_SUBJECT, **_METADATA)
            took_s, began = _calls(lambda: bound.info(_ACTION), seconds)
            logger.complete()
            return _measured(took_s, began)

    return rival


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, as services commonly write it."""

    def format(self, record: logging.LogRecord) -> str:
        members = {"timestamp": self.formatTime(record), "level": record.levelname, "event": record.getMessage()}
        return json.dumps(members | record.__dict__["members"])


def _queue_handler(*, synced: bool) -> Rival:
    def rival(directory: Path, seconds: float) -> Measured:
        with _file(directory, synced=synced) as file:
            handler = logging.StreamHandler(file)
            handler.setFormatter(_JsonFormatter())
            records: queue.Queue[logging.LogRecord] = queue.Queue()
            listener = QueueListener(records, handler)
            log = logging.getLogger("bench.rival")
            log.setLevel(logging.INFO)
            log.propagate = False
            log.addHandler(QueueHandler(records))
            listener.start()
            members = {"actor": _ACTOR, "subject": _SUBJECT, **_METADATA}
            took_s, began = _calls(lambda: log.info(_ACTION, extra={"members": members}), seconds)
            listener.stop()  # returns when the queue is empty and written
            return _measured(took_s, began)

    return rival


#: Each by the name under which `bench.rivals` shows it.
RIVALS: Final[dict[str, Rival]] = {
    "audit-async": _audit_async,
    "audit-async, one at a time": _audit_async_one_by_one,
    "auditchain, SQLite": _auditchain("SqliteBackend"),
    "auditchain, SQLite, append_many": _auditchain("SqliteBackend", many=_MANY),
    "auditchain, JSONL": _auditchain("JsonlBackend"),
    "nexuscone": _nexuscone,
    "rust-py-audit, fsync=True": _rust_py_audit(fsync=True),
    "rust-py-audit": _rust_py_audit(fsync=False),
    "structlog, O_DSYNC": _structlog(synced=True),
    "structlog": _structlog(synced=False),
    "loguru, O_DSYNC": _loguru(synced=True),
    "loguru": _loguru(synced=False),
    "QueueHandler, O_DSYNC": _queue_handler(synced=True),
    "QueueHandler": _queue_handler(synced=False),
}


def main() -> None:
    """Measure the rival that the command line names."""
    name, directory, seconds = sys.argv[1:]
    print(json.dumps(RIVALS[name](Path(directory), float(seconds))._asdict()))


if __name__ == "__main__":
    main()
