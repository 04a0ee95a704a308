"""The bodies of HTTP requests, and what the answers say of each record.

- `json`: an array
- `ndjson`: a line for each (https://github.com/ndjson/ndjson-spec)
- `hec`: Splunk's HTTP Event Collector
  (https://docs.splunk.com/Documentation/Splunk/latest/Data/FormateventsforHTTPEventCollector)
- `bulk`: Elasticsearch's and OpenSearch's bulk interface; `create` with the audit_id as the document's id, so a record
  that comes twice is answered with 409 and stored once
  (https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

import msgspec

from audit_async.delivery.deliver_settings import HttpSettings
from audit_async.delivery.deliverable_record import EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult

__all__ = ["Payload", "payload_of"]

#: Codes of Splunk's answers with status 400 that mean the settings, not the events: an index that there is not, ...
_HEC_SETTINGS: Final = frozenset({7, 10, 11})
_DUPLICATE: Final = 409


class Payload(Protocol):
    """Makes bodies of batches."""

    content_type: str

    def body(self, batch: Sequence[EncodedRecord]) -> bytes:
        """Return the body of a request."""
        ...

    def read_accepted(self, answer: bytes, count: int) -> SendResult:
        """Return what an answer with status 200 to 299 says."""
        ...

    def is_settings(self, answer: bytes) -> bool:
        """Return whether an answer with status 400 means the sink's settings, and not the records."""
        ...


class _Plain:
    """Payloads whose answer says nothing but its status."""

    content_type = "application/json"

    def __init__(self, *, is_json: bool) -> None:
        self._is_json: Final = is_json

    def read_accepted(self, answer: bytes, count: int) -> SendResult:  # noqa: ARG002 - says nothing
        return SendResult(outcome=Outcome.ACCEPTED)

    def is_settings(self, answer: bytes) -> bool:  # noqa: ARG002 - says nothing
        return False

    def _documents(self, batch: Sequence[EncodedRecord]) -> list[bytes]:
        """Return the documents as JSON; a line of text as a string."""
        if self._is_json:
            return [body for _, body in batch]
        return [msgspec.json.encode(body.decode(errors="replace")) for _, body in batch]


class _Array(_Plain):
    def body(self, batch: Sequence[EncodedRecord]) -> bytes:
        return b"[" + b",".join(self._documents(batch)) + b"]"


class _Lines(_Plain):
    def __init__(self, *, is_json: bool) -> None:
        super().__init__(is_json=is_json)
        self.content_type = "application/x-ndjson" if is_json else "text/plain; charset=utf-8"

    def body(self, batch: Sequence[EncodedRecord]) -> bytes:
        return b"\n".join([*(body for _, body in batch), b""])


class _EventCollector(_Plain):
    """Splunk's."""

    def __init__(self, settings: HttpSettings, *, is_json: bool) -> None:
        super().__init__(is_json=is_json)
        self._members = {
            name: value
            for name, value in (("index", settings.index), ("sourcetype", settings.source_type))
            if value is not None
        }

    def body(self, batch: Sequence[EncodedRecord]) -> bytes:
        log = batch[0].record.log
        common = msgspec.json.encode({"host": log.host, "source": log.name, **self._members})[1:]
        return b"\n".join(
            b'{"time":%.6f,"event":%s,%s'
            % (datetime.fromisoformat(encoded.record.timestamp).timestamp(), document, common)
            for encoded, document in zip(batch, self._documents(batch), strict=True)
        )

    def is_settings(self, answer: bytes) -> bool:
        return _document(answer).get("code") in _HEC_SETTINGS


class _Bulk(_Plain):
    """Elasticsearch's."""

    content_type = "application/x-ndjson"

    def __init__(self, settings: HttpSettings) -> None:
        super().__init__(is_json=True)
        self._index: Final = msgspec.json.encode(settings.index)

    def body(self, batch: Sequence[EncodedRecord]) -> bytes:
        index = self._index
        return b"".join(
            b'{"create":{"_index":%s,"_id":"%s"}}\n%s\n' % (index, encoded.record.audit_id.encode(), encoded.body)
            for encoded in batch
        )

    def read_accepted(self, answer: bytes, count: int) -> SendResult:
        document = _document(answer)
        items = document.get("items")
        if not isinstance(items, list) or len(items) != count:
            return SendResult(
                outcome=Outcome.MISCONFIGURED, reason="the answer is none of a bulk interface; check the url"
            )
        refused: dict[int, str] = {}
        retry: set[int] = set()
        reason = ""
        for number, item in enumerate(items):
            said = item.get("create") if isinstance(item, dict) else None
            status = said.get("status") if isinstance(said, dict) else None
            if not isinstance(said, dict) or not isinstance(status, int):
                return SendResult(outcome=Outcome.MISCONFIGURED, reason="the answer is none of a bulk interface")
            if status in {401, 403}:
                return SendResult(outcome=Outcome.UNAUTHORIZED, reason=f"the index answers {status}; check token")
            if status == 404:
                return SendResult(
                    outcome=Outcome.MISCONFIGURED, reason="there is no such index; make it, or check index"
                )
            if 200 <= status < 300 or status == _DUPLICATE:
                continue
            reason = f"status {status}, {_error_type(said)}"
            if status == 429 or status >= 500:
                retry.add(number)
            else:
                refused[number] = reason
        return SendResult(outcome=Outcome.ACCEPTED, reason=reason, refused=refused, retry=frozenset(retry))


def payload_of(settings: HttpSettings, *, is_json: bool) -> Payload:
    """Return what makes the bodies for a sink, of documents that are JSON or lines of text."""
    if settings.payload == "hec":
        return _EventCollector(settings, is_json=is_json)
    if settings.payload == "bulk":
        return _Bulk(settings)
    return _Array(is_json=is_json) if settings.payload == "json" else _Lines(is_json=is_json)


def _document(answer: bytes) -> Mapping[str, object]:
    try:
        document = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _error_type(said: Mapping[str, object]) -> str:
    """Return the type of an error; its reason may repeat what the record says."""
    error = said.get("error")
    kind = error.get("type") if isinstance(error, dict) else None
    return kind[:80] if isinstance(kind, str) and kind.isascii() and kind.isprintable() else "no type of error"
