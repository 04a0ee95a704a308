"""What the package offers by its own name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import audit_async


def test_every_name_that_is_offered_is_there() -> None:
    """`from audit_async import *` gives all of `__all__`, and nothing is offered that `__all__` does not name."""
    offered: dict[str, object] = {}
    exec("from audit_async import *", offered)  # noqa: S102 - a star may not stand in a function
    assert offered.keys() - {"__builtins__"} == set(audit_async.__all__)
    assert set(audit_async._HOMES) == set(audit_async.__all__) - {"__version__"}
    assert set(audit_async.__all__) <= set(dir(audit_async))


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    """A mistyped name is told like that of any other module."""
    with pytest.raises(AttributeError, match="module 'audit_async' has no attribute 'AuditLoger'"):
        audit_async.AuditLoger  # type: ignore[attr-defined]  # noqa: B018 - that is the point


def test_the_package_alone_imports_nothing_of_its_rooms() -> None:
    """A process that verifies pays for what verifying needs, not for the writing half."""
    program = "import sys, audit_async._chain; print([name for name in sys.modules if name.startswith('audit_async')])"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "audit_async._chain" in loaded
    assert "audit_async.logger" not in loaded
