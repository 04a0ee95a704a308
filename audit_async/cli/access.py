"""Recording who has read a trail, where the command was told: `audit.log_accessed` in a log of `audit-cli`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import typer

from audit_async.cli.writing import OWN_SERVICE, base_directory, require_owner
from audit_async.config import AuditConfig, Local
from audit_async.logger import AuditLogger
from audit_async.reader import AuditReader

__all__ = ["recording"]


@asynccontextmanager
async def recording(
    reader: AuditReader, actor: str | None, access_log: Path | None
) -> AsyncIterator[AuditLogger | None]:
    """Give the logger that is to record what `reader` is asked for; None where nobody said who is asking.

    It is opened before anything is read, so whoever can't be recorded reads nothing. Its log is below `access_log`,
    else below the trail's own base directory. Commands that run at the same time take slots of their own.

    Raises `typer.BadParameter` for a name that is none, and for an `access_log` that nobody is to be recorded in.
    """
    if actor is None:
        if access_log is not None:
            raise typer.BadParameter("--access-log records nothing without a name: say who is asking, with --as NAME")
        yield None
        return
    if not actor.strip():
        raise typer.BadParameter("--as is empty: it is the name that an auditor will read")
    base_dir = access_log if access_log is not None else base_directory(reader.logs()[0])
    if base_dir.exists():
        require_owner(base_dir)
    async with AuditLogger(AuditConfig(mode=Local(base_dir), service_id=OWN_SERVICE)) as audit:
        yield audit
