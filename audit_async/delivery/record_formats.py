"""The formats that a receiver may get records in."""

from __future__ import annotations

from importlib import import_module
from typing import Final, Protocol

from audit_async.delivery.deliverable_record import DeliverableRecord

__all__ = ["FORMATS", "Format", "RecordFormat", "format_of"]


class Format(Protocol):
    """Makes one document of a record."""

    @property
    def is_json(self) -> bool:
        """Whether a document is one JSON object; otherwise it is one line of text."""
        ...

    def encode(self, record: DeliverableRecord) -> bytes:
        """Return the document, without a line feed in it or after it."""
        ...


class RecordFormat:
    """The record itself, byte by byte unless it is redacted or opened."""

    is_json: Final = True

    def encode(self, record: DeliverableRecord) -> bytes:
        """Return the line."""
        return record.line


_FORMATS_ROOM: Final = "audit_async.delivery.siem_formats"
#: The module and the class of each; loaded when it is used, since some have large tables.
FORMATS: Final = {
    "record": (__name__, "RecordFormat"),
    "ocsf": (f"{_FORMATS_ROOM}.ocsf_format", "OcsfFormat"),
    "ecs": (f"{_FORMATS_ROOM}.ecs_format", "EcsFormat"),
    "cef": (f"{_FORMATS_ROOM}.cef_format", "CefFormat"),
}


def format_of(name: str) -> Format:
    """Return the format with a name, which is one of `FORMATS`."""
    module, class_name = FORMATS[name]
    made: Format = getattr(import_module(module), class_name)()
    return made
