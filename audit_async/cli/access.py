"""Recording who has read a trail, if the command was given a name: `audit.log_accessed` in a log of `audit-cli`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from audit_async.cli.key_options import KeyOptions
from audit_async.cli.writing import OWN_SERVICE, own_base_directory, require_owner
from audit_async.config import AuditConfig, Local
from audit_async.logger import AuditLogger
from audit_async.reader import AuditReader

__all__ = ["Access"]


@dataclass(frozen=True, kw_only=True)
class Access:
    """The options that say who is reading, and where that is recorded."""

    as_name: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="Record this access under NAME, as audit.log_accessed in a log of the service audit-cli. Without it "
            "nothing is recorded.",
        ),
    ] = None
    access_log: Annotated[
        Path | None,
        typer.Option(
            "--access-log",
            metavar="DIR",
            readable=False,
            help="With --as: the base directory of the log that records the access; the trail's own by default. A "
            "collector's directory takes none, so name one.",
        ),
    ] = None

    @asynccontextmanager
    async def recording(self, reader: AuditReader, keys: KeyOptions | None = None) -> AsyncIterator[AuditLogger | None]:
        """Yield the logger that is to record what `reader` is asked for; None if nobody said who is asking.

        It is opened before anything is read, so if the access can't be recorded, nothing is read. Its log is below
        `access_log`, by default below the trail's own base directory. Commands that run at the same time take slots of
        their own. With the key store of `keys` the record is sealed like the trail; without it a trail that seals has
        no names of those who were asked about recorded.

        Raises `typer.BadParameter` for an empty name, and for an `access_log` without a name; `Refused` if the trail is
        a collector's and there is no `access_log`.
        """
        if self.as_name is None:
            if self.access_log is not None:
                raise typer.BadParameter(
                    "--access-log records nothing without a name: say who is asking, with --as NAME"
                )
            yield None
            return
        if not self.as_name.strip():
            raise typer.BadParameter("--as is empty: it is the name that an auditor will read")
        base_dir = self.access_log
        if base_dir is None:
            base_dir = own_base_directory(reader.logs()[0], "name a directory for the record with --access-log DIR")
        if base_dir.exists():
            require_owner(base_dir)
        privacy = keys.privacy() if keys is not None else None
        async with AuditLogger(AuditConfig(mode=Local(base_dir), service_id=OWN_SERVICE, privacy=privacy)) as audit:
            yield audit
