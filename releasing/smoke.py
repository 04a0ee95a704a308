"""Use an installed audit-async, as its first user would: `python -I smoke.py VERSION MODULE...`, in an empty directory.

Started by `make release-check` with the interpreter of an environment that has the wheel and no extra. It needs only
the standard library, and leaves a trail in `./audit` for the commands that are tried next.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from importlib.metadata import version
from pathlib import Path

#: How each message says what to install.
_ADVICE = "pip install '"


def check_installed(expected: str) -> None:
    """Raise if what is imported is not the installed package of this version."""
    import audit_async  # noqa: PLC0415 - the subject of each of these checks

    place = Path(audit_async.__file__)
    if not place.is_relative_to(sys.prefix):
        raise AssertionError(f"audit_async is imported from {place}, not from {sys.prefix}")
    if {expected} != {audit_async.__version__, version("audit-async")}:
        raise AssertionError(f"version {audit_async.__version__} is installed, {expected} was built")


async def check_trail() -> None:
    """Raise if an event that is emitted does not become a durable record of a trail that verifies."""
    from audit_async import AuditConfig, AuditLogger, AuditReader, Local  # noqa: PLC0415
    from audit_async.events import AuthFailure  # noqa: PLC0415

    async with AuditLogger(AuditConfig(mode=Local("./audit"), service_id="smoke")) as audit:
        receipt = audit.emit(AuthFailure(attempted_user="mallory", reason="invalid_token", ip="203.0.113.9", path="/"))
        position = await receipt.durable()
        if position.seq != 1:
            raise AssertionError(f"the first event is record {position.seq}")
    report = await AuditReader("./audit").verify()
    if not report.valid:
        raise AssertionError(f"the trail does not verify: {report}")


def check_modules(modules: list[str]) -> list[str]:
    """Raise if a public module neither gives what it lists nor says what to install; return those that say that."""
    missing = []
    for name in modules:
        try:
            module = importlib.import_module(name)
            for offered in module.__all__:
                getattr(module, offered)
        except ImportError as error:
            if _ADVICE not in str(error):
                raise AssertionError(f"{name} does not say what to install: {error}") from error
            missing.append(name)
    return missing


def main() -> None:
    """Run the checks."""
    expected, *modules = sys.argv[1:]
    check_installed(expected)
    asyncio.run(check_trail())
    missing = check_modules(modules)
    sys.stdout.write(
        f"emitted, verified; {len(modules) - len(missing)} public modules import, {len(missing)} say what to install\n"
    )


if __name__ == "__main__":
    main()
