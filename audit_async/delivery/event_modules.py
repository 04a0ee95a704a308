"""Importing the modules that define a service's own events, whose classes say how they are delivered."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from audit_async.errors import ConfigError, InvalidEvent

__all__ = ["import_event_modules"]


def import_event_modules(names: Iterable[str]) -> None:
    """Import modules, whose code runs in this process; blocks.

    Args:
        names: Modules that Python finds: of an installed package, or below PYTHONPATH.

    Raises:
        ConfigError: A module can't be imported.
    """
    for name in names:
        try:
            import_module(name)
        except (ImportError, InvalidEvent) as error:
            raise ConfigError(
                "event_modules", f"{name} can't be imported: {error}; install its package, or set PYTHONPATH"
            ) from error
        except Exception as error:
            # Only the class: what the service's own code says may hold anything.
            raise ConfigError("event_modules", f"{name} can't be imported: it raises {type(error).__name__}") from error
