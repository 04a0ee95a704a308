"""Receivers that confirm nothing, and files that others touch: what is lost, what comes again, what is said of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from audit_async.delivery import DeliveryState, FileSettings, StdoutSettings, SyslogSettings, sink_gate, stored_position
from audit_async.delivery.deliverable_record import DeliverableRecord, DeliveredLog, EncodedRecord
from audit_async.delivery.delivery_sink import Outcome
from audit_async.delivery.file_sink import FileSink, StdoutSink
from audit_async.delivery.stored_position import StoredPosition
from audit_async.forwarding.batches import Head
from tests.cli.commands import COMMAND
from tests.delivery.certificates import Certificates, asking_for_certificates
from tests.delivery.delivering import (
    DEADLINE_S,
    deliver_once,
    delivering,
    lines_of_log,
    position_of,
    settings,
    until,
    write_trail,
)
from tests.ports import free_port

pytestmark = pytest.mark.anyio


def records(*numbers: int) -> list[EncodedRecord]:
    """Return records to send, by their numbers alone."""
    log = DeliveredLog(log_id="id", service="orders", instance="00", host="web-1")
    lines = [b'{"seq":%d}' % number for number in numbers]
    return [EncodedRecord(DeliverableRecord(line, log), line) for line in lines]


# -- syslog -----------------------------------------------------------------------------------------------------------


class Forgetful:
    """A receiver of syslog over TCP that keeps what it read in memory, and loses it when it dies."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read messages of RFC 6587."""
        self.connections += 1
        self._writers.append(writer)
        try:
            while count := await reader.readuntil(b" "):
                message = await reader.readexactly(int(count))
                self.received.append(message[message.index(b"{") :])
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    @asynccontextmanager
    async def listening(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Listen on loopback; yield the port. At the end it dies: connections are reset."""
        server = await asyncio.start_server(self.handle, "127.0.0.1", port, ssl=tls)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            self.received, self._writers = [], []


def syslog(port: int, **more: object) -> SyslogSettings:
    """Return a sink that speaks syslog over TCP."""
    given: dict[str, object] = {"name": "siem", "url": f"tcp://127.0.0.1:{port}", "services": ("orders",)}
    return SyslogSettings(**(given | more))  # type: ignore[arg-type]  # by their names


async def test_a_dead_receiver_loses_what_is_older_than_the_overlap_and_nothing_else(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/delivery.md says: syslog confirms nothing, so this is what a longer overlap_s is for."""
    monkeypatch.setattr(stored_position, "_SENT_EVERY_S", 0.05)
    monkeypatch.setattr(stored_position, "_STORE_EVERY_S", 0.0)
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Forgetful()
    port = free_port()
    async with receiver.listening(port), delivering(settings(tmp_path, syslog(port, overlap_s=1.0))):
        await until(lambda: len(receiver.received) == 7)
        # Older than the overlap: the stored position is past it.
        await until(lambda: list((tmp_path / "state/siem").glob("*.json")) and position_of(tmp_path).seq == 6)
    old = set(lines_of_log(directory))
    async with receiver.listening(port), delivering(settings(tmp_path, syslog(port, overlap_s=3600.0))):
        await write_trail(tmp_path / "audit", 5, first=5)
        new = set(lines_of_log(directory)) - old
        await until(lambda: new <= set(receiver.received))
        for writer in receiver._writers:
            writer.transport.abort()  # the receiver dies with what it has read
        receiver.received = []
        await until(lambda: new <= set(receiver.received))
        assert not old & set(receiver.received)


async def test_a_receiver_that_ends_each_connection_is_not_flooded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A break is a failure: what is sent again comes after a wait that grows, though each sending had succeeded."""
    # The last wait is as long as it is: a connection that lives longer, as on a busy machine, would end the growth.
    first_s = 0.001
    monkeypatch.setattr(sink_gate, "_FIRST_RETRY_S", first_s)
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Forgetful()
    ended = 0

    async def end_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        if ended < 8:
            ended += 1
            await reader.read(100)
            writer.transport.abort()
        else:
            await Forgetful.handle(receiver, reader, writer)

    receiver.handle = end_it  # type: ignore[method-assign]  # of this one receiver
    async with receiver.listening() as port, delivering(settings(tmp_path, syslog(port))) as deliverer:
        await until(lambda: set(lines_of_log(directory)) <= set(receiver.received))
        [sink] = deliverer._sinks
        assert sink.gate._retry_s >= first_s * 2**7
        [status] = deliverer.statuses
        assert status.failures >= 8


async def test_syslog_over_tls_without_the_certificate_that_is_demanded(tmp_path: Path, quick: None) -> None:
    """TLS 1.3 refuses it after the connection is made: what was written then counts as sent by nobody."""
    directory = await write_trail(tmp_path / "audit", 5)
    certificates = Certificates(tmp_path)
    receiver = Forgetful()
    async with receiver.listening(tls=asking_for_certificates(certificates)) as port:
        members: dict[str, object] = {"url": f"tls://localhost:{port}", "ca_file": str(certificates.ca_file)}
        async with delivering(settings(tmp_path, syslog(port, **members))) as deliverer:
            await until(lambda: sum(one.failures for one in deliverer.statuses) >= 3)
        assert not receiver.received
        assert not list((tmp_path / "state/siem").glob("*.json"))
        ours = certificates.issue("web-1")
        members |= {"client_cert": str(ours.certificate), "client_key": str(ours.key)}
        async with delivering(settings(tmp_path, syslog(port, **members))):
            await until(lambda: receiver.received == lines_of_log(directory))


def test_a_break_that_is_noticed_late_is_gone_back_to(tmp_path: Path) -> None:
    """However late: what was sent after the stored position counts as lost, and the position never passes it."""
    log = DeliveredLog(log_id="id", service="orders", instance="00", host="web-1")
    at = StoredPosition(_Files(), log, overlap_s=0.0001)  # type: ignore[arg-type]  # what it calls
    at.load()
    at.move(Head(seq=5, hash="a"), delivered=6, set_aside=0)
    at.go_back()
    at.store(all_arrived=False)
    assert (at.position.seq, at.sent) == (-1, None)


class _Files:
    """Positions in memory."""

    def read(self, _: str) -> None:
        """Know none."""

    def write(self, _: object) -> None:
        """Take it."""


async def test_the_end_after_a_break_keeps_the_place_before_it(tmp_path: Path) -> None:
    """A connection that was closed in order says nothing of the one before it that broke."""
    await write_trail(tmp_path / "audit", 5)
    receiver = Forgetful()
    async with receiver.listening() as port:
        async with delivering(settings(tmp_path, syslog(port))) as deliverer:
            await until(lambda: len(receiver.received) == 7)
            [sink] = deliverer._sinks
            sink.gate.sink._broken += 1  # type: ignore[attr-defined]  # another log has noticed it, and connected again
        assert not list((tmp_path / "state/siem").glob("*.json"))


# -- files ------------------------------------------------------------------------------------------------------------


def file_sink(tmp_path: Path, **more: object) -> FileSettings:
    """Return a sink that is a file."""
    given: dict[str, object] = {"name": "siem", "path": str(tmp_path / "out.ndjson"), "services": ("orders",)}
    return FileSettings(**(given | more))  # type: ignore[arg-type]  # by their names


async def test_a_shipper_that_removes_what_it_has_read_gets_every_record(tmp_path: Path) -> None:
    """It takes rotated files away at any moment; the others are renamed past the gap, in order."""
    directory = await write_trail(tmp_path / "audit", 300)
    shipped: list[bytes] = []
    sink = FileSink(file_sink(tmp_path, rotate_bytes=4000, keep_files=4))
    lines = lines_of_log(directory)
    for first in range(0, len(lines), 5):
        batch = [EncodedRecord(one.record, line) for line in lines[first : first + 5] for one in records(0)]
        assert (await sink.send(batch)).outcome is Outcome.ACCEPTED
        if first % 15 == 0:  # often enough that nothing is rotated away unread
            for path in sorted(tmp_path.glob("out.ndjson.*"), key=lambda one: -int(one.suffix[1:])):
                shipped += path.read_bytes().splitlines()
                path.unlink()
    await sink.finish()
    for path in [*sorted(tmp_path.glob("out.ndjson.*"), key=lambda one: -int(one.suffix[1:])), tmp_path / "out.ndjson"]:
        shipped += path.read_bytes().splitlines()
    assert shipped == lines


@pytest.mark.parametrize("how", ["removed", "renamed", "emptied", "replaced"])
async def test_a_file_that_another_program_takes_is_begun_again(tmp_path: Path, how: str) -> None:
    """The next batch is in the file of that name, from its beginning: in no file without a name, and after no hole."""
    path = tmp_path / "out.ndjson"
    sink = FileSink(file_sink(tmp_path))
    await sink.send(records(1, 2))
    if how == "removed":
        path.unlink()
    elif how == "renamed":
        path.rename(tmp_path / "taken")
    elif how == "emptied":
        os.truncate(path, 0)
    else:
        (tmp_path / "new").write_bytes(b'{"of":"another"}\n')
        (tmp_path / "new").replace(path)
    assert (await sink.send(records(3))).outcome is Outcome.ACCEPTED
    await sink.finish()
    before = b'{"of":"another"}\n' if how == "replaced" else b""
    assert path.read_bytes() == before + b'{"seq":3}\n'
    if how == "renamed":
        assert (tmp_path / "taken").read_bytes() == b'{"seq":1}\n{"seq":2}\n'


# -- standard output --------------------------------------------------------------------------------------------------


async def test_a_slow_reader_of_standard_output_sees_whole_lines_only(tmp_path: Path) -> None:
    """A batch that a full pipe has taken in part is sent again; the line that was cut is finished before that."""
    ours, theirs = os.pipe()
    sink = StdoutSink(StdoutSettings(name="out", timeout_s=0.05), theirs)
    batch = records(*range(10_000))
    try:
        first = await sink.send(batch)
        assert (first.outcome, first.reason) == (Outcome.RETRY, "nobody reads standard output")
        read = bytearray()

        async def drain() -> None:
            while True:
                await anyio.wait_readable(ours)
                read.extend(os.read(ours, 1 << 16))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            with anyio.fail_after(DEADLINE_S):
                while (await sink.send(batch)).outcome is not Outcome.ACCEPTED:
                    pass
                while not read.endswith(batch[-1].body + b"\n"):
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        lines = bytes(read).splitlines()
        assert set(lines) == {one.body for one in batch}
        assert lines[-len(batch) :] == [one.body for one in batch]
    finally:
        os.close(ours)
        os.close(theirs)


async def test_standard_output_that_is_closed_is_a_problem_and_no_end(tmp_path: Path) -> None:
    """The state says it, what is written is not lost to a buffer, and the process ends on a signal as ever."""
    await write_trail(tmp_path / "audit", 5)
    ours, theirs = os.pipe()
    os.close(ours)
    result = await StdoutSink(StdoutSettings(name="out"), theirs).send(records(1))
    os.close(theirs)
    assert result.outcome is Outcome.MISCONFIGURED
    [status] = await deliver_once(settings(tmp_path, file_sink(tmp_path)))
    assert status.state is DeliveryState.CAUGHT_UP


@pytest.mark.parametrize("reader", ["closed", "stalled"])
def test_the_command_ends_on_a_signal_whatever_reads_its_output(tmp_path: Path, reader: str) -> None:
    """Nobody reads a pipe that is full, or has closed it: SIGTERM ends the command, and another sink has everything."""
    directory = anyio.run(write_trail, tmp_path / "audit", 600)
    config = tmp_path / "deliver.toml"
    config.write_text(
        f'base_dir = "{tmp_path / "audit"}"\nstate_dir = "{tmp_path / "state"}"\n'
        '[[sink]]\nname = "out"\ntype = "stdout"\nservices = ["orders"]\n'
        f'[[sink]]\nname = "file"\ntype = "file"\npath = "{tmp_path / "out.ndjson"}"\nservices = ["orders"]\n'
    )
    command = [*COMMAND, "deliver", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        if reader == "closed":
            process.stdout.close()
        try:

            async def delivered() -> None:
                await until((tmp_path / "out.ndjson").exists)
                await until(lambda: (tmp_path / "out.ndjson").read_bytes().splitlines() == lines_of_log(directory))
                if reader == "closed":
                    status = tmp_path / "state/status.json"
                    await until(lambda: status.exists() and b"misconfigured" in status.read_bytes())

            anyio.run(delivered)
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()
    assert json.loads((tmp_path / "state/status.json").read_bytes())["running"] is False
