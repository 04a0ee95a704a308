"""What every test may use: the event loops that a service may run on, and real-world input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit_async import AuditConfig, Local
from tests.logs import ConfigFor

#: Real-world input, with its licences.
DATA = Path(__file__).parent / "data"


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run each asynchronous test on asyncio's own loop and on uvloop."""
    backend: tuple[str, dict[str, bool]] = request.param
    return backend


@pytest.fixture(scope="session")
def naughty_strings() -> list[str]:
    """The Big List of Naughty Strings."""
    strings: list[str] = json.loads((DATA / "blns.json").read_text(encoding="utf-8"))
    return strings


@pytest.fixture(scope="session")
def sshd_log() -> Path:
    """A real OpenSSH server's log of an attack."""
    return DATA / "openssh_2k.log"


@pytest.fixture
def config_for(tmp_path: Path) -> ConfigFor:
    """Return a maker of configurations for one log under `tmp_path`; signals are another test's subject."""

    def make(**settings: object) -> AuditConfig:
        base = {"mode": Local(tmp_path / "audit"), "service_id": "orders", "handle_signals": False}
        return AuditConfig(**(base | settings))  # type: ignore[arg-type]  # each test names settings that exist

    return make
