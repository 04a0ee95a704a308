"""What to pass to `AuditLogger` instead of what was passed, for its error."""

from __future__ import annotations

import os

from audit_async.config import Disabled, Local

__all__ = ["what_to_pass"]


def what_to_pass(given: object) -> str:
    """Return what to pass to `AuditLogger` instead of what was given."""
    if isinstance(given, str | os.PathLike):
        mode = f"Local({os.fspath(given)!r})"
    elif isinstance(given, Local):
        mode = f"Local({str(given.base_dir)!r})"
    elif isinstance(given, Disabled):
        mode = "Disabled()"
    else:
        mode = 'Local("./audit")'
    what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
    service = "" if mode == "Disabled()" else ', service_id="my-service"'
    return f"is {what}; pass an AuditConfig: AuditLogger(AuditConfig(mode={mode}{service}))"
