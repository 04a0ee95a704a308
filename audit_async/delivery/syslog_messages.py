"""Messages of syslog (https://www.rfc-editor.org/rfc/rfc5424), and how they follow each other in a stream.

Octet counting is https://www.rfc-editor.org/rfc/rfc5425#section-4.3.1 and https://www.rfc-editor.org/rfc/rfc6587.
"""

from __future__ import annotations

import re
from typing import Final

from audit_async.delivery.deliverable_record import EncodedRecord

__all__ = ["counted", "syslog_message"]

#: An audit event is more than information, and no warning.
_NOTICE: Final = 5
#: What a header field may not hold: only printable ASCII without the space is allowed in it.
_NOT_ALLOWED: Final = re.compile(r"[^!-~]")


def syslog_message(encoded: EncodedRecord, facility: int) -> bytes:
    """Return a record's message.

    The application is the service, the message's id the event's type; what else there is is in the text.

    Args:
        encoded: The record.
        facility: The facility's number, 0 to 23.
    """
    record, body = encoded
    head = (
        f"<{facility * 8 + _NOTICE}>1 {record.timestamp} {_field(record.host, 255)} {_field(record.service, 48)} - "
        f"{_field(record.event_type, 32)} - "
    )
    return head.encode() + body


def counted(message: bytes) -> bytes:
    """Return a message as it is in a stream: with its length in bytes before it."""
    return b"%d %s" % (len(message), message)


def _field(text: str, longest: int) -> str:
    """Return a header field; `-` if it is empty."""
    return _NOT_ALLOWED.sub("_", text)[:longest] or "-"
