"""Each page of docs/receivers: its configuration is taken as it is, and delivers what the page says to a receiver."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from audit_async.delivery import (
    DeliveryState,
    HttpSettings,
    OtlpSettings,
    SinkSettings,
    SyslogSettings,
    read_deliver_settings,
)
from audit_async.delivery.siem_formats import EcsFormat
from audit_async.events import AuthFailure
from tests.delivery.delivering import deliver_once, lines_of_log, settings, until, write_events, write_trail
from tests.delivery.formats.recorded_lines import deliverable, line_of
from tests.delivery.formats.test_ecs import published
from tests.delivery.http_receiver import Receiver, Request, lines_of_otlp, otlp_answer

pytestmark = pytest.mark.anyio

PAGES = Path(__file__).parents[2] / "docs" / "receivers"
DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
BLOCK = re.compile(r"```toml\n(.*?)```", re.DOTALL)


def sinks_of(page: str, tmp_path: Path) -> list[SinkSettings]:
    """Return the sinks of a page, its files below `tmp_path`."""
    found: list[SinkSettings] = []
    for block in BLOCK.findall((PAGES / page).read_text(encoding="utf-8")):
        file = tmp_path / "deliver.toml"
        file.write_text(re.sub(r'file:/[^"]*/', f"file:{tmp_path}/", block), encoding="utf-8")
        found += read_deliver_settings(file).sinks
    return found


def to(url: str, sink: HttpSettings | OtlpSettings, tmp_path: Path) -> Any:
    """Return a sink of a page, sent to a receiver on this machine, with its secret in a file."""
    assert sink.url.startswith("https://")
    assert sink.token is not None
    secret = Path(sink.token.removeprefix("file:"))
    secret.touch(0o600)
    secret.write_text("s3cret", encoding="utf-8")
    path = sink.url.removeprefix("https://").partition("/")[2]
    return msgspec.structs.replace(sink, url=f"{url.rpartition('/')[0]}/{path}", services=("orders",))


async def delivered(
    tmp_path: Path, page: str, kind: type[HttpSettings | OtlpSettings], **receiving: Any
) -> tuple[Receiver, list[bytes]]:
    """Deliver a trail as a page says; return the receiver and the lines of the trail."""
    directory = await write_trail(tmp_path / "audit", 30)
    (sink,) = (one for one in sinks_of(page, tmp_path) if isinstance(one, kind))
    receiver = Receiver(**receiving)
    if kind is OtlpSettings:
        receiver.accepted_answer = otlp_answer
    async with receiver.listening() as url:
        [status] = await deliver_once(settings(tmp_path, to(url, sink, tmp_path)))
        assert status.state is DeliveryState.CAUGHT_UP, status.problem
    return receiver, lines_of_log(directory)


async def test_splunk(tmp_path: Path) -> None:
    """Events of HEC with the record's time, its log as the source, and an OCSF event each."""
    receiver, lines = await delivered(tmp_path, "splunk.md", HttpSettings)
    assert {request.headers["Authorization"] for request in receiver.requests} == {"Splunk s3cret"}
    events = [json.loads(line) for request in receiver.requests for line in request.text.splitlines()]
    assert [event["event"]["metadata"]["uid"] for event in events] == [json.loads(line)["audit_id"] for line in lines]
    first = events[0]
    assert (first["index"], first["sourcetype"], first["source"]) == ("audit", "audit:ocsf", "orders/00")
    assert first["event"]["class_uid"] == 1008
    assert abs(first["time"] * 1000 - first["event"]["time"]) < 2


async def test_elastic(tmp_path: Path) -> None:
    """Documents that are created under their audit_id, in ECS."""

    def answer(request: Request) -> web.Response:
        count = len(request.text.splitlines()) // 2
        return web.json_response({"errors": False, "items": [{"create": {"status": 201}}] * count})

    receiver, lines = await delivered(tmp_path, "elastic.md", HttpSettings, answer=answer)
    assert receiver.requests[0].headers["Authorization"] == "ApiKey s3cret"
    rows = [json.loads(line) for request in receiver.requests for line in request.text.splitlines()]
    actions, documents = rows[::2], rows[1::2]
    ids = [json.loads(line)["audit_id"] for line in lines]
    assert actions == [{"create": {"_index": "logs-audit-default", "_id": audit_id}} for audit_id in ids]
    assert [document["event"]["id"] for document in documents] == ids


@pytest.mark.parametrize(("page", "header", "value"), [
    ("sentinel.md", "Authorization", "Bearer s3cret"), ("datadog.md", "DD-API-KEY", "s3cret"),
])  # fmt: skip
async def test_arrays_of_ocsf_events(tmp_path: Path, page: str, header: str, value: str) -> None:
    """Sentinel's ingestion and Datadog's intake get compressed arrays, with the secret in their header."""
    receiver, lines = await delivered(tmp_path, page, HttpSettings, read=lambda request: json.loads(request.text))
    assert {request.headers[header] for request in receiver.requests} == {value}
    assert {request.headers["Content-Encoding"] for request in receiver.requests} == {"gzip"}
    events: list[Any] = list(receiver.accepted)
    assert [event["metadata"]["uid"] for event in events] == [json.loads(line)["audit_id"] for line in lines]


async def test_opentelemetry(tmp_path: Path) -> None:
    """Log records whose bodies are the records."""
    receiver, lines = await delivered(tmp_path, "opentelemetry.md", OtlpSettings, read=lines_of_otlp)
    assert receiver.requests[0].headers["Authorization"] == "Bearer s3cret"
    assert receiver.accepted == lines


@pytest.mark.parametrize(("page", "facility", "form"), [("sentinel.md", 20, "cef"), ("rsyslog.md", 13, "record")])
def test_syslog_settings(tmp_path: Path, page: str, facility: int, form: str) -> None:
    """Over TLS with both certificates, at the facility that the receiver looks for."""
    (sink,) = (one for one in sinks_of(page, tmp_path) if isinstance(one, SyslogSettings))
    assert (sink.facility, sink.format) == (facility, form)
    assert sink.url.startswith("tls://")
    assert sink.client_key is not None


@pytest.fixture
def rsyslog() -> str:
    """Return the path of rsyslogd."""
    program = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin")
    if program is None:
        pytest.skip("needs rsyslog: Debian's rsyslog and rsyslog-openssl")
    return program


@pytest.fixture
def page_configuration(tmp_path: Path) -> str:
    """Return the configuration on rsyslog's page, its files below `tmp_path`."""
    text = (PAGES / "rsyslog.md").read_text(encoding="utf-8")
    block = re.search(r"```text\n(# /etc/rsyslog.d.*?)```", text, re.DOTALL)
    assert block is not None
    for name in ("ca.pem", "server.pem", "server.key"):
        (tmp_path / name).touch()
    return block[1].replace("/etc/rsyslog.d/audit", str(tmp_path)).replace("/var/log/audit", str(tmp_path))


def test_rsyslog_takes_the_configuration_of_its_page(tmp_path: Path, rsyslog: str, page_configuration: str) -> None:
    """Its own check finds nothing wrong with it."""
    file = tmp_path / "rsyslog.conf"
    file.write_text(page_configuration, encoding="utf-8")
    ended = subprocess.run([rsyslog, "-N1", "-f", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


async def test_rsyslog_writes_the_records_as_they_were_recorded(
    tmp_path: Path, rsyslog: str, page_configuration: str
) -> None:
    """With the template of the page a file has the recorded lines, byte for byte; here without TLS."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plain = re.sub(r' streamDriver\.\w+="[^"]*"|\n  defaultNetstream.*', "", page_configuration)
    plain = plain.replace('port="6514"', f'port="{port}" address="127.0.0.1"').replace(
        "global(", f'global(workDirectory="{tmp_path}" net.enableDNS="off" '
    )
    (tmp_path / "rsyslog.conf").write_text(plain, encoding="utf-8")
    events = [AuthFailure(reason="é\u2603 %m %" + "x" * n, ip="203.0.113.9", path=" / ") for n in (0, 1, 9000)]
    directory = await write_events(tmp_path / "audit", *events)
    command = [rsyslog, "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "rsyslog.pid")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:  # noqa: ASYNC220 - returns at once
        try:
            await until(lambda: is_listening(port))
            sink = SyslogSettings(name="syslog", url=f"tcp://127.0.0.1:{port}", services=("orders",))
            await deliver_once(settings(tmp_path, sink))
            out = tmp_path / "records.ndjson"
            await until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 5)
        finally:
            process.kill()
    assert out.read_bytes().splitlines() == lines_of_log(directory)


def is_listening(port: int) -> bool:
    """Return whether somebody listens on a port of this machine."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def fields_of(properties: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of a mapping, with their types."""
    for name, mapping in properties.items():
        if "properties" in mapping:
            yield from fields_of(mapping["properties"], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", mapping["type"]


def test_the_template_has_every_field_that_is_sent() -> None:
    """Each has the type of ECS, and what has no field there is one field, whatever it holds."""
    template = json.loads((DEPLOY / "elastic-template.json").read_text(encoding="utf-8"))
    mappings = template["template"]["mappings"]
    assert mappings["dynamic"] is False
    fields = dict(fields_of(mappings["properties"]))
    for name, kind in fields.items():
        if not name.startswith("audit_async."):
            assert kind == published()[name][0].replace("date", "date_nanos"), name
    assert (fields["audit_async.event"], fields["audit_async.context"]) == ("flattened", "flattened")
    for line in (EVERYTHING, EVERYTHING.replace(b"http.request", b"data.exported")):
        document = msgspec.json.decode(EcsFormat().encode(deliverable(line)))
        assert set(leaves(document)) <= fields.keys()


#: An event with every member that a format looks at.
EVERYTHING = line_of(
    {
        "event_type": "http.request",
        "actor": {
            "user_id": "u", "ip": "203.0.113.9", "session_id": "s", "role": "r", "tenant": "t", "display_name": "d",
        },
        **dict.fromkeys(
            ("attempted_user", "subject", "path", "query", "method", "user_agent", "reason", "error", "level", "logger",
             "message", "segment", "command", "run_id"), "text",
        ),
        **dict.fromkeys(("status", "duration_ms", "bytes_in", "bytes_out", "risk_score", "exit_status"), 5),
    },
    request_id="r", trace_id="t", span_id="s",
)  # fmt: skip


def leaves(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the fields of a document; the whole event and context are one each."""
    for name, value in document.items():
        if isinstance(value, dict) and f"{prefix}{name}" not in {"audit_async.event", "audit_async.context"}:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
