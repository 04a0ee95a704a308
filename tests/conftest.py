"""What every test may use: the event loops that a service may run on, and real-world input."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_async import AuditConfig, Local, set_audit
from tests.campaign import Campaign
from tests.counted_coroutines import count_coroutines
from tests.logs import ConfigFor
from tests.processes import MARK, left_over

# A test that a busy machine makes slow has not failed. `make test` tries the same examples each time, so that a failure
# is about the change; `make campaign` draws others. Hypothesis is not there in the environment of `make interop`.
with contextlib.suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile("campaign", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("suite", settings.get_profile("campaign"), derandomize=True)
    settings.load_profile("suite")

# Set by many container images. Hundreds of tests start Python, which would compile the package again each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

#: What measures the coverage of this process, if anything does.
MEASURING = sys.modules["coverage"].Coverage.current() if "coverage" in sys.modules else None
if MEASURING is not None and sys.version_info < (3, 12):
    count_coroutines()

#: The parameter of a test's turn on uvloop.
UVLOOP = ("asyncio", {"use_uvloop": True})

#: Real-world input, with its licences.
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Fail, and end it, if a process of this session's tests is still there when all of them are done."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    yield
    left = left_over(os.getpid(), mark)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    assert left == [], "tests left these processes"


@pytest.fixture(autouse=True)
def repetitions_are_not_covered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Measure no coverage while a test runs lines again that others run, for it doubles what those cost.

    Such are the samples of campaigns, Hypothesis's examples, and uvloop's turn of a test that asyncio's had.
    What only they reach counts as not reached.
    """
    if MEASURING is None or not repeats(request.node):
        yield
        return
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):  # of the processes that it starts
        monkeypatch.delenv(name, raising=False)
    MEASURING.stop()
    yield
    MEASURING.start()


def repeats(test: pytest.Item) -> bool:
    """Tell whether a test is a sample of a campaign, tries Hypothesis's examples, or is on uvloop."""
    if not isinstance(test, pytest.Function):
        return False
    given = test.callspec.params if hasattr(test, "callspec") else {}
    return "every" in given or getattr(test.obj, "is_hypothesis_test", False) or given.get("anyio_backend") == UVLOOP


@pytest.fixture(autouse=True)
def no_log_of_the_process() -> Iterator[None]:
    """Let each test begin without a log of the process, and leave none behind."""
    before = set_audit(None)
    yield
    set_audit(before)


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(UVLOOP, id="uvloop"),
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
def campaign(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]) -> Campaign:
    """The long run that this test is."""
    return Campaign(request.node.name, capfd.disabled)


@pytest.fixture
def config_for(tmp_path: Path) -> ConfigFor:
    """Return a maker of configurations for one log under `tmp_path`; signals are another test's subject."""

    def make(**settings: object) -> AuditConfig:
        base = {"mode": Local(tmp_path / "audit"), "service_id": "orders", "handle_signals": False}
        return AuditConfig(**(base | settings))  # type: ignore[arg-type]  # each test names settings that exist

    return make
