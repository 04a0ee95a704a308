"""Records as log records of OpenTelemetry, sent with OTLP over HTTP in protobuf.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. The messages are opentelemetry-proto's; its SDK's exporter is not
used, since that drops what it can't send. A `log.record.uid` is the audit_id, by which a receiver knows a record that
comes twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import anyio.to_thread
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from audit_async._version import __version__
from audit_async.delivery.deliver_settings import OtlpSettings
from audit_async.delivery.deliverable_record import DeliverableRecord, EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.delivery.http_connection import HttpConnection, compressed, result_of

__all__ = ["OtlpSink"]

_HEADERS: Final = {"Content-Type": "application/x-protobuf"}
_SCOPE: Final = InstrumentationScope(name="audit_async", version=__version__)


class OtlpSink:
    """A receiver of OpenTelemetry's logs. For one event loop of asyncio.

    Args:
        settings: The sink's.
    """

    overlap_s: Final = 0.0
    breaks: Final = 0

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings: Final = settings
        self._connection: Final = HttpConnection(settings)

    def __repr__(self) -> str:
        return f"<OtlpSink {self._settings.name}>"

    async def send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        """Send one request; delivered if the receiver rejects none of its records."""
        body = await anyio.to_thread.run_sync(export_request, batch)
        headers = dict(_HEADERS)
        if self._settings.gzip:
            body = await anyio.to_thread.run_sync(compressed, body)
            headers["Content-Encoding"] = "gzip"
        answer = await self._connection.post(body, headers)
        if isinstance(answer, SendResult):
            return answer
        result = result_of(answer)
        if result is not None:
            return result
        try:
            said = ExportLogsServiceResponse.FromString(answer.body)
        except DecodeError:
            return SendResult(
                outcome=Outcome.MISCONFIGURED, reason="the answer is none of an OTLP receiver; check the url"
            )
        rejected = said.partial_success.rejected_log_records
        if rejected > 0:
            # Which ones it does not say; they are found by sending fewer.
            return SendResult(
                outcome=Outcome.REFUSED, reason=f"the receiver rejects {rejected} of {len(batch)} records"
            )
        return SendResult(outcome=Outcome.ACCEPTED)

    async def finish(self) -> bool:
        """Close the connections."""
        await self._connection.aclose()
        return True


def export_request(batch: Sequence[EncodedRecord]) -> bytes:
    """Return the request for records of one log."""
    log = batch[0].record.log
    resource = Resource(
        attributes=[
            _text("service.name", log.service),
            _text("service.instance.id", log.instance),
            _text("host.name", log.host),
            _text("audit.log_id", log.log_id),
        ]
    )
    scope_logs = ScopeLogs(scope=_SCOPE, log_records=list(_log_records(batch)))
    request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope_logs])])
    return request.SerializeToString()


def _log_records(batch: Sequence[EncodedRecord]) -> Iterator[LogRecord]:
    for record, body in batch:
        at_ns = _nanoseconds(record)
        yield LogRecord(
            time_unix_nano=at_ns,
            observed_time_unix_nano=at_ns,
            severity_number=SeverityNumber.SEVERITY_NUMBER_INFO,
            body=AnyValue(string_value=body.decode(errors="replace")),
            event_name=record.event_type,
            attributes=[
                _text("log.record.uid", record.audit_id),
                KeyValue(key="audit.seq", value=AnyValue(int_value=record.seq)),
                _text("audit.hash", record.hash),
            ],
        )


def _nanoseconds(record: DeliverableRecord) -> int:
    moment = datetime.fromisoformat(record.timestamp)
    # Not timestamp() alone: a float has not enough digits for a microsecond of today.
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))
