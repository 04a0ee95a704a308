"""Each page of docs/receivers: its configuration is taken as it is, and delivers what the page says to a receiver.

HTTP receivers are strict ones of `vendor_receivers`; syslog receivers are Debian's, with the page's own configuration.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest

from audit_async import AuditConfig, AuditEvent, AuditLogger, Local
from audit_async.delivery import (
    DeliveryState,
    DeliveryStatus,
    HttpSettings,
    OtlpSettings,
    SinkSettings,
    SyslogSettings,
    check_copies,
    read_deliver_settings,
)
from audit_async.delivery.siem_formats import EcsFormat
from audit_async.events import ActorInfo, AuthFailure, Change, ConfigChanged, HttpRequest, ResourceInfo
from audit_async.reader import AuditReader
from tests.delivery.certificates import Certificates
from tests.delivery.delivering import deliver_once, lines_of_log, settings, until, write_events, write_trail
from tests.delivery.formats.recorded_lines import deliverable, line_of
from tests.delivery.formats.test_cef import parse as parsed_cef
from tests.delivery.formats.test_ecs import published
from tests.delivery.vendor_receivers import (
    TOKEN,
    Collector,
    Datadog,
    Elastic,
    LogsIngestion,
    Loki,
    Splunk,
    Vendor,
)
from tests.logs import Counted, failure
from tests.ports import free_port

pytestmark = pytest.mark.anyio

PAGES = Path(__file__).parents[2] / "docs" / "receivers"
DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
EVENTS: list[AuditEvent] = [
    AuthFailure(attempted_user="alice", reason="\u00e9\n|=", ip="203.0.113.9", path="/login"),
    AuthFailure(reason="unix socket", ip="unknown", path="/login"),
    HttpRequest(method="GET", path="/", duration_ms=1, bytes_in=0, bytes_out=0, status=200, ip="2001:db8::1"),
    ConfigChanged(
        actor=ActorInfo(user_id="root"),
        resource=ResourceInfo(resource_type="flag", resource_id="1"),
        changes={"limit": Change(1.5, 2**63)},
    ),
]
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
    secret.write_text(TOKEN, encoding="utf-8")
    path = sink.url.removeprefix("https://").partition("/")[2]
    return msgspec.structs.replace(sink, url=f"{url.rpartition('/')[0]}/{path}", services=("orders",))


PAGE_OF: dict[str, type[HttpSettings | OtlpSettings]] = {
    "splunk.md": HttpSettings,
    "elastic.md": HttpSettings,
    "sentinel.md": HttpSettings,
    "datadog.md": HttpSettings,
    "opentelemetry.md": OtlpSettings,
}
#: The columns that the page of Sentinel names.
COLUMNS = frozenset({"time", "class_uid", "metadata", "actor", "user", "src_endpoint", "unmapped"})


def vendors() -> dict[str, Vendor]:
    """Return a receiver for each page."""
    return {
        "splunk.md": Splunk(),
        "elastic.md": Elastic(template_fields()),
        "sentinel.md": LogsIngestion(COLUMNS),
        "datadog.md": Datadog(),
        "opentelemetry.md": Collector(),
    }


async def deliver_to(vendor: Vendor, page: str, tmp_path: Path, **more: Any) -> DeliveryStatus:
    """Deliver `tmp_path`/audit with the sink of a page; return how far it came."""
    (sink,) = (one for one in sinks_of(page, tmp_path) if isinstance(one, PAGE_OF[page]))
    assert isinstance(sink, HttpSettings | OtlpSettings)
    async with vendor.listening() as url:
        [status] = await deliver_once(settings(tmp_path, msgspec.structs.replace(to(url, sink, tmp_path), **more)))
    return status


def template_fields() -> dict[str, str]:
    """Return the types of the fields that the template for Elasticsearch has."""
    template = json.loads((DEPLOY / "elastic-template.json").read_text(encoding="utf-8"))
    return dict(fields_of(template["template"]["mappings"]["properties"]))


@pytest.mark.parametrize("page", PAGE_OF)
async def test_the_vendor_takes_everything_and_its_copies_prove_themselves(tmp_path: Path, page: str) -> None:
    """In the vendor's own protocol, more than one batch of it; each document that it has is a genuine copy."""
    directory = await write_events(tmp_path / "audit", *EVENTS, *(failure(n) for n in range(50)))
    vendor = vendors()[page]
    status = await deliver_to(vendor, page, tmp_path, max_records=20)
    assert status.state is DeliveryState.CAUGHT_UP, status.problem
    lines = lines_of_log(directory)
    assert len(vendor.answers) > 1
    assert len(vendor.stored) == len(lines)
    if page == "sentinel.md":  # has the columns that its rule declares
        proofs = [document["unmapped"]["audit"]["hash"] for document in vendor.stored]
        assert proofs == [json.loads(line)["hash"] for line in lines]
        return
    copies = [json.dumps(document).encode() for document in vendor.stored]
    checked = await check_copies(copies, AuditReader(tmp_path / "audit"), vendor.form)
    assert (checked.genuine, checked.others, checked.repeated) == (len(lines), 0, 0), checked.findings


@pytest.mark.parametrize("page", PAGE_OF)
async def test_a_wrong_secret_is_reported_as_such(tmp_path: Path, page: str) -> None:
    """Nothing is taken, and nothing is set aside: the records wait for a person."""
    await write_trail(tmp_path / "audit", 3)
    vendor = vendors()[page]
    (tmp_path / "wrong").touch(0o600)
    (tmp_path / "wrong").write_text("not-it", encoding="utf-8")
    status = await deliver_to(vendor, page, tmp_path, token=f"file:{tmp_path / 'wrong'}")
    assert (status.state, status.set_aside, vendor.stored) == (DeliveryState.UNAUTHORIZED, 0, [])


async def test_splunk_gets_each_event_with_its_place(tmp_path: Path) -> None:
    """With the record's time, its log as the source, the index and the source type."""
    await write_trail(tmp_path / "audit", 3)
    splunk = Splunk()
    await deliver_to(splunk, "splunk.md", tmp_path)
    first = splunk.envelopes[0]
    assert (first["index"], first["sourcetype"], first["source"]) == ("audit", "audit:ocsf", "orders/00")
    assert (first["host"], first["event"]["class_uid"]) == ("web-1", 1008)
    assert abs(first["time"] * 1000 - first["event"]["time"]) < 2


@pytest.mark.parametrize("splunk", [Splunk(acknowledges=True), Splunk(indexes=("main",))], ids=["ack", "index"])
async def test_a_token_of_splunk_that_does_not_fit_is_a_setting(tmp_path: Path, splunk: Splunk) -> None:
    """One that wants indexer acknowledgment, or may not write to the index: the records are not set aside for it."""
    await write_trail(tmp_path / "audit", 3)
    status = await deliver_to(splunk, "splunk.md", tmp_path)
    assert (status.state, status.set_aside) == (DeliveryState.MISCONFIGURED, 0)
    assert "index" in str(status.problem)
    assert "acknowledgment" in str(status.problem)


async def test_elastic_stores_once_what_comes_twice_until_a_rollover(tmp_path: Path) -> None:
    """A deliverer that has lost its position sends everything again, and 409 is as good as 201."""
    directory = await write_trail(tmp_path / "audit", 20)
    elastic = Elastic(template_fields())
    count = len(lines_of_log(directory))
    for stored in (count, count):
        status = await deliver_to(elastic, "elastic.md", tmp_path)
        assert (status.state, len(elastic.stored)) == (DeliveryState.CAUGHT_UP, stored)
        shutil.rmtree(tmp_path / "state")
    elastic.roll_over()
    await deliver_to(elastic, "elastic.md", tmp_path)
    assert len(elastic.stored) == 2 * count, "the page says so"


async def test_elastic_without_the_data_stream_is_no_loss(tmp_path: Path) -> None:
    """The key may not make it: a person has to, as the page says."""
    await write_trail(tmp_path / "audit", 3)
    status = await deliver_to(Elastic(template_fields(), streams=()), "elastic.md", tmp_path)
    assert (status.state, status.set_aside) == (DeliveryState.UNAUTHORIZED, 0)


async def test_what_loki_refuses_is_set_aside_and_the_rest_arrives(tmp_path: Path) -> None:
    """A line above its limit is refused for good; its neighbours are not, whatever batch they were in."""
    long = [Counted(producer=letter * 60_000, n=1) for letter in "ab"]
    given = AuditConfig(
        mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False,
        max_event_bytes=2**20, max_field_chars=400_000,
    )  # fmt: skip
    long.append(Counted(producer="c" * 300_000, n=1))
    async with AuditLogger(given) as audit:
        for event in (failure(1), *long, failure(2)):
            audit.emit(event)
    loki = Loki()
    (sink,) = (one for one in sinks_of("opentelemetry.md", tmp_path) if isinstance(one, OtlpSettings))
    page = (PAGES / "opentelemetry.md").read_text(encoding="utf-8")
    assert '`url = "https://loki.example/otlp/v1/logs"`' in page
    sink = msgspec.structs.replace(sink, url="https://loki.example/otlp/v1/logs")
    async with loki.listening() as url:
        [status] = await deliver_once(settings(tmp_path, to(url, sink, tmp_path)))
    assert (status.state, status.set_aside) == (DeliveryState.CAUGHT_UP, 1)
    events = [record["event"] for record in {one["audit_id"]: one for one in loki.stored}.values()]
    assert [len(event["producer"]) for event in events if "producer" in event] == [60_000, 60_000]
    assert sum(event["event_type"] == "auth.failure" for event in events) == 2


class Daemon(NamedTuple):
    """A syslog receiver of Debian's."""

    page: str
    program: str
    packages: str
    etc: str  #: where its page has its files
    check: tuple[str, ...]  #: arguments that have it check a configuration
    run: tuple[str, ...]  #: arguments that have it run in the foreground with a configuration

    def path(self) -> str:
        """Return the program's path; skip the test if it is not there."""
        found = shutil.which(self.program) or shutil.which(self.program, path="/usr/sbin")
        if found is None:
            pytest.skip(f"needs {self.program} (Debian: {self.packages})")
        return found

    def configuration(self, tmp_path: Path) -> str:
        """Return the configuration on the page, its files in `tmp_path`."""
        text = (PAGES / self.page).read_text(encoding="utf-8")
        block = re.search(rf"```text\n# {self.etc}/[\w./-]*\n(.*?)```", text, re.DOTALL)
        assert block is not None
        return block[1].replace(f"{self.etc}/audit", str(tmp_path)).replace("/var/log/audit", str(tmp_path))


RSYSLOG = Daemon(
    "rsyslog.md", "rsyslogd", "rsyslog and rsyslog-openssl", "/etc/rsyslog.d", ("-N1", "-f"),
    ("-n", "-i", "rsyslog.pid", "-f"),
)  # fmt: skip
#: The forwarder of the Azure Monitor Agent.
FORWARDER = RSYSLOG._replace(page="sentinel.md")
SYSLOG_NG = Daemon(
    "syslog-ng.md", "syslog-ng", "syslog-ng-core, in place of rsyslog", "/etc/syslog-ng",
    ("--syntax-only", "--no-caps", "-f"),
    ("-F", "--no-caps", "-R", "persist", "-p", "pid", "-c", "control", "-f"),
)  # fmt: skip
#: What a distribution's own file has before it reads those of others.
OPENING = {"rsyslogd": "", "syslog-ng": '@version: 3.38\n@include "scl.conf"\n'}


@pytest.mark.parametrize("daemon", [RSYSLOG, FORWARDER, SYSLOG_NG], ids=lambda daemon: daemon.page)
def test_the_daemon_takes_the_configuration_of_its_page(tmp_path: Path, daemon: Daemon) -> None:
    """Its own check finds nothing wrong with it."""
    certificates = Certificates(tmp_path)
    take_names_of_page(certificates, tmp_path)
    file = tmp_path / "daemon.conf"
    file.write_text(OPENING[daemon.program] + daemon.configuration(tmp_path), encoding="utf-8")
    command = [daemon.path(), *daemon.check, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=tmp_path)
    # Of the forwarder the agent's own file is missing, which says where messages go.
    complaints = [line for line in ended.stderr.splitlines() if "no active actions" not in line]
    assert ended.returncode == 0 or (daemon is FORWARDER and "no active actions" in ended.stderr), complaints


def take_names_of_page(certificates: Certificates, tmp_path: Path) -> None:
    """Issue the certificates that the pages of syslog receivers name."""
    for host, name in (("localhost", "server"), ("web-1", "client")):
        issued = certificates.issue(host)
        issued.certificate.rename(tmp_path / f"{name}.pem")
        issued.key.rename(tmp_path / f"{name}.key")


@contextmanager
def running(daemon: Daemon, tmp_path: Path, *more: str) -> Iterator[int]:
    """Run a daemon with the configuration of its page, and more; yield its port, on loopback here."""
    port = free_port()
    text = daemon.configuration(tmp_path)
    if daemon.program == "rsyslogd":
        text = text.replace('port="6514"', f'port="{port}" address="127.0.0.1"')
        text = text.replace("global(", f'global(workDirectory="{tmp_path}" net.enableDNS="off" ', 1)
    else:
        text = text.replace("port(6514)", f'port({port}) ip("127.0.0.1")')
    text = "\n".join([OPENING[daemon.program], *more, text])
    (tmp_path / "daemon.conf").write_text(text, encoding="utf-8")
    command = [daemon.path(), *daemon.run, str(tmp_path / "daemon.conf")]
    with (
        (tmp_path / "daemon.err").open("wb") as errors,
        subprocess.Popen(command, stdout=errors, stderr=errors, cwd=tmp_path) as process,
    ):
        try:
            yield port
        finally:
            process.kill()


async def delivered_to_daemon(daemon: Daemon, tmp_path: Path, port: int) -> list[bytes]:
    """Deliver hostile and long records with the sink of the daemon's page; return the lines of the log."""
    events = [AuthFailure(reason="é\u2603 %m % $(id)\n" + "x" * n, ip="203.0.113.9", path=" / ") for n in (0, 1, 9000)]
    directory = await write_events(tmp_path / "audit", *events)
    (sink,) = (one for one in sinks_of(daemon.page, tmp_path) if isinstance(one, SyslogSettings))
    local = {
        name: str(tmp_path / Path(str(getattr(sink, name))).name) for name in ("ca_file", "client_cert", "client_key")
    }
    assert sink.url.startswith("tls://")
    sink = msgspec.structs.replace(sink, url=f"tls://localhost:{port}", services=("orders",), **local)
    with anyio.fail_after(60):
        while not is_listening(port):
            await anyio.sleep(0.02)
    [status] = await deliver_once(settings(tmp_path, msgspec.structs.replace(sink, max_records=2)))
    assert status.state is DeliveryState.CAUGHT_UP, status.problem
    return lines_of_log(directory)


@pytest.mark.parametrize("daemon", [RSYSLOG, SYSLOG_NG], ids=lambda daemon: daemon.program)
async def test_the_daemon_writes_the_records_as_they_were_recorded(tmp_path: Path, daemon: Daemon) -> None:
    """Over TLS with both certificates, with both configurations of its page: the lines, byte for byte."""
    take_names_of_page(Certificates(tmp_path), tmp_path)
    with running(daemon, tmp_path) as port:
        lines = await delivered_to_daemon(daemon, tmp_path, port)
        out = tmp_path / "records.ndjson"
        await until(lambda: out.exists() and out.read_bytes().count(b"\n") >= len(lines))
    assert out.read_bytes().splitlines() == lines
    assert out.stat().st_mode & 0o777 == 0o600


async def test_the_agent_gets_cef_from_the_forwarder(tmp_path: Path) -> None:
    """Through the default ruleset, as the agent's own file passes it on: a message of CEF a record, at local4."""
    take_names_of_page(Certificates(tmp_path), tmp_path)
    (sink,) = (one for one in sinks_of("sentinel.md", tmp_path) if isinstance(one, SyslogSettings))
    assert (sink.facility, sink.format) == (20, "cef")
    arrived = bytearray()

    async def take(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for data in stream:
                arrived.extend(data)

    agent = await anyio.create_tcp_listener(local_host="127.0.0.1")
    agent_port = agent.listeners[0].extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
    form = "<%PRI%>%TIMESTAMP% %HOSTNAME% %syslogtag%%msg:::sp-if-no-1st-sp%%msg%\\n"
    passing_on = (
        f'template(name="agent" type="string" string="{form}")\n'
        f'action(type="omfwd" template="agent" target="127.0.0.1" protocol="tcp" port="{agent_port}")'
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.serve, take)
        with running(FORWARDER, tmp_path, passing_on) as port:
            lines = await delivered_to_daemon(FORWARDER, tmp_path, port)
            await until(lambda: arrived.count(b"\n") >= len(lines))
        tasks.cancel_scope.cancel()
    await agent.aclose()
    passed = [line for line in bytes(arrived).splitlines() if b"CEF:" in line]
    assert all(line.startswith(b"<165>") for line in passed), "local4, notice"
    messages = [parsed_cef(b"CEF:" + line.partition(b"CEF:")[2])[1] for line in passed]
    recorded = [json.loads(line) for line in lines]
    assert [(one["externalId"], one["cs1"]) for one in messages] == [(one["audit_id"], one["hash"]) for one in recorded]
    events = [{"event_type": one["act"], **json.loads(one["cs3"])} for one in messages]
    assert events == [one["event"] for one in recorded]


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
