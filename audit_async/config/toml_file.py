"""Reading a TOML file into a table; the one place of this room that looks at the file system."""

from __future__ import annotations

import os
import tomllib

from audit_async.config.wording import brief
from audit_async.errors import ConfigError


def read_toml(path: str | os.PathLike[str]) -> dict[str, object]:
    """Read a file's table; `ConfigError` under the file's path where there is none."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ConfigError(name, f"the configuration file can't be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError(ascii(name)[1:-1], f"no path of a configuration file: {error}") from None
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(name, f"not a TOML file: line {line} is not UTF-8; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # beside TOMLDecodeError, an absurd number or nesting
        last_line = content.count(b"\n") + 1
        reason = str(error).replace("at end of document", f"at line {last_line}, the end of the file")
        raise ConfigError(name, f"not a TOML file: {brief(reason)}") from None
