"""Where records go: to a directory of this host, or to none at all."""

from __future__ import annotations

import os
import re
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from audit_async.config.setting import Settings, checked
from audit_async.config.wording import shown
from audit_async.errors import ConfigError

_PATH_ALLOWED: Final = "a path, not empty and not beginning with ~ (write it out)"
_PathText = Annotated[str, Meta(pattern=r"^(?!~)[^\0]+\Z", description=_PATH_ALLOWED)]

_DIR_ALLOWED: Final = 'octal permissions such as 0o750, as text "0750": 0700 at least, and no sticky or setuid bit'
_FILE_ALLOWED: Final = 'octal permissions such as 0o640, as text "0640": 0600 at least, and not executable'
_GROUP_ALLOWED: Final = "a group's name or number; left out, the system chooses"
_OCTAL: Final = re.compile(r"(?:0o)?([0-7]{3,4})", re.ASCII)
_MOST_GID: Final = (1 << 32) - 2


class _Access(Settings, frozen=True, kw_only=True):
    """Who may read the files; the keyword arguments of `Local`."""

    _path: ClassVar[str] = "mode."

    dir_mode: Annotated[str | int, Meta(description=_DIR_ALLOWED)] = "0700"
    file_mode: Annotated[str | int, Meta(description=_FILE_ALLOWED)] = "0600"
    group: Annotated[int | str | None, Meta(description=_GROUP_ALLOWED)] = None


class Local(_Access, frozen=True, tag_field="type", tag="local"):
    """Write the log to a directory of this host, `<base_dir>/<service_id>/<instance>/`.

    Args:
        base_dir: May be relative: to the current directory if it comes from code or the environment, to the file's
            directory if it comes from a file. It is kept as text; `~` and variables are not expanded.
        dir_mode: Permissions of the directories that are made, 0o700 unless said otherwise; a number, or octal text as
            it is kept (`"0750"`). With 0750 and `group` an auditor's account can read the log and not write to it.
        file_mode: Permissions of the files, 0600 unless said otherwise; sealed segments and archives lose the right
            to write (0640 becomes 0440). Use 0640 with a directory of 0750.
        group: The group of what is made, by name or number; the process must be a member of it. Left out, the system
            chooses: the process's own group, or the directory's if that has the setgid bit.

    Modes that let the group or others write are refused unless `AuditConfig.allow_insecure_dir` is set. Raises
    `ConfigError`.
    """

    base_dir: Annotated[str | os.PathLike[str], Meta(description=_PATH_ALLOWED)]

    def __post_init__(self) -> None:
        field = f"{self._path}base_dir"
        try:
            text: object = os.fspath(self.base_dir)
        except TypeError:
            text = self.base_dir  # refused below, with what is allowed
        set_field = msgspec.structs.force_setattr
        set_field(self, "base_dir", checked(field, text, _PathText))
        set_field(self, "dir_mode", _mode_of("dir_mode", self.dir_mode, 0o700, 0o2777, _DIR_ALLOWED))
        set_field(self, "file_mode", _mode_of("file_mode", self.file_mode, 0o600, 0o666, _FILE_ALLOWED))
        set_field(self, "group", _group_of(self.group))

    @property
    def writable_by_others(self) -> str | None:
        """The field whose permissions let the group or others write; None if neither does."""
        for name in ("dir_mode", "file_mode"):
            if int(str(getattr(self, name)), 8) & 0o022:
                return f"{self._path}{name}"
        return None


def _mode_of(field: str, given: object, least: int, most: int, allowed: str) -> str:
    """Return permissions, a number or octal text, as octal text; `least` must be among them, `most` may."""
    mode = given
    if isinstance(given, str) and (match := _OCTAL.fullmatch(given.strip())):
        mode = int(match[1], 8)
    if isinstance(mode, bool) or not isinstance(mode, int) or mode & ~most or mode & least != least:
        text = f"0o{mode:o}" if isinstance(mode, int) and mode >= 0 else shown(given)
        raise ConfigError(f"mode.{field}", f"{text} is not allowed; allowed: {allowed}")
    return f"{mode:04o}"


def _group_of(given: object) -> int | str | None:
    group = int(given) if isinstance(given, str) and given.isascii() and given.isdigit() else given
    is_number = isinstance(group, int) and not isinstance(group, bool) and 0 <= group <= _MOST_GID
    if group is None or is_number or (isinstance(group, str) and group and "\0" not in group):
        return group  # type: ignore[return-value]  # one of the three
    raise ConfigError("mode.group", f"{shown(given)} is not allowed; allowed: {_GROUP_ALLOWED}")


class Disabled(Settings, frozen=True, tag_field="type", tag="disabled"):
    """Record nothing and never touch the disk; every other setting is still checked."""

    _path: ClassVar[str] = "mode."


#: Where records go.
Mode = Local | Disabled
