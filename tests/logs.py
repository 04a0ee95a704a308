"""What the tests of a whole logger share: a maker of configurations, events to emit, a log's files."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from audit_async import AuditConfig, AuditEvent, Local
from audit_async.events import AuthFailure


class Counted(AuditEvent, tag="test.counted"):
    """An event that can be recognised again."""

    producer: str
    n: int


class ConfigFor(Protocol):
    """Makes a configuration of one log under a fresh directory; see the fixture `config_for`."""

    def __call__(self, **settings: object) -> AuditConfig:
        """Return the configuration with these settings changed."""
        ...


def log_directory(config: AuditConfig, instance: str = "00") -> Path:
    """Return the directory of the log that `config` names."""
    assert isinstance(config.mode, Local)
    return Path(config.mode.base_dir) / config.service_id / instance


def failure(n: int = 0) -> AuthFailure:
    """Return an event like those that real services emit most."""
    return AuthFailure(attempted_user="mallory", reason="bad_password", ip="203.0.113.9", path=f"/login/{n}")


def segment_lines(directory: Path) -> list[bytes]:
    """Return all lines of a log, in the order of its segments."""
    return [line for path in sorted(directory.glob("*.audit")) for line in path.read_bytes().splitlines(keepends=True)]
