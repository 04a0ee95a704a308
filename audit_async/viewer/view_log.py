"""The viewer's own log, `audit-view`: who has seen what, durable before it is shown.

A log of its own, since the logs of the trail are held by their services.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from audit_async._export.record_export import ExportReport
from audit_async._query.sealing_logs import SealingLogs
from audit_async._trail.log_files import find_logs
from audit_async.config import AuditConfig, Disabled, Local, Privacy
from audit_async.errors import AuditError, ConfigError, LogClosed, WriteFailed
from audit_async.events import AuditEvent
from audit_async.logger import AuditLogger
from audit_async.reader.answering import Access

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore  # needs an extra

__all__ = ["VIEW_SERVICE", "AccessNotRecorded", "ViewLog", "recorded_or_refused", "view_log_config"]

#: The service in whose log it is recorded.
VIEW_SERVICE: Final = "audit-view"

_DURABLE_WITHIN_S: Final = 10.0


class AccessNotRecorded(AuditError):
    """Who looks can't be recorded now, so nothing is shown."""


def view_log_config(
    base_dir: Path, access_log: AuditConfig | Path | None, key_store: KeyStore | None = None
) -> AuditConfig:
    """Return the configuration of the viewer's own log; looks at the file system.

    Args:
        base_dir: What is viewed.
        access_log: The configuration as it is, or a base directory; None for the base directory of the trail.
        key_store: What opens the trail, and then seals in this log who looked, and whom he asked about.

    Raises:
        ConfigError: The trail is a collector's or belongs to another user, so a place has to be named.
        TrailUnreadable: There is no trail.
    """
    if isinstance(access_log, AuditConfig):
        if isinstance(access_log.mode, Disabled):
            raise ConfigError("access_log", "records nothing: its mode is Disabled; who looks is always recorded")
        return access_log
    if access_log is None:
        log = find_logs(base_dir)[0]
        if log.collected is not None:
            reason = "a collector's directory takes no other log; name a directory for the log of who looks at it"
            raise ConfigError("access_log", reason)
        access_log = log.directory.parent.parent
        _require_owner(access_log)
    privacy = Privacy(key_store=key_store) if key_store is not None else None
    return AuditConfig(mode=Local(access_log), service_id=VIEW_SERVICE, privacy=privacy)


def _require_owner(directory: Path) -> None:
    """Raise `ConfigError` if this process's files would not belong to the owner of a directory."""
    if sys.platform == "win32":
        return
    owner = os.stat(directory).st_uid
    if owner != os.geteuid():
        raise ConfigError(
            "access_log",
            f"{directory} belongs to user {owner} and this process runs as user {os.geteuid()}; name a directory of "
            "this user for the log of who looks (--access-log DIR)",
        )


class ViewLog:
    """The viewer's own log. It opens at the first use, in the loop that serves, and is closed once."""

    def __init__(
        self, base_dir: Path, access_log: AuditConfig | Path | None, key_store: KeyStore | None = None
    ) -> None:
        self._base_dir: Final = base_dir
        self._access_log: Final = access_log
        self._key_store: Final = key_store
        self._logger: AuditLogger | None = None
        self.sealing: Final = SealingLogs()  # for all questions
        self._opening = anyio.Lock()

    def __repr__(self) -> str:
        return f"<ViewLog {self._logger!r}>" if self._logger is not None else "<ViewLog not open>"

    async def opened(self) -> AuditLogger:
        """Return the running logger.

        Raises:
            AccessNotRecorded: It can't be opened.
        """
        async with self._opening:
            if self._logger is None:
                try:
                    config = await anyio.to_thread.run_sync(
                        view_log_config, self._base_dir, self._access_log, self._key_store
                    )
                    logger = AuditLogger(config)
                    await logger.start()
                except (AuditError, OSError) as error:
                    raise AccessNotRecorded(f"the log of who looks can't be opened: {error}") from error
                self._logger = logger
            return self._logger

    async def close(self) -> None:
        """Drain and close it, if it is open."""
        async with self._opening:
            logger, self._logger = self._logger, None
            if logger is not None:
                await logger.aclose()

    async def durable(self) -> None:
        """Return once what was recorded so far is on stable storage.

        Raises:
            AccessNotRecorded: It is not, within 10 s.
        """
        logger = await self.opened()
        with recorded_or_refused(), anyio.fail_after(_DURABLE_WITHIN_S):
            await logger.flush()

    @asynccontextmanager
    async def access(self, name: str) -> AsyncGenerator[Access, None]:
        """Yield what records under a name; what was recorded with it is durable when the block has ended.

        Raises:
            AccessNotRecorded: It can't be recorded.
        """
        yield Access(await self.opened(), name, sealing=self.sealing)
        await self.durable()

    async def record(self, event: AuditEvent) -> None:
        """Record something of the viewer's own, such as a sign-in; durable when this returns.

        Raises:
            AccessNotRecorded: It can't be recorded.
        """
        logger = await self.opened()
        with recorded_or_refused(), anyio.fail_after(_DURABLE_WITHIN_S):
            await logger.emit_durable(event)

    async def record_export(self, name: str, made: ExportReport) -> None:
        """Record that records left the trail as a file; durable when this returns.

        Raises:
            AccessNotRecorded: It can't be recorded.
        """
        logger = await self.opened()
        with recorded_or_refused():
            logger.record_export(
                name, format=made.format, records=made.records, sha256=made.sha256, unsealed=made.unsealed
            )
        await self.durable()


@contextmanager
def recorded_or_refused() -> Iterator[None]:
    """Raise `AccessNotRecorded` for what keeps the log from recording."""
    try:
        yield
    except TimeoutError:
        raise AccessNotRecorded(
            f"the log of who looks is not on stable storage after {_DURABLE_WITHIN_S:g} s; look at its disk"
        ) from None
    except (LogClosed, WriteFailed) as error:
        raise AccessNotRecorded(f"the log of who looks takes no records: {error}") from error
