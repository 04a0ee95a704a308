"""How often a running service verifies its own log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

import msgspec
from msgspec import Meta

from audit_async.config.setting import Seconds, Settings, checked, whole_number
from audit_async.errors import ConfigError

_DIRECTORY_ALLOWED: Final = "left out, or a path outside of base_dir, not empty and not beginning with ~"
_PathText = Annotated[Annotated[str, Meta(pattern=r"^(?!~)[^\0]+\Z")] | None, Meta(description=_DIRECTORY_ALLOWED)]
_Days = Annotated[int, whole_number(1, 3_650, "days")]


class Verification(Settings, frozen=True, kw_only=True):
    """An open log is verified by a process of its own, at the lowest priority: what is new, and all of it at times.

    A finding is recorded as `audit.verification_failed`, logged as an error, and the status is `invalid` until a
    verification finds nothing any more. The log is written as before.

    Args:
        interval: Seconds from the end of a verification to the next one. The first one begins a minute after the
            opening, or after `interval` if that is shorter.
        full_every_days: Everything is read if the last time is so many days ago, otherwise what is new and what was
            changed.
        state_dir: A directory for what was verified, a file for each log, so that the first verification of a new
            process continues as well; None reads everything once in each process. It must exist, outside of the trail,
            and not be writable by other users.

    Raises:
        ConfigError: If a value is not allowed.
    """

    _path: ClassVar[str] = "verification."

    interval: Seconds = 3600.0
    full_every_days: _Days = 7
    state_dir: Annotated[str | os.PathLike[str] | None, Meta(description=_DIRECTORY_ALLOWED)] = None

    def __post_init__(self) -> None:
        directory = os.fspath(self.state_dir) if isinstance(self.state_dir, os.PathLike) else self.state_dir
        set_field = msgspec.structs.force_setattr
        set_field(self, "interval", checked("verification.interval", self.interval, Seconds))
        set_field(self, "full_every_days", checked("verification.full_every_days", self.full_every_days, _Days))
        set_field(self, "state_dir", checked("verification.state_dir", directory, _PathText))

    def below(self, directory: Path) -> Self:
        """Return the same with a relative path counted from `directory`: for settings that come from a file there."""
        if self.state_dir is None:
            return self
        return msgspec.structs.replace(self, state_dir=str(directory / self.state_dir))

    def refuse_within(self, base_dir: str | os.PathLike[str]) -> None:
        """Raise `ConfigError` if what was verified would be kept in the trail, where who changes it changes both."""
        if self.state_dir is None:
            return
        if Path(os.path.abspath(self.state_dir)).is_relative_to(os.path.abspath(base_dir)):
            raise ConfigError("verification.state_dir", "it is in mode.base_dir; keep it outside of the trail")
