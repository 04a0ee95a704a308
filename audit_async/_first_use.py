"""Names that a package offers and imports only when one of them is first asked for (PEP 562).

So importing an error class does not wait for the rest of its package, nor for a dependency that may be missing. What
is missing is reported with the command that installs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

__all__ = ["Needed", "imported_at_first_use", "installed_by"]


class Needed(NamedTuple):
    """A distribution that some of a package's modules need, and the extra that installs it."""

    distribution: str
    extra: str


@contextmanager
def installed_by(requirement: str, module: str) -> Iterator[None]:
    """Report a package that an import in this block misses with the command that installs it.

    Args:
        requirement: What pip is to install: `audit-async[celery]`.
        module: The `__name__` of the module that imports.

    Raises:
        ModuleNotFoundError: A package is missing; the message names it, the module, and the command.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "audit_async" or "pip install" in error.msg:
            raise
        message = f"{module} needs the package {missing}; run: pip install '{requirement}'"
        raise ModuleNotFoundError(message, name=error.name) from error


def imported_at_first_use(
    package: str, homes: Mapping[str, Sequence[str]], *needed: Needed
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package.

    Args:
        package: The package's `__name__`.
        homes: The names that each module offers through the package.
        needed: If one of them is missing, `__getattr__` raises `ImportError`, which says what to install.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def get_attribute(name: str) -> object:
        """Import what the package offers under this name."""
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value: object = getattr(import_module(home_of[name]), name)
        except ModuleNotFoundError as error:
            missing = next((one for one in needed if one.distribution == (error.name or "").partition(".")[0]), None)
            if missing is None:
                raise
            raise ImportError(
                f"{package}.{name} needs the package {missing.distribution}; "
                f"run: pip install 'audit-async[{missing.extra}]'",
                name=package,
            ) from error
        setattr(sys.modules[package], name, value)
        return value

    def directory() -> list[str]:
        """Return the names that are there, and those that would be imported."""
        return sorted({*vars(sys.modules[package]), *home_of})

    return get_attribute, directory
