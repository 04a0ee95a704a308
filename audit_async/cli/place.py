"""Where a command reads: a directory with logs, one record in them, or the logs of a configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from audit_async._trail.log_files import Log, find_logs
from audit_async.cli.access import Access
from audit_async.cli.arguments import Directory, Host, IdentityFiles, Instance, Service
from audit_async.cli.key_options import KeyOptions
from audit_async.cli.run import Refused
from audit_async.config import AuditConfig, Local
from audit_async.reader import AuditReader, Identities, PlacedRecord

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore  # needs an extra

__all__ = ["ConfiguredLogs", "LogsAt", "ReadableLogs", "RecordAt", "load_config"]

_AUDIT_ID: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class LogsAt:
    """The logs below a directory."""

    directory: Directory
    service: Service = None
    instance: Instance = None
    host: Host = None

    def reader(self, key_store: KeyStore | None = None) -> AuditReader:
        """Return a reader of these logs, which opens what is sealed if there is a key store; nothing is read yet."""
        return AuditReader(
            self.directory, service=self.service, instance=self.instance, host=self.host, key_store=key_store
        )


@dataclass(frozen=True, kw_only=True)
class ReadableLogs(LogsAt):
    """The logs below a directory, and what opens their encrypted archives."""

    identity: IdentityFiles = None

    def reader(self, key_store: KeyStore | None = None) -> AuditReader:
        """Return a reader of these logs; nothing but identity files is read yet.

        Raises `ConfigError` for an identity file that is none.
        """
        return AuditReader(
            self.directory,
            service=self.service,
            instance=self.instance,
            host=self.host,
            key_store=key_store,
            identities=_identities(self.identity),
        )


@dataclass(frozen=True, kw_only=True)
class RecordAt:
    """One record below a directory."""

    which: Annotated[
        str,
        typer.Argument(metavar="SEQ|AUDIT_ID", show_default=False, help="A sequence number, or a record's audit_id."),
    ]
    directory: Directory
    log: Annotated[
        str | None, typer.Option("--log", metavar="LOG", help="The log, such as orders/00, if there are several.")
    ] = None
    identity: IdentityFiles = None

    def reader(self, key_store: KeyStore | None = None) -> AuditReader:
        """Return a reader of the logs below the directory; raises `ConfigError` for an identity file that is none."""
        return AuditReader(self.directory, key_store=key_store, identities=_identities(self.identity))

    def require_valid(self) -> None:
        """Raise `typer.BadParameter` if what names the record is neither a sequence number nor an audit_id."""
        if self._seq() is None and not _AUDIT_ID.fullmatch(self.which):
            raise typer.BadParameter(
                f"{self.which[:80]!a} is no sequence number and no audit_id such as 5f0c1e9b7a3d2c48-29; "
                "what names the record comes before the directory"
            )

    async def look_up(self, reader: AuditReader, access: Access, keys: KeyOptions | None = None) -> PlacedRecord:
        """Return the record; recorded as `access` says. Raises as `AuditReader.record` does."""
        seq = self._seq()
        async with access.recording(reader, keys) as audit:
            return await reader.record(
                seq,
                audit_id=None if seq is not None else self.which,
                log=self.log,
                audit=audit,
                accessed_by=access.as_name,
            )

    def _seq(self) -> int | None:
        is_seq = self.which.isascii() and self.which.isdecimal() and len(self.which) <= 18
        return int(self.which) if is_seq else None


@dataclass(frozen=True, kw_only=True)
class ConfiguredLogs:
    """The logs below a directory, or those that a configuration is of."""

    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIRECTORY",
            envvar="AUDIT_BASE_DIR",
            show_default=False,
            readable=False,
            help="The base directory of the trail; by default that of --config.",
        ),
    ] = None
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            help="The service's configuration; only its own logs are taken.",
        ),
    ] = None
    service: Service = None
    instance: Instance = None

    def settings(self) -> AuditConfig | None:
        """Return the configuration, None if none is given; raises as `load_config` does."""
        return load_config(self.config_file) if self.config_file is not None else None

    def logs(self, settings: AuditConfig | None) -> list[Log]:
        """Return the logs at the directory, or at the configured one; with a configuration only those of its service.

        Raises `typer.BadParameter` if there is no directory, `Refused` for another service than the configuration's,
        `TrailUnreadable`.
        """
        directory, service = self.directory, self.service
        if settings is not None:
            if directory is None and isinstance(settings.mode, Local):
                directory = Path(settings.mode.base_dir)
            if service is not None and service != settings.service_id:
                raise Refused(f"the configuration is that of {settings.service_id!a}, and --service is {service!a}")
            service = settings.service_id or None
        if directory is None:
            raise typer.BadParameter("give a DIRECTORY, or a --config that has one")
        return find_logs(directory, service=service, instance=self.instance)


def _identities(files: Sequence[Path] | None) -> Identities | None:
    return Identities.from_files(*files) if files else None


def load_config(path: Path, *, env_prefix: str | None = None) -> AuditConfig:
    """Return the configuration in a file, and in the variables with a prefix.

    Raises `Refused` if the file can't be read, `ConfigError` if the configuration is wrong.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise Refused(f"{path} can't be read: {error.strerror}") from error
    return AuditConfig.load(path, env_prefix=env_prefix)
