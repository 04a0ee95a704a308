"""Where records go: to a directory of this host, or nowhere."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from audit_async.config.setting import Settings, checked

_PATH_ALLOWED: Final = "a path, not empty and not beginning with ~ (write it out)"
_PathText = Annotated[str, Meta(pattern=r"^(?!~)[^\0]+\Z", description=_PATH_ALLOWED)]


class Local(Settings, frozen=True, tag_field="type", tag="local"):
    """Write the log to a directory of this host, `<base_dir>/<service_id>/<instance>/`.

    `base_dir` may be relative: to the current directory where it comes from code or the environment, to the
    file's directory where it comes from a file. It is kept as text; `~` and variables are not expanded.
    """

    _path: ClassVar[str] = "mode."

    base_dir: Annotated[str | os.PathLike[str], Meta(description=_PATH_ALLOWED)]

    def __post_init__(self) -> None:
        field = f"{self._path}base_dir"
        try:
            text: object = os.fspath(self.base_dir)
        except TypeError:
            text = self.base_dir  # refused below, with what is allowed
        msgspec.structs.force_setattr(self, "base_dir", checked(field, text, _PathText))


class Disabled(Settings, frozen=True, tag_field="type", tag="disabled"):
    """Record nothing and never touch the disk; every other setting is still checked."""

    _path: ClassVar[str] = "mode."


#: Where records go.
Mode = Local | Disabled
