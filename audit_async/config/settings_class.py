"""How a group of settings is called: a misspelt or missing keyword is a `ConfigError` that names the right one."""

from __future__ import annotations

from typing import Any

import msgspec

from audit_async.config.wording import refuse_unknown
from audit_async.errors import ConfigError

__all__ = ["SettingsClass"]


class SettingsClass(msgspec.StructMeta):
    """The class of groups of settings: their constructors raise `ConfigError`, as reading a file does."""

    def __call__(cls, *args: Any, **settings: Any) -> Any:  # noqa: ANN401, N805 - a metaclass; what constructors take
        """Make a group of settings, or raise `ConfigError`."""
        try:
            return super().__call__(*args, **settings)
        except TypeError:
            raise_for_call(cls, len(args), settings)
            raise


def raise_for_call(cls: Any, positional: int, settings: dict[str, Any]) -> None:  # noqa: ANN401 - a class of structs
    """Raise `ConfigError` for arguments that a group's constructor does not take, or does not find."""
    fields = msgspec.structs.fields(cls)
    path: str = getattr(cls, "_path", "")
    refuse_unknown(settings, [field.name for field in fields], path)
    missing = [field.name for field in fields if field.required and field.name not in settings]
    if len(missing) > positional:
        raise ConfigError(f"{path}{missing[positional]}", "missing; it has no default")
    if positional:
        names = ", ".join(field.name for field in fields)
        raise ConfigError(path.rstrip(".") or cls.__name__, f"takes its settings by name: {names or 'it has none'}")
