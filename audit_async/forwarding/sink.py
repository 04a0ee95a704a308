"""What every engine can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

from audit_async.forwarding.batches import Batch, Head
from audit_async.forwarding.identities import LogIdentity

__all__ = ["MAX_DESCRIPTION_BYTES", "HearsHosts", "Sink"]

#: A `log.json` has some 200 bytes.
MAX_DESCRIPTION_BYTES: Final = 65_536


class Sink(Protocol):
    """Where a forwarder brings records to and a collector gets them from.

    Each call may raise `SinkUnavailable` or `SinkRefused`.
    """

    async def head(self, log: LogIdentity) -> Head | None:
        """Return the last record of a log that is durable at the engine, None if it does not have the log."""
        ...

    async def append(self, log: LogIdentity, batch: Batch, *, after: Head | None, resume: bytes | None = None) -> None:
        """Store a batch if the log's head is still `after`; durable at the engine when it returns.

        Args:
            log: whose records they are.
            batch: the next records.
            after: the head that they follow; None for record 0.
            resume: the collector's signed confirmation of `after`, if the engine does not have the log.

        Raises:
            HeadMoved: the head is another one; nothing was stored.
            SinkFull: there is no room.
            RecordTooLarge: a record is larger than the engine takes.
        """
        ...

    async def describe(self, log: LogIdentity, document: bytes) -> None:
        """Store a log's `log.json`, byte by byte; once, before its first batch. The same bytes again change nothing.

        Args:
            log: whose description it is.
            document: what the host's `log.json` holds, at most `MAX_DESCRIPTION_BYTES`.

        Raises:
            SinkRefused: another description is stored, or this one is too long.
            SinkFull: there is no room.
        """
        ...

    async def description(self, log: LogIdentity) -> bytes | None:
        """Return the log's `log.json`, None if nobody has stored it yet."""
        ...

    def read(self, log: LogIdentity, after: Head | None) -> AsyncIterator[Batch]:
        """Yield what the engine has of a log after a head, in order."""
        ...

    async def logs(self) -> list[LogIdentity]:
        """Return the logs of the tenant, for its collector."""
        ...

    async def confirm(self, log: LogIdentity, confirmation: bytes) -> None:
        """Store a collector's newest signed confirmation of a log, in the place of the last one."""
        ...

    async def confirmation(self, log: LogIdentity) -> bytes | None:
        """Return a collector's newest signed confirmation, None if there is none."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


@runtime_checkable
class HearsHosts(Protocol):
    """A sink that a host with nothing new can show itself to, which distinguishes an idle host from a silent one.

    If the engine forgets what is old, it also keeps the head of an idle log from being forgotten.
    """

    async def repeat_head(self, log: LogIdentity) -> None:
        """Show that the log's host is there, with nothing new.

        Raises:
            HeadMoved: the engine does not have the log, or another append came first.
        """
        ...

    async def heard_at(self, log: LogIdentity) -> datetime | None:
        """Return when the log's host last appended or repeated its head, by the engine's clock; for collectors.

        None if the engine does not have the log.
        """
        ...
