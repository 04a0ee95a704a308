"""The whole way of an audit trail, for real: a web service, some thousands of requests, an end, and the evidence.

    python -m examples.demo [--requests N] [--dir DIR]

Starts `examples.web_service` as a process of its own, signs in, reads, deletes and misbehaves over HTTP, stops the
service with SIGTERM and reads its trail back. Exit status 0 only if every answer was the right one, every answered
request is in the trail, nothing else is, and `examples/verify_trail.py`, which knows nothing of the package, finds
every hash and link in order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final, NamedTuple

import anyio
import httpx
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from audit_async import AuditEvent, events

PROJECT: Final = Path(__file__).resolve().parents[1]
VERIFY_TRAIL: Final = PROJECT / "examples" / "verify_trail.py"

CLIENTS: Final = 16  #: visitors at the same time
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 60.0
SHOWN_OF_EACH: Final = 3  #: critical events of each type in the table


class DemoFailed(Exception):
    """Something did not hold; the message says what."""


# What is asked of the service.


class Request(NamedTuple):
    """One request of a visitor, with the answer that is due and the events that it must leave in the trail."""

    method: str
    path: str
    status: int
    events: tuple[str, ...]
    user: str = ""  #: signs in as this user
    wrong_password: bool = False


def planned_visits(requests: int, *, seed: int) -> list[list[Request]]:
    """Return visits with this many requests altogether, always the same ones for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - it has to be repeatable, not secret
    deletable = iter(range(500))
    visits: list[list[Request]] = []
    while requests > 0:
        visit = list(planned_visit(chance, deletable))[:requests]
        requests -= len(visit)
        visits.append(visit)
    return visits


def planned_visit(chance: random.Random, deletable: Iterator[int]) -> Iterator[Request]:
    """Yield the requests of one visitor, from signing in to trying the token that was just revoked."""
    user = chance.choice(["alice", "bob", "carol"])
    if chance.random() < 0.5:
        guessed = chance.choice([user, "root", "admin"])
        yield Request("POST", "/login", 401, ("auth.failure",), user=guessed, wrong_password=True)
    yield Request("POST", "/login", 200, ("auth.success", "token.created"), user=user)
    for _ in range(chance.randint(30, 60)):
        yield planned_use(chance, user, deletable)
    yield Request("POST", "/logout", 204, ("token.revoked",))
    revoked = f"/documents/doc-{chance.randrange(500, 1000)}"
    yield Request("GET", revoked, 401, ("security.invalid_token_used",))


def planned_use(chance: random.Random, user: str, deletable: Iterator[int]) -> Request:
    """Return one request of a visitor who has signed in."""
    kind = chance.random()
    if kind < 0.01:
        climb = chance.choice(["%2e%2e/%2e%2e/etc/passwd", "..%2f..%2f..%2fetc%2fshadow", "%2fetc%2fpasswd", "a%00b"])
        return Request("GET", f"/files/{climb}", 404, ("security.path_traversal_attempt",))
    if kind < 0.06 and user != "carol":
        return Request("DELETE", f"/documents/doc-{chance.randrange(1000)}", 403, ("authz.denied",))
    if kind < 0.06 and (number := next(deletable, None)) is not None:
        return Request("DELETE", f"/documents/doc-{number}", 204, ("authz.granted", "data.deleted"))
    if kind < 0.08:
        return Request("GET", f"/documents/lost-{chance.randrange(1000)}", 404, ("authz.denied",))
    if kind < 0.25:
        file = chance.choice(["quickstart.py", "demo.py", "web_service.py"])
        return Request("GET", f"/files/{file}", 200, ("authz.granted",))
    return Request("GET", f"/documents/doc-{chance.randrange(500, 1000)}", 200, ("authz.granted",))


@dataclass
class Answers:
    """What came back."""

    audit_ids: set[str] = field(default_factory=set)
    event_types: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    wrong: list[str] = field(default_factory=list)


async def send(visits: Sequence[Sequence[Request]], service: Service, screen: Screen) -> Answers:
    """Send all visits, several at a time, and collect the answers."""
    answers = Answers()
    waiting = iter(visits)
    total = sum(map(len, visits))

    async def visitor() -> None:
        # A client for each, with the one connection that it needs: httpx's pool costs more the more it holds.
        async with service.client() as http:
            for visit in waiting:
                async for _ in pay_visit(visit, service, http, answers):
                    screen.progress(answers.answered, total)

    async with anyio.create_task_group() as visitors:
        for _ in range(CLIENTS):
            visitors.start_soon(visitor)
    return answers


async def pay_visit(
    visit: Sequence[Request], service: Service, http: httpx.AsyncClient, answers: Answers
) -> AsyncIterator[None]:
    """Send one visitor's requests, one after the other; yield after each answer."""
    token = ""
    for request in visit:
        body = None
        if request.path == "/login":
            password = "guessed" if request.wrong_password else service.passwords[request.user]
            body = {"user": request.user, "password": password}
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = await http.request(request.method, request.path, json=body, headers=headers)
        answers.answered += 1
        answers.audit_ids.update(response.headers.get("X-Audit-Id", "").split(","))
        answers.event_types.update(request.events)
        if response.status_code != request.status:
            answers.wrong.append(f"{request.method} {request.path}: {response.status_code}, not {request.status}")
        elif request.path == "/login" and not request.wrong_password:
            token = response.json()["token"]
        yield


# The service's process.


@dataclass
class Service:
    """The service while it runs."""

    process: Process
    url: str = ""
    passwords: dict[str, str] = field(default_factory=dict)

    #: made once, since loading the CA certificates takes longer than many requests (and none is needed here)
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def client(self) -> httpx.AsyncClient:
        """Return a client for the service; to be entered."""
        return httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False, verify=self.tls)

    async def stop(self) -> int:
        """Send SIGTERM; return the process's exit status, negative for the signal that ended it."""
        self.process.terminate()
        with anyio.fail_after(STOP_TIMEOUT_S):
            return await self.process.wait()


@asynccontextmanager
async def running_service(trail: Path, errors: IO[bytes]) -> AsyncIterator[Service]:
    """Run the service on a free port; whatever happens, its process does not outlive this."""
    # Passwords are hashed cheaply here: it is the trail that is to be shown, not scrypt.
    options = ["--dir", str(trail), "--port", "0", "--password-cost", "11"]
    command = [sys.executable, "-m", "examples.web_service", *options]
    process = await anyio.open_process(command, cwd=PROJECT, stdin=subprocess.DEVNULL, stderr=errors)
    try:
        service = Service(process)
        with anyio.fail_after(START_TIMEOUT_S):
            await read_announcement(service)
        yield service
    finally:
        if process.returncode is None:
            with anyio.CancelScope(shield=True):
                process.terminate()
                with anyio.move_on_after(STOP_TIMEOUT_S):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def read_announcement(service: Service) -> None:
    """Read what the service prints when it starts: its accounts and, when it answers there, its address."""
    assert service.process.stdout is not None
    text = ""
    async for chunk in TextReceiveStream(service.process.stdout):
        text += chunk
        *lines, text = text.split("\n")
        for line in lines:
            match line.split():
                case ["account", user, password, _role]:
                    service.passwords[user] = password
                case ["listening", "on", url]:
                    service.url = url
                    return
    raise DemoFailed(f"the service ended with status {await service.process.wait()} before it listened")


async def run_service(trail: Path, requests: int, errors: IO[bytes], screen: Screen) -> Run:
    """Start the service, send it all requests, stop it."""
    async with running_service(trail, errors) as service:
        screen.row("service", service.url, f"process {service.process.pid}")
        visits = planned_visits(requests, seed=2026)
        async with service.client() as http:
            begun = time.perf_counter()
            answers = await send(visits, service, screen)
            seconds = time.perf_counter() - begun
            trail_state = (await http.get("/trail")).raise_for_status().json()
            durable_seconds = time.perf_counter() - begun
        status = await service.stop()
    return Run(answers, seconds, trail_state["durable"], durable_seconds, trail_state["syncs"], status)


# The evidence.


class Run(NamedTuple):
    """What the requests have shown."""

    answers: Answers
    seconds: float  #: from the first request to the last answer
    durable: int  #: records that the service knows to be on stable storage after the last answer
    durable_seconds: float  #: from the first request until it knew
    syncs: int
    status: int  #: of the service's process


def read_trail(log: Path) -> list[dict[str, Any]]:
    """Return the records of a log, in order."""
    records: list[dict[str, Any]] = []
    for segment in sorted(log.glob("*.audit")):
        with segment.open("rb") as lines:
            records.extend(json.loads(line) for line in lines)
    return records


def check(run: Run, records: Sequence[dict[str, Any]], verified: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return what must hold, and for each what is wrong with it, or nothing."""
    answers = run.answers
    of_requests = [record for record in records if not record["event"]["event_type"].startswith("audit.")]
    recorded = Counter(record["audit_id"] for record in of_requests)
    recorded_types = Counter(record["event"]["event_type"] for record in of_requests)
    found = len(answers.audit_ids & recorded.keys())
    missing = answers.event_types.total() - found
    beyond = recorded.total() - found
    ended = records[-1]["event"]["event_type"] if records else "nothing"
    return {
        "every answer is the right one": "; ".join(answers.wrong[:3]),
        "every answered request is in the trail": f"{missing} records are missing" if missing else "",
        "nothing else is in it": f"{beyond} records belong to no answer" if beyond else "",
        "the events are those that the requests must leave": ""
        if recorded_types == answers.event_types
        else f"expected {dict(answers.event_types)}, found {dict(recorded_types)}",
        "SIGTERM ended the service, and its last record is audit.log_closed": ""
        if run.status == -signal.SIGTERM and ended == "audit.log_closed"
        else f"exit status {run.status}, last record {ended}",
        "every hash and link holds (examples/verify_trail.py)": ""
        if verified.returncode == 0
        else verified.stdout + verified.stderr,
    }


def critical_types() -> set[str]:
    """Return the types of the built-in events that are critical."""
    classes = [
        member for member in vars(events).values() if isinstance(member, type) and issubclass(member, AuditEvent)
    ]
    return {str(event.__struct_config__.tag) for event in classes if event.critical}


def first_of_each_type(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first few records of each event type, in order."""
    seen: Counter[str] = Counter()
    first = []
    for record in records:
        event_type = record["event"]["event_type"]
        seen[event_type] += 1
        if seen[event_type] <= SHOWN_OF_EACH:
            first.append(record)
    return first


def table_row(record: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return time, type, who and where, and what of a record."""
    event = dict(record["event"])
    actor = event.pop("actor", {})
    who = actor.get("user_id") or event.pop("attempted_user", None) or "unknown"
    where = actor.get("ip") or event.pop("ip", None) or "unknown"
    event_type = event.pop("event_type")
    what = ", ".join(f"{name} {value}" for name, value in event.items())
    return record["timestamp"][11:23], event_type, f"{who}, {where}", what


# What is printed.


class Screen:
    """Writes to the terminal; in colour only if it shows any."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120

    def heading(self, text: str) -> None:
        """Print a heading."""
        print("\n" + self._painted(text, "1"), flush=True)

    def row(self, name: str, value: str, note: str = "") -> None:
        """Print one figure."""
        print(f"  {self._painted(f'{name:<9}', '2')} {value:<26} {note}".rstrip(), flush=True)

    def progress(self, done: int, total: int) -> None:
        """Show how far the requests are, if somebody watches; the next line replaces it."""
        if sys.stdout.isatty() and done % 100 == 0:
            print(f"  {self._painted('requests ', '2')} {done:,} of {total:,}", end="\r", flush=True)

    def verdict(self, promise: str, failing: str) -> None:
        """Print whether something held and, if it did not, what is wrong."""
        print(f"  {self._painted('FAILED', '31;1') if failing else self._painted('ok', '32')}  {promise}")
        if failing:
            print(f"          {failing}")

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Print rows in columns as wide as they need; the last is cut to the terminal's width."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            line = "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            print(line if len(line) <= self._columns else line[: self._columns - 1] + "…")

    def _painted(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text


def show(run: Run, records: Sequence[dict[str, Any]], screen: Screen) -> None:
    """Print the figures, the head of the chain, the most frequent events and the critical ones."""
    answered, head = run.answers.answered, records[-1]
    screen.row("requests", f"{answered:,} in {run.seconds:.2f} s", f"{answered / run.seconds:,.0f} requests/s")
    screen.row("records", f"{len(records):,}", f"{run.syncs:,} syncs made them durable")
    screen.row(
        "durable",
        f"{run.durable:,} in {run.durable_seconds:.2f} s",
        f"{run.durable / run.durable_seconds:,.0f} acknowledged/s, counted by the service",
    )
    screen.row("head", f"seq {head['seq']:,}", head["hash"])

    screen.heading("The five most frequent event types")
    frequent = Counter(record["event"]["event_type"] for record in records).most_common(5)
    screen.table([(f"{count:>9,}", event_type) for event_type, count in frequent])

    critical = critical_types()
    incidents = [record for record in records if record["event"]["event_type"] in critical]
    screen.heading(f"Critical events: {len(incidents):,} (here the first {SHOWN_OF_EACH} of each type)")
    if incidents:
        rows = [("time (UTC)", "type", "who, where", "what"), *map(table_row, first_of_each_type(incidents))]
        screen.table(rows)


def demonstrate(requests: int, directory: Path, screen: Screen) -> bool:
    """Run everything and print it; True if all held."""
    screen.heading(f"audit-async: a web service, {requests:,} real requests, and the evidence")
    with tempfile.TemporaryFile() as errors:
        try:
            run = anyio.run(run_service, directory, requests, errors, screen)
        except BaseException:
            errors.seek(0)
            sys.stdout.flush()
            sys.stderr.write(errors.read().decode(errors="backslashreplace"))
            raise
        errors.seek(0)
        complaints = errors.read().decode(errors="backslashreplace")
    log = directory / "documents" / "00"
    records = read_trail(log)
    # -I: in an interpreter that does not even see the package.
    verified = subprocess.run([sys.executable, "-I", VERIFY_TRAIL, log], capture_output=True, text=True, check=False)
    if records:
        show(run, records, screen)
    screen.heading("What must hold")
    verdicts = check(run, records, verified)
    for promise, failing in verdicts.items():
        screen.verdict(promise, failing)
    held = not any(verdicts.values())
    if complaints and not held:
        screen.heading("What the service wrote to its standard error")
        print(complaints)
    for command, *options in (["verify"], ["stats"], ["query", "--critical", "--limit", "5"]):
        screen.heading(" ".join(["audit-async", command, *options]))
        sys.stdout.flush()
        program = [sys.executable, "-m", "audit_async.cli", command, str(directory)]
        shown = subprocess.run([*program, *options], stderr=subprocess.STDOUT, check=False)
        held = held and shown.returncode == 0
    print(f"\n{'All held' if held else 'NOT ALL HELD'}. The trail is kept in {log}")
    return held


def fresh_directory(given: Path | None) -> Path:
    """Return a directory for one run's trail: new, or empty."""
    if given is None:
        return Path(tempfile.mkdtemp(prefix="audit-async-demo-"))
    given.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(given.iterdir()):
        raise DemoFailed(f"{given} is not empty: name a directory that is new, so that the trail is this run's alone")
    return given.resolve()


def main() -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=4000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--dir", type=Path, help="a new directory for the trail (default: a temporary one, kept)")
    arguments = parser.parse_args()
    if arguments.requests < 1:
        parser.error("--requests: at least 1")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if a shell started this with `&`
    signal.signal(signal.SIGTERM, end_in_order)
    try:
        return 0 if demonstrate(arguments.requests, fresh_directory(arguments.dir), Screen()) else 1
    except (DemoFailed, OSError, TimeoutError, httpx.HTTPError, ExceptionGroup) as error:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        print(f"The demo failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def end_in_order(_signal: int, _frame: FrameType | None) -> None:
    """Treat SIGTERM as Ctrl-C, so that the service is stopped before this process ends."""
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
