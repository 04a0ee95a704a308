"""Commands that write to a log: opening just that one, and only as the user it belongs to."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from audit_async._layout.access_modes import local_like
from audit_async._trail.log_files import Log
from audit_async.cli.run import Refused
from audit_async.config import AuditConfig, Local

__all__ = ["OWN_SERVICE", "base_directory", "config_for", "own_base_directory", "require_owner"]

#: The service in whose log the command line records what it does to and reads from the logs of others.
OWN_SERVICE = "audit-cli"


def base_directory(log: Log) -> Path:
    """Return the base directory that a log is in."""
    return log.directory.parent.parent


def own_base_directory(log: Log, what_to_do: str) -> Path:
    """Return the base directory of a log, for a log of the command line's own next to it.

    Raises `Refused`, with what to do instead, if it is a collector's: what is there is a host's, and was received.
    """
    if log.collected is not None:
        raise Refused(f"{log.name} is a collector's copy, and its directory takes no log of this host: {what_to_do}")
    return base_directory(log)


def config_for(log: Log, settings: AuditConfig | None = None) -> AuditConfig:
    """Return a configuration that opens exactly this log, otherwise with `settings`; it applies no retention itself.

    Raises `Refused` for a log that was moved to a place that no service writes to.
    """
    if log.directory != base_directory(log) / log.service_id / log.instance:
        raise Refused(
            f"{log.directory} is the log {log.name}, but not in a directory of that name; a log that was moved can be "
            "read, and written only in its place"
        )
    place = local_like(log.directory, base_directory(log))
    if settings is not None and isinstance(settings.mode, Local):
        place = msgspec.structs.replace(settings.mode, base_dir=base_directory(log))
    if settings is None:
        settings = AuditConfig(mode=place, service_id=log.service_id)
    return msgspec.structs.replace(
        settings,
        mode=place,
        service_id=log.service_id,
        instance=log.instance,
        retention=msgspec.structs.replace(settings.retention, automatic=False),
    )


def require_owner(directory: Path) -> None:
    """Raise `Refused` if the files that this process makes would not belong to the log's owner.

    A service could not open them: they are mode 0600.
    """
    if sys.platform == "win32":
        return
    owner = os.stat(directory).st_uid
    if owner != os.geteuid():
        raise Refused(
            f"{directory} belongs to user {owner} and this process runs as user {os.geteuid()}: its files would be "
            f"closed to the service. Run the command as the owner: sudo -u '#{owner}' audit-async ..."
        )
