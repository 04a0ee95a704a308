"""What came from code that knows nothing of the trail, arguments and log records, as plain data for an event."""

from __future__ import annotations

import msgspec

from audit_async.events.base import TIMES_AND_NUMBERS, of_standard_library

__all__ = ["exception_name", "plain", "type_name"]


def plain(value: object) -> object:
    """Return a value of any type as plain JSON data; never raises."""
    try:
        # Bytes stay bytes: in base64 nobody would find a secret that is in them.
        return msgspec.to_builtins(
            value, builtin_types=(bytes, bytearray, memoryview), str_keys=True, enc_hook=_plain_kind_of
        )
    except Exception:  # noqa: BLE001 - data that contains itself, or whose own code raises: the event counts for more
        return type_name(value)


def exception_name(cls: type[BaseException]) -> str:
    """Return an exception class's name, with its module if that is not `builtins`."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _plain_kind_of(value: object) -> object:
    return of_standard_library(value) if isinstance(value, TIMES_AND_NUMBERS) else type_name(value)


def type_name(value: object) -> str:
    """Return what is recorded of a value that JSON has no place for: its repr may show anything, its type does not."""
    return f"<{type(value).__module__}.{type(value).__qualname__}>"
