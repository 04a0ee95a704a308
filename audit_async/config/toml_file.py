"""Reading a TOML file (https://toml.io) into a table; the one place of this room that looks at the file system."""

from __future__ import annotations

import os
import tomllib
from typing import Final

from audit_async.config.wording import brief
from audit_async.errors import ConfigError

#: No configuration is as large; what is read is bounded before it is parsed.
_MAX_BYTES: Final = 256 * 1024
# The parser copies a dotted key for each of its parts.
_MAX_DOTS: Final = 1000
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def read_toml(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return a file's table.

    Raises:
        ConfigError: Under the file's path, if it can't be read or is no TOML.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(name, f"the configuration file can't be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError(ascii(name)[1:-1], f"no path of a configuration file: {error}") from None
    if len(content) > _MAX_BYTES or any(line.count(b".") > _MAX_DOTS for line in content.splitlines()):
        reason = f"no configuration: it has more than {_MAX_BYTES} bytes, or {_MAX_DOTS} dots in a line; check the path"
        raise ConfigError(name, reason)
    content = content.removeprefix(_BYTE_ORDER_MARK)  # as some editors put it in front
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(name, f"not a TOML file: line {line} is not UTF-8; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError, an absurd number or nesting
        last_line = content.count(b"\n") + 1
        reason = str(error).replace("at end of document", f"at line {last_line}, the end of the file")
        raise ConfigError(name, f"not a TOML file: {brief(reason)}") from None
