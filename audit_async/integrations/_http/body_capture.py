"""The beginning of a body, copied as it passes: nothing is held back, and never more than the limit is kept."""

from __future__ import annotations

from typing import Final

from audit_async.events import CapturedBody
from audit_async.integrations._http.http_redactor import HttpRedactor

__all__ = ["BodyCapture"]


class BodyCapture:
    """Keeps the first `max_bytes` of a body. Owned by the task of its request."""

    __slots__ = ("_content_type", "_kept", "_max_bytes", "_why_not", "total")

    def __init__(self, content_type: str, content_encoding: str, max_bytes: int, *, listed: bool) -> None:
        self.total = 0  #: bytes that passed
        self._content_type: Final = content_type
        self._kept: Final = bytearray()
        self._why_not: Final = _why_not(content_encoding, listed=listed)
        self._max_bytes: Final = max_bytes if self._why_not is None else 0

    def add(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take note of a chunk that passes; copies what still has room."""
        room = self._max_bytes - len(self._kept)
        if room > 0:
            self._kept.extend(chunk[:room])
        self.total += len(chunk)

    def finish(self, redactor: HttpRedactor, piece_chars: int) -> CapturedBody | None:
        """Return what is to be recorded, its text in pieces of that many characters; None if nothing passed."""
        if not self.total:
            return None
        content_type = redactor.accepted(self._content_type)
        if self._why_not is not None:
            return CapturedBody(content_type=content_type, bytes=self.total, left_out=self._why_not)
        truncated = self.total > len(self._kept)
        text = redactor.body(bytes(self._kept), self._content_type, truncated=truncated)
        pieces = [text[start : start + piece_chars] for start in range(0, len(text), piece_chars)]
        return CapturedBody(content_type=content_type, bytes=self.total, truncated=truncated, text=pieces)


def _why_not(content_encoding: str, *, listed: bool) -> str | None:
    """Return why a body is not kept, None if it is."""
    if not listed:
        return "its content type is not listed in the policy"
    encoding = content_encoding.strip().lower()
    # Unpacking what a client sends is a way to be blown up, and its secrets can't be seen packed.
    return None if encoding in {"", "identity"} else f"it is encoded: {ascii(encoding[:32])[1:-1]}"
