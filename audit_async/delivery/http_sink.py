"""Records with HTTP POST: signed, compressed, and delivered if the receiver says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio.to_thread

from audit_async.delivery.deliver_settings import HttpSettings
from audit_async.delivery.deliverable_record import EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.delivery.http_connection import HttpConnection, compressed, result_of
from audit_async.delivery.http_payloads import payload_of
from audit_async.delivery.http_signature import SIGNATURE_HEADER, sign_request
from audit_async.tlog.failures import KeyUnavailable

__all__ = ["HttpSink"]


class HttpSink:
    """A receiver of POST requests. For one event loop of asyncio.

    Args:
        settings: The sink's.
        is_json: Whether the format's documents are JSON.
    """

    overlap_s: Final = 0.0
    breaks: Final = 0

    def __init__(self, settings: HttpSettings, *, is_json: bool) -> None:
        self._settings: Final = settings
        self._payload: Final = payload_of(settings, is_json=is_json)
        self.connection: Final = HttpConnection(settings)

    def __repr__(self) -> str:
        return f"<HttpSink {self._settings.name} {self._settings.payload}>"

    async def send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        """Send one request."""
        settings = self._settings
        body = self._payload.body(batch)
        log = batch[0].record.log
        headers = {
            "Content-Type": self._payload.content_type,
            "Audit-Log-Id": log.log_id,
            "Audit-Records": f"{batch[0].record.seq}-{batch[-1].record.seq}",
        }
        if settings.gzip:
            body = await anyio.to_thread.run_sync(compressed, body)
            headers["Content-Encoding"] = "gzip"
        if settings.hmac_key is not None:
            try:
                headers[SIGNATURE_HEADER] = sign_request(body, await self.connection.secret(settings.hmac_key))
            except KeyUnavailable as error:
                return SendResult(outcome=Outcome.MISCONFIGURED, reason=str(error))
        answer = await self.connection.post(body, headers)
        if isinstance(answer, SendResult):
            return answer
        result = result_of(answer)
        if result is None:
            return self._payload.read_accepted(answer.body, len(batch))
        if result.outcome is Outcome.REFUSED and self._payload.is_settings(answer.body):
            return SendResult(
                outcome=Outcome.MISCONFIGURED,
                reason="the receiver refuses the sink's settings; check index, and that the token asks for no "
                "indexer acknowledgment",
            )
        return result

    async def finish(self) -> bool:
        """Close the connections."""
        await self.connection.aclose()
        return True
