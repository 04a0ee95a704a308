"""What each kind of receiver gets, and what its answers mean."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from cryptography import x509
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from audit_async.delivery import (
    DeliveryState,
    FileSettings,
    OtlpSettings,
    SyslogSettings,
    verify_signature,
)
from audit_async.errors import ConfigError
from audit_async.events import AuthFailure
from tests.delivery.certificates import Certificates
from tests.delivery.delivering import (
    deliver_once,
    delivering,
    http,
    lines_of_log,
    position_of,
    settings,
    until,
    write_events,
    write_trail,
)
from tests.delivery.http_receiver import Receiver, Request, check_received, lines_of_otlp, otlp_answer
from tests.ports import free_port

pytestmark = pytest.mark.anyio


async def test_a_request_is_signed_compressed_and_authorized(tmp_path: Path) -> None:
    """The receiver can check who sent it and when; a changed body or an old signature does not hold."""
    directory = await write_trail(tmp_path / "audit", 5)
    for name, secret in (("token", "s3cret-token"), ("hmac", "s3cret-key")):
        (tmp_path / name).write_text(f"{secret}\n")
        (tmp_path / name).chmod(0o600)
    receiver = Receiver()
    async with receiver.listening() as url:
        sink = http(
            url,
            token=f"file:{tmp_path / 'token'}",
            token_scheme="Splunk",
            hmac_key=f"file:{tmp_path / 'hmac'}",
            gzip=True,
        )
        [status] = await deliver_once(settings(tmp_path, sink))
    [request] = receiver.requests
    assert request.headers["Authorization"] == "Splunk s3cret-token"
    assert request.headers["Audit-Log-Id"] == status.log.log_id
    assert request.headers["Audit-Records"] == "0-6"
    assert gzip.decompress(request.body).splitlines() == lines_of_log(directory)
    signature = request.headers["Audit-Signature"]
    assert verify_signature(signature, request.body, b"s3cret-key")
    assert not verify_signature(signature, request.body + b" ", b"s3cret-key")
    assert not verify_signature(signature, request.body, b"another key")
    assert not verify_signature(signature, request.body, b"s3cret-key", now=time.time() + 301)
    assert not verify_signature("t=1", request.body, b"s3cret-key")


async def test_a_token_that_was_replaced_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 401: whoever rotates a token restarts nothing. No error and no record names it."""
    monkeypatch.setattr("audit_async.delivery.sink_gate._SLOW_RETRY_S", 0.05)
    await write_trail(tmp_path / "audit", 5)
    token = tmp_path / "token"
    token.write_text("old-secret")
    token.chmod(0o600)
    receiver = Receiver(
        answer=lambda one: web.Response(status=401) if one.headers["Authorization"] != "Bearer new-secret" else None
    )
    async with (
        receiver.listening() as url,
        delivering(settings(tmp_path, http(url, token=f"file:{token}"))) as deliverer,
    ):
        await until(lambda: any(one.state is DeliveryState.UNAUTHORIZED for one in deliverer.statuses))
        assert "secret" not in repr(deliverer.statuses)
        token.write_text("new-secret")
        await until(lambda: receiver.accepted)
    assert b"secret" not in (tmp_path / "state/status.json").read_bytes()
    assert not any(b"secret" in path.read_bytes() for path in (tmp_path / "audit/audit-deliver/00").glob("*.audit"))


async def test_splunk_s_event_collector(tmp_path: Path) -> None:
    """Events one after the other with time, host, source and index; for a wrong index nothing is set aside."""
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Receiver()
    async with receiver.listening() as url:
        sink = http(url, payload="hec", index="audit", source_type="audit:record")
        receiver.answer = lambda _: web.json_response({"text": "Incorrect index", "code": 7}, status=400)
        [status] = await deliver_once(settings(tmp_path, sink))
        assert status.state is DeliveryState.MISCONFIGURED
        receiver.answer = None
        await deliver_once(settings(tmp_path, sink))
    events = [json.loads(line) for line in receiver.accepted]
    assert [event["event"] for event in events] == [json.loads(line) for line in lines_of_log(directory)]
    for event in events:
        assert (event["host"], event["source"], event["index"], event["sourcetype"]) == (
            "web-1", "orders/00", "audit", "audit:record",
        )  # fmt: skip
        assert abs(event["time"] - datetime.fromisoformat(event["event"]["timestamp"]).timestamp()) < 1e-5


async def test_json_is_an_array(tmp_path: Path) -> None:
    """Of the documents."""
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Receiver(read=lambda request: [json.dumps(one).encode() for one in json.loads(request.text)])
    async with receiver.listening() as url:
        await deliver_once(settings(tmp_path, http(url, payload="json")))
    assert [json.loads(line) for line in receiver.accepted] == [json.loads(line) for line in lines_of_log(directory)]
    assert receiver.requests[0].headers["Content-Type"] == "application/json"


class Index:
    """Answers as a bulk interface does, document by document."""

    def __init__(self) -> None:
        self.documents: dict[str, object] = {}
        self.busy = 0
        self.refused = b"nothing"

    def answer(self, request: Request) -> web.Response:
        """Store what is new; answer for each."""
        lines = request.text.splitlines()
        items = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            create = json.loads(action)["create"]
            assert create["_index"] == "audit"
            status: int = 201
            if self.refused in document:
                status = 400
            elif self.busy:
                self.busy -= 1
                status = 429
            elif create["_id"] in self.documents:
                status = 409
            else:
                self.documents[create["_id"]] = json.loads(document)
            error = {"error": {"type": "mapper_parsing_exception", "reason": "secret"}} if status == 400 else {}
            items.append({"create": {"_id": create["_id"], "status": status, **error}})
        return web.json_response({"errors": any(item["create"]["status"] > 299 for item in items), "items": items})


async def test_a_bulk_interface_answers_for_each_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is busy is sent again, what is there already counts as delivered, what is refused is set aside."""
    monkeypatch.setattr("audit_async.delivery.sink_gate._FIRST_RETRY_S", 0.02)
    directory = await write_trail(tmp_path / "audit", 20)
    index = Index()
    index.busy, index.refused = 3, b'"/login/7"'
    receiver = Receiver(answer=index.answer)
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, payload="bulk", index="audit"))):
        await until(lambda: len(index.documents) == 21)
        await until((tmp_path / "state/siem/set-aside.ndjson").exists)
    wanted = [json.loads(line) for line in lines_of_log(directory) if b'"/login/7"' not in line]
    assert list(index.documents.values()) == sorted(
        wanted, key=lambda one: list(index.documents).index(one["audit_id"])
    )
    [entry] = (tmp_path / "state/siem/set-aside.ndjson").read_text().splitlines()
    assert "mapper_parsing_exception" in entry
    assert "secret" not in entry


def otlp(url: str, **more: object) -> OtlpSettings:
    """Return a sink of the service `orders` that speaks OTLP."""
    return OtlpSettings(name="siem", url=url, services=("orders",), **more)  # type: ignore[arg-type]  # by their names


async def test_otlp_has_the_records_as_its_log_records(tmp_path: Path) -> None:
    """Decoded by OpenTelemetry's own messages: the line, its key, its place, its hash, its time to the microsecond."""
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Receiver(read=lines_of_otlp)
    receiver.accepted_answer = otlp_answer
    async with receiver.listening() as url:
        await deliver_once(settings(tmp_path, otlp(url, gzip=True)))
    assert receiver.accepted == lines_of_log(directory)
    [logs] = ExportLogsServiceRequest.FromString(receiver.requests[0].text).resource_logs
    resource = {one.key: one.value.string_value for one in logs.resource.attributes}
    assert (resource["service.name"], resource["host.name"]) == ("orders", "web-1")
    for log_record, line in zip(logs.scope_logs[0].log_records, receiver.accepted, strict=True):
        record = json.loads(line)
        attributes = {one.key: one.value for one in log_record.attributes}
        assert attributes["log.record.uid"].string_value == record["audit_id"]
        assert attributes["audit.seq"].int_value == record["seq"]
        assert attributes["audit.hash"].string_value == record["hash"]
        assert log_record.event_name == record["event"]["event_type"]
        moment = datetime.fromisoformat(record["timestamp"])
        assert log_record.time_unix_nano % 10**9 == moment.microsecond * 1000
        assert log_record.time_unix_nano // 10**9 == int(moment.timestamp())


async def test_what_an_otlp_receiver_rejects_in_part_is_found(tmp_path: Path) -> None:
    """It says how many, not which: they are found by sending fewer, and the others arrive."""
    directory = await write_trail(tmp_path / "audit", 20)
    receiver = Receiver(read=lambda one: [line for line in lines_of_otlp(one) if b'"/login/7"' not in line])

    def answer(request: Request) -> web.Response:
        said = ExportLogsServiceResponse()
        said.partial_success.rejected_log_records = sum(b'"/login/7"' in line for line in lines_of_otlp(request))
        return web.Response(body=said.SerializeToString())

    receiver.accepted_answer = answer
    async with receiver.listening() as url:
        [status] = await deliver_once(settings(tmp_path, otlp(url)))
    assert (status.state, status.set_aside) == (DeliveryState.CAUGHT_UP, 1)
    check_received(receiver.accepted, [line for line in lines_of_log(directory) if b'"/login/7"' not in line])


async def test_a_file_is_rotated_and_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    """A shipper gets whole lines only, all of them, in order; no more files are kept than asked for."""
    directory = await write_trail(tmp_path / "audit", 300)
    path = tmp_path / "out.ndjson"
    path.write_bytes(b'{"torn":')
    sink = FileSettings(
        name="siem", path=str(path), rotate_bytes=20_000, keep_files=20, max_records=20, services=("orders",)
    )
    await deliver_once(settings(tmp_path, sink))
    paths = sorted(
        tmp_path.glob("out.ndjson*"), key=lambda one: -int(one.suffix[1:]) if one.suffix[1:].isdigit() else 0
    )
    assert len(paths) > 3
    assert [line for one in paths for line in one.read_bytes().splitlines()] == lines_of_log(directory)


# -- syslog -----------------------------------------------------------------------------------------------------------


@contextmanager
def rsyslogd(tmp_path: Path, *inputs: str) -> Iterator[Path]:
    """Run Debian's rsyslog with these inputs; yield the file that it writes messages to, kept over restarts."""
    program = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"
    if not os.access(program, os.X_OK):
        pytest.skip("needs rsyslog: Debian's rsyslog and rsyslog-openssl")
    out, configuration = tmp_path / "rsyslog.out", tmp_path / "rsyslog.conf"
    text = [
        f'global(workDirectory="{tmp_path}" maxMessageSize="256k" net.enableDNS="off")',
        *inputs,
        'template(name="whole" type="string" string="%app-name% %msgid% %hostname%%msg%\\n")',
        f'action(type="omfile" file="{out}" template="whole")',
    ]
    configuration.write_text("\n".join(text) + "\n")
    command = [program, "-n", "-f", str(configuration), "-i", str(tmp_path / "rsyslog.pid")]
    with (
        (tmp_path / "rsyslog.err").open("ab") as errors,
        subprocess.Popen(command, stdout=errors, stderr=errors) as process,
    ):
        try:
            yield out
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def tcp_input(port: int) -> str:
    """Return rsyslog's input for TCP."""
    return f'module(load="imtcp")\ninput(type="imtcp" port="{port}" address="127.0.0.1")'


def messages_in(out: Path) -> list[bytes]:
    """Return the text of each message."""
    lines = out.read_bytes().splitlines() if out.exists() else []
    return [line.partition(b" web-1")[2].strip() for line in lines]


async def is_listening(port: int) -> None:
    """Wait until somebody listens on a port."""

    def there() -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    await until(there)


async def test_rsyslog_over_tls_gets_every_record(tmp_path: Path) -> None:
    """Octet counting over TLS with both certificates checked; the receiver has all of it when the end returns."""
    events = [AuthFailure(reason=f"é\n☃ {n} " + "x" * 5000, ip="203.0.113.9", path=f"/{n}") for n in range(200)]
    directory = await write_events(tmp_path / "audit", *events)
    certificates = Certificates(tmp_path)
    server, client = certificates.issue("localhost"), certificates.issue("web-1")
    port = free_port()
    tls = (
        f'global(defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="{certificates.ca_file}" '
        f'defaultNetstreamDriverCertFile="{server.certificate}" defaultNetstreamDriverKeyFile="{server.key}")\n'
        'module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")\n'
        f'input(type="imtcp" port="{port}" address="127.0.0.1")'
    )
    with rsyslogd(tmp_path, tls) as out:
        await is_listening(port)
        sink = SyslogSettings(
            name="siem", url=f"tls://localhost:{port}", services=("orders",), ca_file=str(certificates.ca_file),
            client_cert=str(client.certificate), client_key=str(client.key),
        )  # fmt: skip
        [status] = await deliver_once(settings(tmp_path, sink))
        assert status.state is DeliveryState.CAUGHT_UP, status.problem
        assert position_of(tmp_path).seq == status.seq
        await until(lambda: len(messages_in(out)) >= 202)
    assert messages_in(out) == lines_of_log(directory)
    assert out.read_bytes().startswith(b"orders audit.log_opened web-1")


async def test_a_certificate_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Nothing is sent, and a person is asked for."""
    await write_trail(tmp_path / "audit", 5)
    certificates = Certificates(tmp_path)
    (tmp_path / "other").mkdir()
    server, others = certificates.issue("localhost"), Certificates(tmp_path / "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.certificate, server.key)
    received: list[bytes] = []

    async def serve(reader: object, writer: object) -> None:
        received.append(await reader.read(100))  # type: ignore[attr-defined]  # asyncio's

    import asyncio  # noqa: PLC0415 - for this server alone

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    try:
        for ca_file, host in ((others.ca_file, "localhost"), (certificates.ca_file, "127.0.0.1")):
            sink = SyslogSettings(name="siem", url=f"tls://{host}:{port}", services=("orders",), ca_file=str(ca_file))
            [status] = await deliver_once(settings(tmp_path, sink))
            assert status.state is DeliveryState.MISCONFIGURED
            assert "certificate" in (status.problem or "")
    finally:
        listener.close()
    assert not any(received)


async def test_after_a_broken_connection_the_overlap_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rsyslog is killed with what it had in memory; what was sent shortly before comes again, with the same keys."""
    monkeypatch.setattr("audit_async.delivery.sink_gate._FIRST_RETRY_S", 0.1)
    directory = await write_trail(tmp_path / "audit", 100)
    port = free_port()
    sink = SyslogSettings(name="siem", url=f"tcp://127.0.0.1:{port}", services=("orders",), overlap_s=3600)
    async with AsyncExitStack() as outer, delivering(settings(tmp_path, sink)):
        with killed_rsyslogd(tmp_path, tcp_input(port)) as out:
            await is_listening(port)
            await until(lambda: len(messages_in(out)) >= 102)
        out.unlink()  # what the receiver had is lost with it, as what was in its memory would be
        out = outer.enter_context(rsyslogd(tmp_path, tcp_input(port)))
        await write_trail(tmp_path / "audit", 5, first=100)
        wanted = set(lines_of_log(directory))
        await until(lambda: wanted <= set(messages_in(out)))
        assert not list((tmp_path / "state/siem").glob("*.json"))  # nothing of it is older than the overlap
    assert position_of(tmp_path).seq == len(wanted) - 1  # the receiver has read to the end of the connection


@contextmanager
def killed_rsyslogd(tmp_path: Path, *inputs: str) -> Iterator[Path]:
    """Run rsyslog, and kill it at the end of the block."""
    with rsyslogd(tmp_path, *inputs) as out:
        yield out
        os.kill(int((tmp_path / "rsyslog.pid").read_text()), signal.SIGKILL)


@asynccontextmanager
async def datagrams(family: socket.AddressFamily, address: object) -> AsyncIterator[tuple[socket.socket, list[bytes]]]:
    """Receive datagrams while the block runs."""
    received: list[bytes] = []
    with socket.socket(family, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        listener.bind(address)  # type: ignore[arg-type]  # of the family
        listener.settimeout(0.1)

        def receive() -> bool:
            try:
                received.append(listener.recv(1 << 17))
            except TimeoutError:
                return False
            return True

        async def run() -> None:
            while True:
                await anyio.to_thread.run_sync(receive)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            yield listener, received
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["udp", "unix"])
async def test_old_receivers_get_datagrams(tmp_path: Path, kind: str) -> None:
    """Each record is a message of RFC 5424; one that no datagram can hold is set aside."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unsent:
        size = max(300_000, 2 * unsent.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
    events = [AuthFailure(reason="é", ip="203.0.113.9", path=path) for path in ("/a", "/" + "y" * size, "/b")]
    directory = await write_events(tmp_path / "audit", *events, max_field_chars=2 * size, max_event_bytes=2 * size)
    path = tmp_path / "log"
    inet = kind == "udp"
    async with datagrams(socket.AF_INET if inet else socket.AF_UNIX, ("127.0.0.1", 0) if inet else str(path)) as (
        listener,
        received,
    ):
        url = f"udp://127.0.0.1:{listener.getsockname()[1]}" if inet else f"unix://{path}"
        [status] = await deliver_once(
            settings(tmp_path, SyslogSettings(name="siem", url=url, services=("orders",), facility=10))
        )
        lines = lines_of_log(directory)
        sent = [line for line in lines if len(line) < 60_000]
        await until(lambda: len(received) == len(sent))
    assert status.set_aside == len(lines) - len(sent) == 1
    for message, line in zip(received, sent, strict=True):
        record = json.loads(line)
        head = f"<85>1 {record['timestamp']} web-1 orders - {record['event']['event_type']} - "
        assert message == head.encode() + line


def test_certificates_are_readable(tmp_path: Path) -> None:
    """The tests' own authority makes certificates for a name."""
    made = Certificates(tmp_path).issue("localhost")
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    assert "localhost" in certificate.subject.rfc4514_string()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "https://user:pw@siem.example/"}, "password"),
        ({"url": "http://siem.example/"}, "https://"),
        ({"url": "ftp://siem.example/"}, "https://HOST"),
        ({"token": "s3cret"}, "never the secret itself"),
        ({"payload": "bulk"}, "index"),
        ({"client_key": "/key.pem"}, "client_cert"),
        ({"select": ({"actr": "alice"},)}, "actor"),
        ({"select": ({"limit": 3},)}, "one record"),
        ({"redact": ("seq",)}, "event.actor.ip"),
        ({"redact": ("event.event_type",)}, "event.actor.ip"),
        ({"name": "Siem!"}, "lower-case"),
        ({"format": "xml"}, "ocsf"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(changes: dict[str, object], said: str) -> None:
    """When it is made, under its name, and without a secret."""
    with pytest.raises(ConfigError, match=said) as caught:
        http(**({"url": "https://siem.example/"} | changes))  # type: ignore[arg-type]  # some are wrong
    assert "s3cret" not in str(caught.value)
    assert "pw@" not in str(caught.value)
