"""A request's texts on their way into the record, without their secrets, and as the log's configuration wants them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from audit_async._redact.redactor import Redactor
from audit_async._sanitize.unsafe_text import escape
from audit_async.config import AuditConfig

__all__ = ["SHORT_PATH", "HttpRedactor", "is_plain_path"]

#: User agents that are kept as they are recorded: services have few, and each would be searched again and again.
_MAX_USER_AGENTS: Final = 512
_MAX_KEPT_USER_AGENT: Final = 512

#: No log cuts a text that is shorter.
SHORT_PATH: Final = 64
#: Matches a path in which nothing can be a secret, no named value and no segment as long as the shortest key, and which
#: does not climb. Most are like that, and if they are short as well they need none of the searches, 5 us.
PLAIN_PATH: Final = re.compile(r"(?:/(?!\.\.)[A-Za-z0-9._-]{0,12})*+")
is_plain_path: Final = PLAIN_PATH.fullmatch


class HttpRedactor:
    """Takes secrets out of the parts of requests, by the redaction that a log is configured with."""

    def __init__(self, config: AuditConfig) -> None:
        self._redactor: Final = Redactor(config.redaction)
        # A log that refuses unsafe text refuses a programmer's mistake. What clients send must be recorded whatever it
        # holds, or an escape character in a user agent would be a way past the trail.
        self._max_chars: Final = config.max_field_chars if config.on_unsafe == "reject" else None
        self._user_agents: dict[bytes, str] = {}

    def accepted(self, text: str) -> str:
        """Return a client's text as the log accepts it: harmless and cut, if the log itself would refuse it."""
        return text if self._max_chars is None else escape(text[: self._max_chars])[: self._max_chars]

    def path(self, path: str) -> str:
        """Return a path without what looks like a secret, such as the token of a link that was mailed."""
        if len(path) < SHORT_PATH and is_plain_path(path):
            return path
        return self.accepted(self._redactor.redact_text(path))

    def query(self, query: bytes) -> str | None:
        """Return a query without the values of secret names and what looks like a secret; None for an empty one."""
        if not query:
            return None
        return self.accepted(self.body(query, "application/x-www-form-urlencoded", truncated=False))

    def headers(self, headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
        """Return headers as `name: value`, those that carry secrets without them."""
        shown = self._redactor.redact_headers(headers)
        return [self.accepted(f"{name}: {value}") for name, value in shown.items()]

    def user_agent(self, value: bytes | None) -> str | None:
        """Return the `User-Agent` as it is recorded; from a cache if it came before."""
        if value is None:
            return None
        known = self._user_agents.get(value)
        if known is not None:
            return known
        text = self.accepted(self._redactor.redact_text(value.decode("latin-1")))
        if len(value) <= _MAX_KEPT_USER_AGENT:
            if len(self._user_agents) >= _MAX_USER_AGENTS:
                self._user_agents.clear()
            self._user_agents[value] = text
        return text

    def body(self, body: bytes, content_type: str, *, truncated: bool) -> str:
        """Return a body as text without its secrets: JSON and forms as JSON, which keeps a name next to its value."""
        clean = self._redactor.redact_body(body, content_type, truncated=truncated)
        text = clean if isinstance(clean, str) else msgspec.json.encode(clean).decode()
        return text if self._max_chars is None else escape(text)
