"""Receivers that speak a vendor's protocol as its pages say, and refuse everything else.

Each class names the pages; docs/receivers has what follows from them. What was taken is in `stored`.
"""

from __future__ import annotations

import gzip
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple

from aiohttp import web
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from tests.delivery.http_receiver import Receiver

TOKEN = "s3cret"


class Arrived(NamedTuple):
    """A request."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes  #: as it was sent
    text: bytes  #: decompressed


class Refused(Exception):
    """The vendor answers with an error."""

    def __init__(self, status: int, document: object = None) -> None:
        super().__init__(status)
        self.status = status
        self.document = document


def require(holds: object, status: int, document: object = None) -> None:
    """Refuse a request unless something holds."""
    if not holds:
        raise Refused(status, document)


class Vendor(Receiver):
    """A vendor's receiver."""

    form: ClassVar[str]  #: in which its stored documents are, for `check_copies`

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[dict[str, Any]] = []
        self.answers: list[int] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Take a request, or refuse it."""
        body = await request.read()
        encoding = request.headers.get("Content-Encoding")
        try:
            require(request.method == "POST", 405)
            require(encoding in {None, "gzip"}, 415)
            text = gzip.decompress(body) if encoding else body
            answer = self.take(Arrived(request.path, request.query, request.headers, body, text))
        except Refused as refused:
            answer = web.json_response(refused.document or {}, status=refused.status)
        self.answers.append(answer.status)
        return answer

    def take(self, request: Arrived) -> web.Response:
        """Store what a request brings, and return the answer.

        Raises:
            Refused: The vendor would refuse it.
        """
        raise NotImplementedError


def documents_in(text: bytes, most_bytes: int, most: int) -> list[Any]:
    """Return a JSON array's documents, refused with 413 if they are too many and 400 if it is none."""
    require(len(text) <= most_bytes, 413)
    try:
        documents = json.loads(text)
    except ValueError as error:
        raise Refused(400) from error
    require(isinstance(documents, list) and documents and all(isinstance(one, dict) for one in documents), 400)
    require(len(documents) <= most, 413)
    assert isinstance(documents, list)
    return documents


class Splunk(Vendor):
    """Splunk Cloud's HTTP Event Collector.

    https://docs.splunk.com/Documentation/Splunk/latest/Data/FormateventsforHTTPEventCollector and
    https://docs.splunk.com/Documentation/Splunk/latest/Data/TroubleshootHTTPEventCollector (the codes)
    """

    form = "ocsf"
    _MEMBERS = frozenset({"time", "host", "source", "sourcetype", "index", "event", "fields"})

    def __init__(self, *, acknowledges: bool = False, indexes: tuple[str, ...] = ("audit",)) -> None:
        super().__init__()
        self._acknowledges = acknowledges
        self._indexes = indexes
        self.envelopes: list[dict[str, Any]] = []

    def take(self, request: Arrived) -> web.Response:
        """Take events, one JSON object after the other."""
        require(
            request.path == "/services/collector/event", 404, {"text": "The requested URL was not found", "code": 404}
        )
        given = request.headers.get("Authorization")
        require(given is not None, 401, {"text": "Token is required", "code": 2})
        require(given == f"Splunk {TOKEN}", 403, {"text": "Invalid token", "code": 4})
        require(len(request.text) <= 1_000_000, 413)
        channel = "X-Splunk-Request-Channel" in request.headers
        require(channel or not self._acknowledges, 400, {"text": "Data channel is missing", "code": 10})
        envelopes = list(self._envelopes(request.text.decode()))
        require(envelopes, 400, {"text": "No data", "code": 5})
        self.envelopes += envelopes
        self.stored += [envelope["event"] for envelope in envelopes]
        return web.json_response({"text": "Success", "code": 0})

    def _envelopes(self, text: str) -> Iterator[dict[str, Any]]:
        decoder, at = json.JSONDecoder(), 0
        while text[at:].strip():
            at += len(text[at:]) - len(text[at:].lstrip())
            try:
                envelope, at = decoder.raw_decode(text, at)
            except ValueError as error:
                raise Refused(400, {"text": "Invalid data format", "code": 6}) from error
            valid = isinstance(envelope, dict) and envelope.keys() <= self._MEMBERS
            timed = valid and isinstance(envelope.get("time"), int | float)
            require(timed, 400, {"text": "Invalid data format", "code": 6})
            require(envelope.get("event"), 400, {"text": "Event field is required", "code": 12})
            require(envelope.get("index") in self._indexes, 400, {"text": "Incorrect index", "code": 7})
            yield envelope


class Elastic(Vendor):
    """Elasticsearch's bulk interface on a data stream, for a key with the privilege `create_doc`.

    https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk

    Args:
        types: The types of the template's fields.
        streams: The data streams that there are; others would have to be made, which the key may not.
    """

    form = "ecs"

    def __init__(self, types: Mapping[str, str], streams: tuple[str, ...] = ("logs-audit-default",)) -> None:
        super().__init__()
        self._types = types
        self._streams = streams
        self._ids: set[str] = set()

    def roll_over(self) -> None:
        """Begin a new backing index, in which each id is free."""
        self._ids = set()

    def take(self, request: Arrived) -> web.Response:
        """Take pairs of lines: what to do, and the document."""
        require(request.path == "/_bulk", 404)
        require(request.headers.get("Authorization") == f"ApiKey {TOKEN}", 401)
        require(request.headers.get("Content-Type", "").startswith("application/x-ndjson"), 406)
        require(request.text.endswith(b"\n"), 400)
        lines = request.text.removesuffix(b"\n").split(b"\n")
        require(len(lines) % 2 == 0, 400)
        items = [
            self._create(json.loads(action), document) for action, document in zip(lines[::2], lines[1::2], strict=True)
        ]
        errors = any(item["create"]["status"] >= 300 for item in items)
        return web.json_response({"took": 1, "errors": errors, "items": items})

    def _create(self, action: dict[str, Any], line: bytes) -> dict[str, Any]:
        require(action.keys() == {"create"} and action["create"].keys() == {"_index", "_id"}, 400)
        name, key = action["create"]["_index"], action["create"]["_id"]
        require(0 < len(key.encode()) <= 512, 400)
        status, error = 201, None
        if name not in self._streams:
            status, error = 403, "security_exception"
        elif key in self._ids:
            status, error = 409, "version_conflict_engine_exception"
        else:
            document = json.loads(line)
            wrong = [path for path, value in flat(document) if not fits(self._types.get(path), value)]
            if wrong or "@timestamp" not in document:
                status, error = 400, "document_parsing_exception"
            else:
                self._ids.add(key)
                self.stored.append(document)
        said: dict[str, Any] = {"_index": name, "_id": key, "status": status}
        return {"create": said if error is None else said | {"error": {"type": error, "reason": "..."}}}


def flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a document, objects by their members and lists by their elements."""
    for name, value in document.items():
        path = f"{prefix}{name}"
        yield path, value
        if isinstance(value, dict):
            yield from flat(value, f"{path}.")


def fits(kind: str | None, value: object) -> bool:
    """Return whether a field of a type takes a value; a field that is not in the template takes any."""
    if isinstance(value, list):
        return all(fits(kind, one) for one in value)
    if kind is None:
        return True
    check = _FITS[kind]
    try:
        return check(value)
    except ValueError:
        return False


_FITS: dict[str, Callable[[Any], bool]] = {
    "ip": lambda value: bool(ipaddress.ip_address(value)),
    "date_nanos": lambda value: bool(datetime.fromisoformat(value)),
    "date": lambda value: bool(datetime.fromisoformat(value)),
    "long": lambda value: isinstance(value, int) and -(2**63) <= value < 2**63,
    "float": lambda value: isinstance(value, int | float),
    "boolean": lambda value: isinstance(value, bool),
    "flattened": lambda value: isinstance(value, dict),
    "object": lambda value: isinstance(value, dict),
    **dict.fromkeys(("keyword", "wildcard", "match_only_text"), lambda value: isinstance(value, str)),
}


class LogsIngestion(Vendor):
    """Azure Monitor's Logs Ingestion API, with a rule that declares some columns.

    https://learn.microsoft.com/azure/azure-monitor/logs/logs-ingestion-api-overview and
    https://learn.microsoft.com/azure/azure-monitor/fundamentals/service-limits#logs-ingestion-api
    """

    form = "ocsf"
    _PATH = re.compile(r"/dataCollectionRules/dcr-[0-9a-f]{32}/streams/Custom-\w{1,100}")

    def __init__(self, columns: frozenset[str]) -> None:
        super().__init__()
        self._columns = columns

    def take(self, request: Arrived) -> web.Response:
        """Take an array; what the rule does not declare is dropped, and long fields are cut."""
        require(self._PATH.fullmatch(request.path), 404)
        require(request.query == {"api-version": "2023-01-01"}, 400)
        require(request.headers.get("Authorization") == f"Bearer {TOKEN}", 401)
        require(request.headers.get("Content-Type") == "application/json", 415)
        for document in documents_in(request.text, 1_000_000, 1 << 30):
            row = {name: value for name, value in document.items() if name in self._columns}
            texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
            self.stored.append({name: value for name, value in row.items() if len(texts[name]) <= 65_536})
        return web.Response(status=204)


class Datadog(Vendor):
    """Datadog's intake of logs. https://docs.datadoghq.com/api/latest/logs/send-logs/."""

    form = "ocsf"

    def take(self, request: Arrived) -> web.Response:
        """Take an array of at most 1000 logs and 5 MB."""
        require(request.path == "/api/v2/logs", 404)
        require("DD-API-KEY" in request.headers, 401)
        require(request.headers["DD-API-KEY"] == TOKEN, 403)
        require(request.query.keys() <= {"ddsource", "ddtags"}, 400)
        documents = documents_in(request.text, 5_000_000, 1000)
        assert all(len(json.dumps(one)) <= 1_000_000 for one in documents), "it would be cut without a word"
        self.stored += documents
        return web.json_response({}, status=202)


class Collector(Vendor):
    """The OTLP receiver of an OpenTelemetry Collector. https://opentelemetry.io/docs/specs/otlp/#otlphttp-request."""

    form = "record"
    path = "/v1/logs"

    def take(self, request: Arrived) -> web.Response:
        """Take log records in protobuf."""
        require(request.path == self.path, 404)
        require(request.headers.get("Authorization") == f"Bearer {TOKEN}", 401)
        require(request.headers.get("Content-Type") == "application/x-protobuf", 415)
        decoded = ExportLogsServiceRequest.FromString(request.text)
        require(not UnknownFieldSet(decoded), 400)
        wrong = 0
        for resource in decoded.resource_logs:
            names = {attribute.key for attribute in resource.resource.attributes}
            require("service.name" in names, 400)
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    require(record.time_unix_nano and record.observed_time_unix_nano and record.HasField("body"), 400)
                    require(len(record.trace_id) in {0, 16} and len(record.span_id) in {0, 8}, 400)
                    if self.is_too_much(record.body.string_value, record.time_unix_nano):
                        wrong += 1
                    else:
                        self.stored.append(json.loads(record.body.string_value))
        return self.answer_to(wrong)

    def is_too_much(self, line: str, at_ns: int) -> bool:
        """Return whether a record can't be taken."""
        return False

    def answer_to(self, wrong: int) -> web.Response:
        """Return the answer, if so many records could not be taken."""
        answer = ExportLogsServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")


class Loki(Collector):
    """Grafana Loki's OTLP endpoint, with its default limits.

    https://grafana.com/docs/loki/latest/send-data/otel/ and https://grafana.com/docs/loki/latest/configure/#limits_config
    """

    path = "/otlp/v1/logs"

    def is_too_much(self, line: str, at_ns: int) -> bool:
        """Return whether a line is longer than 256 KB, or older than a week."""
        week_ago = (datetime.now(UTC) - timedelta(days=7)).timestamp()
        return len(line.encode()) > 256 * 1024 or at_ns / 1e9 < week_ago

    def answer_to(self, wrong: int) -> web.Response:
        """Return 204, or 400 if a line was refused; the others are stored all the same."""
        return web.Response(status=400 if wrong else 204, text="" if not wrong else "entry too far behind or too long")
