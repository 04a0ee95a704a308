r"""Records in CEF, the Common Event Format, revision 26, as ArcSight, Sentinel and QRadar read it.

    CEF:0|audit-async|audit-async|VERSION|TYPE|NAME|SEVERITY|key=value key=value …

In the header `\` and `|` are escaped by a backslash, in values `\` and `=`, and line feeds and carriage returns in
values are `\n` and `\r`. Everything else that could misrepresent itself becomes its visible escape first, so that no
text of a record can end its field, its message, or the line.

The record's hash, its log and its place in the chain are in `cs1`, `cs2` and `cn1`; the whole event and context are in
`cs3` and `cs4` as JSON.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from audit_async._sanitize.unsafe_text import UNSAFE, escape
from audit_async._version import __version__
from audit_async.delivery.deliverable_record import DeliverableRecord
from audit_async.delivery.siem_formats.member_fields import FieldRule, address, field_values, number, outcome_of, text
from audit_async.delivery.siem_formats.ocsf_format import mapping_of
from audit_async.delivery.siem_formats.ocsf_members import SeverityText
from audit_async.delivery.siem_formats.recorded_line import epoch_ms, open_line, plain_value

__all__ = ["CEF_FIELDS", "CefFormat"]

#: OCSF's severity in CEF's scale from 0 to 10, whose words are Low (0 to 3), Medium (4 to 6), High (7, 8), Very-High.
_SEVERITIES: Final = {0: 0, 1: 1, 2: 3, 3: 5, 4: 8, 5: 10, 99: 5}


def _ipv4(value: object) -> object:
    return value if address(value) is not None and ":" not in str(value) else None


def _ipv6(value: object) -> object:
    return value if address(value) is not None and ":" in str(value) else None


_ADDRESSES: Final = ("actor.ip", "ip")

#: The keys that members of events have.
CEF_FIELDS: Final = (
    FieldRule("suid", ("actor.user_id", "actor", "requester", "set_by", "lifted_by", "requested_by"), text),
    FieldRule("suser", ("attempted_user", "actor.display_name"), text),
    FieldRule("spriv", ("actor.role",), text),
    FieldRule("src", _ADDRESSES, _ipv4),
    FieldRule("c6a2", _ADDRESSES, _ipv6),
    FieldRule("duid", ("subject",), text),
    FieldRule("request", ("path", "endpoint"), text),
    FieldRule("requestClientApplication", ("user_agent",), text),
    FieldRule("in", ("bytes_in",), number),
    FieldRule("out", ("bytes_out",), number),
    FieldRule("reason", ("reason", "result.reason", "result.details"), text),
    FieldRule("fname", ("segment",), text),
    FieldRule("msg", ("message", "details"), text),
)
_METHOD: Final = (FieldRule("requestMethod", ("method",), text),)


class CefFormat:
    """Makes CEF messages of records. From any thread."""

    is_json: Final = False
    content_type: Final = "text/plain; charset=utf-8"

    def encode(self, record: DeliverableRecord) -> bytes:
        """Return the message of a record as one line of UTF-8, without a line feed in it or after it.

        Args:
            record: The record, with the log that it is from.

        Raises:
            NotARecord: If its line is none.
        """
        line = open_line(record)
        event: dict[str, object] = {name: plain_value(raw) for name, raw in line.event.items()}
        mapping = mapping_of(line.event_type, has_actor="actor" in event)
        graded: dict[str, object] = {"severity_id": mapping.severity}
        if isinstance(mapping.members.get("severity"), SeverityText):
            SeverityText().put(graded, event.get("severity"))
        severity = _SEVERITIES[mapping.severity if graded["severity_id"] == _OTHER else int(str(graded["severity_id"]))]
        name = f"{mapping.ocsf_class.caption}: {mapping.activity_name}"
        header = "|".join(map(_header, ("CEF:0", _VENDOR, _PRODUCT, __version__, line.event_type, name, str(severity))))
        happened = event.get("occurred_at")
        pairs: list[tuple[str, object]] = [
            ("rt", epoch_ms(line.timestamp)),
            ("start", epoch_ms(happened) if isinstance(happened, str) else None),
            ("externalId", line.audit_id),
            ("act", line.event_type),
            ("dvchost", record.host),
            ("deviceProcessName", line.service_id),
            ("outcome", outcome_of({"event_type": line.event_type, **event})),
            *field_values(event, CEF_FIELDS),
            *(field_values(event, _METHOD) if line.event_type.startswith("http.") else ()),
            ("cs1", record.hash),
            ("cs2", record.log_id),
            ("cn1", line.seq),
            ("cs3", _json(line.event)),
            ("cs4", _json(line.context) if line.context else None),
            ("cs5", line.prev_hash),
            ("cs6", _altered(line.sealed_under) if line.altered else None),
        ]
        extension = " ".join(_with_label(key, value) for key, value in pairs if value is not None and value != "")
        return f"{header}|{extension}".encode()


_VENDOR: Final = "audit-async"
_PRODUCT: Final = "audit-async"
_OTHER: Final = 99

_LABELS: Final = {
    "cs1": "recordHash",
    "cs2": "logId",
    "cn1": "recordSeq",
    "cs3": "event",
    "cs4": "context",
    "cs5": "previousHash",
    "cs6": "altered",
    "c6a2": "Source IPv6 Address",
}


def _altered(sealed_under: list[str]) -> str:
    """Return what a copy that differs from its record says of that, with the keys of what was opened."""
    return ",".join(["true", *sealed_under])


def _json(members: dict[str, msgspec.Raw]) -> str:
    """Return JSON that is the same to a decoder, with every unsafe character as JSON's own escape."""
    encoded = msgspec.json.encode(members).decode()
    return encoded if _is_plain(encoded) else UNSAFE.sub(_json_escape, encoded)


def _is_plain(value: str) -> bool:
    """Return whether a text surely holds nothing unsafe: a tenth of the price of the search."""
    return value.isascii() and value.isprintable()


def _json_escape(unsafe: re.Match[str]) -> str:
    units = unsafe[0].encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _with_label(key: str, value: object) -> str:
    pair = f"{key}={_value(str(value))}"
    label = _LABELS.get(key)
    return pair if label is None else f"{pair} {key}Label={label}"


def _header(value: str) -> str:
    r"""Return a text as a field of the header, in which a line feed has no escape: it is shown as `\\n`."""
    harmless = escape(value).replace("\n", "\\n").replace("\t", "\\t")
    return harmless.replace("\\", "\\\\").replace("|", "\\|")


def _value(value: str) -> str:
    """Return a text as the value of a key."""
    if not _is_plain(value):
        # The carriage return is unsafe to `escape`, and has an escape of its own here.
        value = "\r".join(map(escape, value.split("\r")))
    escaped = value.replace("\\", "\\\\").replace("=", "\\=")
    return escaped.replace("\r", "\\r").replace("\n", "\\n")
