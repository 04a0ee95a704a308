r"""Turn an OpenSSH server's log into an audit trail: `python -m examples.sshd_import FILE [--dir DIR] [--year Y]`.

What becomes of a line:

* A refused try (`Failed password ...`) is an `auth.failure`; one line is one event, also if syslog has folded
  several into `message repeated N times: [ ... ]`: then the event's reason says how many.
* `Failed none` is no try: it is how a client asks which methods there are (RFC 4252, section 5.2).
* `Accepted ...` is an `auth.success`; a break-in warning and the like is a `security.suspicious_activity`.
* What says again what another line says (`Invalid user`, `pam_unix`, `Connection closed`, ...) becomes no event.
* Every other line is counted and named, never passed over in silence.

Who tries to log in chooses the user name, and may choose `root from 192.0.2.1 port 22 ssh2`. So each pattern takes the
*last* place where an address can be, which is the one that the server wrote; and the library makes what is left
of the name harmless.

The time in such a file has no zone and often no year. It is taken as UTC, and each line's year as the newest in which
its day is not more than a day ahead; `--year` gives the year of the first line instead, and from there each step back
from December to January is a new year.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final, NamedTuple

import anyio

from audit_async import ActorInfo, AuditConfig, AuditError, AuditEvent, AuditLogger, AuthMethod, Batched, Local
from audit_async.events import AuthFailure, AuthSuccess, SuspiciousActivity

IN_FLIGHT: Final = 500  #: events emitted before the importer waits for the disk, so that none is ever refused
MAX_LINE_BYTES: Final = 64 * 1024
UNRECOGNISED_SHOWN: Final = 10
REMEMBERED_CONNECTIONS: Final = 10_000

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

LINE: Final = re.compile(
    r"(?:(?P<month>[A-Z][a-z]{2}) {1,2}(?P<day>\d{1,2}) (?P<time>\d\d:\d\d:\d\d)|(?P<iso>\d{4}-\d\d-\d\dT\S+))"
    r" (?P<host>\S+) (?P<program>[^\s\[:]+)(?:\[(?P<pid>\d+)\])?: (?P<message>.*)",
    re.ASCII | re.DOTALL,
)
REPEATED: Final = re.compile(r"message repeated (\d{1,9}) times: \[ (.*)\]", re.ASCII | re.DOTALL)


class SshdMessage(NamedTuple):
    """One line of sshd's."""

    at: datetime
    host: str
    pid: str
    text: str  #: without what syslog has put around it
    times: int  #: how often syslog says that it came


class Unrecognised(ValueError):
    """A line that this importer can't read; the message says why, without the line's text."""


# What a message means. Every pattern is matched against the whole message; `.*` is greedy, so that the user's own
# text can't pass for the address after it.

_FLAGS = re.ASCII | re.DOTALL
_PORT = r" port \d+"
FAILED: Final = re.compile(
    rf"Failed (?P<method>\S+) for (?P<unknown>invalid user |illegal user )?(?P<user>.*) from (?P<ip>\S+){_PORT}"
    r"(?: ssh\d?)?(?:: \S+ \S+)?",
    _FLAGS,
)
ACCEPTED: Final = re.compile(
    rf"Accepted (?P<method>\S+) for (?P<user>.*) from (?P<ip>\S+){_PORT}(?: ssh\d?)?(?:: \S+ \S+)?", _FLAGS
)
#: (activity type, risk 0..100, what it says)
SUSPICIOUS: Final = (
    ("reverse_mapping_failed", 30, r"reverse mapping checking getaddrinfo for .* \[(?P<ip>[\da-fA-F.:]+)\] failed.*"),
    ("reverse_mapping_failed", 30, r"Address (?P<ip>\S+) maps to .*, but this does not map back to the address.*"),
    ("no_identification", 20, rf"Did not receive identification string from (?P<ip>\S+)(?:{_PORT})?"),
    ("bad_protocol", 30, rf"Bad protocol version identification .* from (?P<ip>\S+)(?:{_PORT})?"),
    ("too_many_failures", 60, r"Disconnecting: Too many authentication failures for (?P<user>.*) \[preauth\]"),
    (
        "too_many_failures",
        60,
        rf"Disconnecting (?:\w+ )?user (?P<user>.*) (?P<ip>\S+){_PORT}: Too many authentication failures.*",
    ),
    (
        "too_many_failures",
        60,
        (
            r"error: maximum authentication attempts exceeded for (?:invalid user )?"
            rf"(?P<user>.*) from (?P<ip>\S+){_PORT}(?: ssh\d?)?(?: \[preauth\])?"
        ),
    ),
    ("retries_over_limit", 40, r"PAM service\(sshd\) ignoring max retries; \d+ > \d+"),
)
SUSPICIOUS_PATTERNS: Final = [(kind, risk, re.compile(pattern, _FLAGS)) for kind, risk, pattern in SUSPICIOUS]
#: These say once more what a line above says, or when a connection ended. Some say whose connection it is.
REDUNDANT: Final = [
    re.compile(pattern, _FLAGS)
    for pattern in (
        rf"(?:Invalid|Illegal) user .* from (?P<ip>\S+?)(?:{_PORT})?",
        r"input_userauth_request: invalid user .*",
        r"pam_unix\(sshd:\w+\): .*",
        r"PAM \d+ more authentication failures?; .*",
        r"(?:error: )?Received disconnect from (?P<ip>[\da-fA-F.:]+?)(?:: | port ).*",
        r"Connection (?:closed|reset) by .*",
        r"Disconnected from .*",
        rf"Connection from (?P<ip>\S+){_PORT}.*",
        r"fatal: Write failed: .*",
        r"Server listening on .*",
        r"Received signal \d+; terminating\.",
        r"Postponed .*",
        r"Starting session: .*",
        r"Close session: .*",
    )
]


class Importer:
    """Reads messages into events; keeps, for each connection, the address that earlier lines named."""

    def __init__(self) -> None:
        self._address_of: dict[tuple[str, str], str] = {}

    def event_of(self, message: SshdMessage) -> AuditEvent | None:
        """Return the event that a message gives, None if another message gives it.

        Raises `Unrecognised` if the message is none that is known here.
        """
        if failed := FAILED.fullmatch(message.text):
            self._remember(message, failed["ip"])
            return self._failure(message, failed)
        if accepted := ACCEPTED.fullmatch(message.text):
            self._remember(message, accepted["ip"])
            actor = self._actor(message, accepted["user"], accepted["ip"])
            path = f"ssh://{message.host}/{accepted['method']}"
            return AuthSuccess(actor=actor, method=AuthMethod.INTERNAL, path=path, occurred_at=message.at)
        for activity, risk, pattern in SUSPICIOUS_PATTERNS:
            if found := pattern.fullmatch(message.text):
                return self._suspicion(message, activity, risk, found.groupdict())
        for pattern in REDUNDANT:
            if found := pattern.fullmatch(message.text):
                if address := found.groupdict().get("ip"):
                    self._remember(message, address)
                return None
        raise Unrecognised("an sshd message that is not known here")

    @staticmethod
    def _failure(message: SshdMessage, failed: re.Match[str]) -> AuditEvent | None:
        if failed["method"] == "none":
            return None
        reason = "unknown_user" if failed["unknown"] else f"wrong_{failed['method']}"
        if message.times > 1:
            reason += f" ({message.times} times)"
        return AuthFailure(
            attempted_user=failed["user"],
            reason=reason,
            ip=failed["ip"],
            path=f"ssh://{message.host}/{failed['method']}",
            occurred_at=message.at,
        )

    def _suspicion(
        self, message: SshdMessage, activity: str, risk: int, found: dict[str, str | None]
    ) -> SuspiciousActivity:
        address = found.get("ip") or self._address_of.get((message.host, message.pid))
        return SuspiciousActivity(
            actor=self._actor(message, found.get("user") or "unknown", address),
            activity_type=activity,
            details=message.text,
            risk_score=risk,
            occurred_at=message.at,
        )

    @staticmethod
    def _actor(message: SshdMessage, user: str, address: str | None) -> ActorInfo:
        return ActorInfo(
            user_id=user, ip=address, auth_method=AuthMethod.INTERNAL, session_id=f"{message.host}/{message.pid}"
        )

    def _remember(self, message: SshdMessage, address: str) -> None:
        """Note whose connection a process serves; the oldest go, so that a log of years needs no more memory."""
        connection = (message.host, message.pid)
        self._address_of.pop(connection, None)
        self._address_of[connection] = address
        if len(self._address_of) > REMEMBERED_CONNECTIONS:
            del self._address_of[next(iter(self._address_of))]


# From bytes to messages.


class Clock:
    """Gives the lines of one file their year."""

    def __init__(self, *, year: int | None, now: datetime) -> None:
        self._year = year
        self._latest = now + timedelta(days=1)  # the server's zone may be ahead of UTC
        self._month = 0

    def time_of(self, line: re.Match[str]) -> datetime:
        """Return when a line was written; raises `ValueError` if it names no day that there is."""
        if line["iso"]:
            at = datetime.fromisoformat(line["iso"])
            return at if at.tzinfo else at.replace(tzinfo=UTC)
        month = MONTHS.index(line["month"]) + 1
        if self._year is not None:
            if self._month - month > 6:  # from December to January, and not merely out of order
                self._year += 1
            self._month = month
            return self._in_year(line, self._year, month)
        for year in range(self._latest.year, self._latest.year - 9, -1):  # 29 February may be eight years away
            try:
                at = self._in_year(line, year, month)
            except ValueError:
                continue
            if at <= self._latest:
                return at
        raise ValueError("no such day")

    @staticmethod
    def _in_year(line: re.Match[str], year: int, month: int) -> datetime:
        hour, minute, second = map(int, line["time"].split(":"))
        return datetime(year, month, int(line["day"]), hour, minute, second, tzinfo=UTC)


def lines_of(file: IO[bytes]) -> Iterator[str]:
    """Yield the lines of a file, without their ends; bytes that are no UTF-8 become visible escapes."""
    while line := file.readline(MAX_LINE_BYTES):
        yield line.decode("utf-8", "backslashreplace").rstrip("\r\n")


def message_in(line: str, time_of: Callable[[re.Match[str]], datetime]) -> SshdMessage | None:
    """Return what sshd says in a line, None if another program speaks. Raises `Unrecognised`."""
    found = LINE.fullmatch(line)
    if found is None:
        raise Unrecognised("not a line of a syslog file")
    if found["program"] not in {"sshd", "sshd-session", "sshd-auth"}:
        return None
    try:
        at = time_of(found)
    except ValueError as error:
        raise Unrecognised("a time that there is not") from error
    text, times = found["message"].rstrip(" "), 1
    if repeated := REPEATED.fullmatch(text):
        times, text = int(repeated[1]), repeated[2]
    return SshdMessage(at, found["host"], found["pid"] or "", text, times)


# The import.


class Summary(NamedTuple):
    """What became of the lines of a file."""

    events: Counter[str]  #: recorded, by event type
    redundant: int  #: lines of sshd that say what an event says already
    foreign: int  #: lines of other programs
    unrecognised: list[tuple[int, str]]  #: (line number, reason)

    @property
    def lines(self) -> int:
        """How many lines the file has."""
        return self.events.total() + self.redundant + self.foreign + len(self.unrecognised)


async def import_log(file: Path, audit: AuditLogger, *, year: int | None = None) -> Summary:
    """Record every event of an sshd log and return once all are durable."""
    importer, clock = Importer(), Clock(year=year, now=datetime.now(UTC))
    events, redundant, foreign, unrecognised = Counter[str](), 0, 0, list[tuple[int, str]]()
    async with await anyio.open_file(file, "rb") as opened:
        for number, line in enumerate(lines_of(opened.wrapped), 1):
            try:
                message = message_in(line, clock.time_of)
                event = importer.event_of(message) if message else None
            except Unrecognised as error:
                unrecognised.append((number, str(error)))
                continue
            if message is None:
                foreign += 1
            elif event is None:
                redundant += 1
            else:
                audit.emit(event)
                events[event.event_type] += 1
                if events.total() % IN_FLIGHT == 0:
                    await audit.flush()
    await audit.flush()
    return Summary(events, redundant, foreign, unrecognised)


def report(summary: Summary, directory: Path | None) -> None:
    """Print what became of the lines."""
    print(f"{summary.lines:>9,} lines")
    for event_type, count in summary.events.most_common():
        print(f"{count:>9,} {event_type}")
    print(f"{summary.redundant:>9,} lines that say what an event says already")
    print(f"{summary.foreign:>9,} lines of other programs")
    print(f"{len(summary.unrecognised):>9,} lines not recognised")
    for number, reason in summary.unrecognised[:UNRECOGNISED_SHOWN]:
        print(f"          line {number}: {reason}")
    if len(summary.unrecognised) > UNRECOGNISED_SHOWN:
        print(f"          and {len(summary.unrecognised) - UNRECOGNISED_SHOWN:,} more")
    print(f"Every event is durable in {directory}")


async def main() -> int:
    """Import the file that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Turn an OpenSSH server's log into an audit trail.",
        epilog="Importing a file twice records its events twice.",
    )
    parser.add_argument("file", type=Path, help="such as /var/log/auth.log; the times in it are taken as UTC")
    parser.add_argument("--dir", type=Path, default=Path("audit"), help="where the trail is kept (default: ./audit)")
    parser.add_argument(
        "--year", type=int, help="of the file's first line (default: each line's newest year that is not in the future)"
    )
    arguments = parser.parse_args()
    config = AuditConfig(mode=Local(arguments.dir), service_id="sshd-import", flush_mode=Batched(size=IN_FLIGHT))
    try:
        async with AuditLogger(config) as audit:
            report(await import_log(arguments.file, audit, year=arguments.year), audit.directory)
    except (AuditError, OSError) as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(anyio.run(main))
