"""The fixture `audit_trail`, as users have it: in runs of pytest of their own, with tests of any style."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from unittest import mock

import anyio
import pytest

from audit_async import ActorInfo, AuditEvent, AuditLogger, AuthMethod, InvalidEvent
from audit_async.events import AuthFailure, AuthSuccess, ModelAccessed, TokenCreated
from audit_async.events.lifecycle import AuditLogOpened
from audit_async.testing import AuditTrail
from tests.logs import Counted, failure
from tests.trails import check_trail

pytest_plugins = ["pytester"]

#: The plugin by its module, whether or not this checkout's entry points are installed.
PLUGIN = ("-p", "audit_async.integrations.pytest_plugin")

USERS_CODE = """
import asyncio
import threading

import anyio
import pytest

from audit_async.events import AuthFailure


def log_in(user, audit):
    audit.emit(AuthFailure(attempted_user=user, reason="bad_password", ip="203.0.113.9", path="/login"))
"""


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the inner runs load what they name and nothing else, which halves the time that they take."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, tests: str, *arguments: str) -> pytest.RunResult:
    """Run these tests of a user in a process of their own."""
    pytester.makepyfile(USERS_CODE + tests)
    return pytester.runpytest_subprocess(*PLUGIN, "-W", "error", *arguments)


def test_a_test_sees_what_its_code_records(pytester: pytest.Pytester) -> None:
    """A plain `def` test emits, asks, and has a fresh log each time."""
    result = run(
        pytester,
        """
@pytest.mark.parametrize("user", ["mallory", "eve"])
def test_refused(user, audit_trail):
    assert audit_trail.records() == []
    log_in(user, audit_trail.audit)
    record = audit_trail.assert_recorded(AuthFailure, attempted_user=user)
    assert (record.seq, record.event.reason) == (1, "bad_password")
    assert [event.attempted_user for event in audit_trail.events(AuthFailure)] == [user]
    audit_trail.assert_not_recorded(AuthFailure, attempted_user="alice")

def test_threads(audit_trail):
    threads = [threading.Thread(target=log_in, args=(f"u{n}", audit_trail.audit)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {event.attempted_user for event in audit_trail.events(AuthFailure)} == {f"u{n}" for n in range(8)}
""",
    )
    result.assert_outcomes(passed=3)


ASYNC_TEST = """
async def test_refused(audit_trail):
    log_in("mallory", audit_trail.audit)
    receipt = audit_trail.audit.emit(AuthFailure(reason="expired", ip="::1", path="/"))
    position = await receipt.durable()
    await audit_trail.audit.emit_durable(AuthFailure(reason="revoked", ip="::1", path="/"))
    await audit_trail.audit.flush()
    await asyncio.to_thread(log_in, "eve", audit_trail.audit)
    assert audit_trail.assert_recorded(AuthFailure, reason="expired").hash == position.hash
    assert len(audit_trail.events(AuthFailure)) == 4
"""


def test_async_tests_with_anyio(pytester: pytest.Pytester) -> None:
    """Anyio's own plugin runs the test on whichever loop; the log lives on another one."""
    backends = """
@pytest.fixture(params=[False, True])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param}
"""
    run(pytester, f"{backends}\n@pytest.mark.anyio{ASYNC_TEST}", "-p", "anyio.pytest_plugin").assert_outcomes(passed=2)


def test_async_tests_with_trio(pytester: pytest.Pytester) -> None:
    """On trio `emit` works, and the questions; what is awaited belongs to asyncio."""
    pytest.importorskip("trio", reason="trio is not installed")
    result = run(
        pytester,
        """
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_refused(audit_trail, anyio_backend):
    log_in("mallory", audit_trail.audit)
    await anyio.to_thread.run_sync(log_in, "eve", audit_trail.audit)
    audit_trail.assert_recorded(AuthFailure, attempted_user="eve")
    assert len(audit_trail.events(AuthFailure)) == 2
""",
        "-p",
        "anyio.pytest_plugin",
    )
    result.assert_outcomes(passed=1)


@pytest.mark.skipif(importlib.util.find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed")
@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_async_tests_with_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    """pytest-asyncio runs the test on a loop of its own, in either of its modes."""
    marked = "@pytest.mark.asyncio" if mode == "strict" else ""
    options = (
        "-p",
        "pytest_asyncio.plugin",
        f"--asyncio-mode={mode}",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
    )
    result = run(pytester, f"{marked}{ASYNC_TEST}", *options)
    result.assert_outcomes(passed=1)


def test_async_code_in_plain_tests(pytester: pytest.Pytester) -> None:
    """Without any plugin for asynchronous tests `asyncio.run` does."""
    result = run(
        pytester,
        f"""{ASYNC_TEST.replace("test_refused", "refused")}
def test_refused(audit_trail):
    asyncio.run(refused(audit_trail))
""",
    )
    result.assert_outcomes(passed=1)


def test_a_failure_shows_what_was_recorded_instead(pytester: pytest.Pytester) -> None:
    """The message names what was expected, the closest event first, and which fields differ; no inner frames."""
    result = run(
        pytester,
        """
def test_expected(audit_trail):
    log_in("mallory", audit_trail.audit)
    log_in("eve", audit_trail.audit)
    audit_trail.assert_recorded(AuthFailure, reason="bad_password", attempted_user="eve", path="/logout")
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*auth.failure with reason='bad_password', attempted_user='eve', path='/logout' was not recorded;*of 2:",
            'E*seq 2: {"event_type":"auth.failure","attempted_user":"eve",*',
            "E*path is '/login', not '/logout'",
            "E*seq 1: *mallory*",
            "E*attempted_user is 'mallory', not 'eve'",
        ]
    )
    result.stdout.no_fnmatch_line("*integrations/trail.py*")


def test_loading_the_plugin_imports_nothing_more(tmp_path: Path) -> None:
    """A run of pytest that doesn't use the fixture does not pay for what the fixture needs."""
    program = """
import sys
import audit_async  # what the package's own name costs is not the plugin's doing
before = set(sys.modules)
import pytest
for name in set(sys.modules) - before:
    before.add(name)
import audit_async.integrations.pytest_plugin
print(sorted(set(sys.modules) - before))
"""
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.split("'")[1::2] == ["audit_async.integrations", "audit_async.integrations.pytest_plugin"]


# The questions.


class Priced(AuditEvent, tag="test.priced"):
    """An event with a member that JSON can't give back as it was: its class can't be decoded."""

    ip: IPv4Address


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    """A trail that is not entered yet."""
    return AuditTrail(tmp_path / "audit")


def actor(user: str) -> ActorInfo:
    """Return somebody."""
    return ActorInfo(user_id=user, ip=IPv4Address("203.0.113.9"), auth_method=AuthMethod.API_KEY)


def test_values_are_compared_as_they_are_recorded(trail: AuditTrail) -> None:
    """Addresses, tuples, parts of members and matchers compare; what differs in any field does not."""
    with trail:
        trail.audit.emit(AuthSuccess(actor=actor("dana"), method=AuthMethod.API_KEY, path="/login"))
        trail.audit.emit(TokenCreated(actor=actor("dana"), token_fingerprint="token:a3f2c1", scope=["read", "write"]))
        trail.assert_recorded(AuthSuccess)
        trail.assert_recorded(AuthSuccess, actor=actor("dana"), method="api_key")
        trail.assert_recorded(AuthSuccess, actor={"user_id": "dana", "ip": IPv4Address("203.0.113.9")}, path=mock.ANY)
        trail.assert_recorded(TokenCreated, scope=("read", "write"), expires_at=None)
        for wrong in (
            {"actor": actor("eve")},
            {"actor": {"user_id": "eve"}},
            {"actor": {"name": "dana"}},
            {"path": ""},
        ):
            trail.assert_not_recorded(AuthSuccess, **wrong)
            with pytest.raises(AssertionError, match=r"(?s)auth\.success with .* was not recorded; the closest of 1:"):
                trail.assert_recorded(AuthSuccess, **wrong)
        with pytest.raises(AssertionError, match=r"auth\.success with path='/login' was recorded:\n  seq 1: "):
            trail.assert_not_recorded(AuthSuccess, path="/login")


def test_a_field_that_is_not_there_is_an_error_and_no_failure(trail: AuditTrail) -> None:
    """A misspelt name must not make `assert_not_recorded` pass."""
    with trail, pytest.raises(TypeError, match=r"AuthFailure has no field 'resaon'; did you mean 'reason'\?"):
        trail.assert_not_recorded(AuthFailure, resaon="x")


def test_the_messages_of_a_trail_without_that_type(trail: AuditTrail) -> None:
    """Where nothing of the type was recorded the message shows what was, the first few, or that nothing was."""
    with trail:
        with pytest.raises(AssertionError, match=r"^auth\.failure was not recorded; nothing was$"):
            trail.assert_recorded(AuthFailure)
        for n in range(8):
            trail.audit.emit(Counted(producer="p" * 500, n=n))
        with pytest.raises(AssertionError) as failed:
            trail.assert_recorded(AuthFailure)
    lines = str(failed.value).splitlines()
    assert lines[0] == "auth.failure was not recorded, nor anything else of that type; this was:"
    assert [line.startswith(f"  seq {n}: ") for n, line in enumerate(lines[1:6], 1)] == [True] * 5
    assert max(map(len, lines)) < 450
    assert lines[6:] == ["  … and 3 more"]


def test_the_log_s_own_life_is_shown_when_asked_for(trail: AuditTrail) -> None:
    """`audit.*` records are left out of all questions but those for their type."""
    with trail:
        assert trail.records() == []
        assert trail.events(AuditEvent) == []
        (opened,) = trail.events(AuditLogOpened)
        assert opened.format_version == 1
        trail.assert_recorded(AuditLogOpened, format_version=1)


def test_clear_leaves_out_what_was_before(trail: AuditTrail) -> None:
    """After `clear` only what follows is seen, also in files that began before; the log itself keeps everything."""
    with trail:
        trail.audit.emit(failure(1))
        trail.clear()
        trail.assert_not_recorded(AuthFailure)
        trail.audit.emit(failure(2))
        assert [event.path for event in trail.events(AuthFailure)] == ["/login/2"]
        directory = trail.audit.directory
    assert directory is not None
    check_trail(directory)
    assert directory.joinpath("log.json").exists()


def test_code_that_opens_a_logger_of_its_own(trail: AuditTrail) -> None:
    """A logger that was opened with the trail's configuration writes a log beside; its records are seen."""

    async def service() -> None:
        async with AuditLogger(trail.config) as audit:
            audit.emit(ModelAccessed(customer_id="c", model_ref="m", access_type="read"))

    with trail:
        trail.audit.emit(failure())
        anyio.run(service)
        trail.assert_recorded(ModelAccessed, customer_id="c")
        assert [record.event.event_type for record in trail.records()] == ["auth.failure", "data.model_accessed"]


def test_an_event_that_can_t_be_read_back_is_not_passed_over(trail: AuditTrail) -> None:
    """Where a class has no decoder its records are there and can be asserted; `events` says what is wrong with it."""
    with trail:
        trail.audit.emit(Priced(ip=IPv4Address("192.0.2.1")))
        trail.assert_recorded(Priced, ip="192.0.2.1")
        trail.assert_not_recorded(Priced, ip="192.0.2.2")
        assert len(trail.records(Priced)) == 1
        with pytest.raises(InvalidEvent, match=r"test\.priced: was recorded, but can't be read back as Priced"):
            trail.events(Priced)


def test_the_trail_can_be_asked_after_its_end(trail: AuditTrail) -> None:
    """Behind the `with` everything that was emitted is in the files; nothing is lost at the end."""
    with trail:
        for n in range(100):
            trail.audit.emit(failure(n))
    assert [event.path for event in trail.events(AuthFailure)] == [f"/login/{n}" for n in range(100)]


def test_an_application_whose_log_was_set_at_import_records_to_the_test(pytester: pytest.Pytester) -> None:
    """Each test has its own trail, the application's log stays as it was, and nothing is left behind."""
    pytester.makepyfile(
        shop="""
from audit_async import AuditConfig, Local, audited, get_audit, set_audit
from audit_async.events import AuthFailure
from audit_async.integrations.wsgi import AuditMiddleware
from audit_async.sync import SyncAuditLogger

own = SyncAuditLogger(AuditConfig(mode=Local("real"), service_id="shop"))
own.start()
set_audit(own)


@audited("shop.sold")
def sell():
    get_audit().emit(AuthFailure(reason="bad_password", ip="203.0.113.9", path="/login"))


def application(environ, start_response):
    sell()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


application = AuditMiddleware(application, own)
"""
    )
    result = run(
        pytester,
        """
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import shop
from audit_async import get_audit
from audit_async.events import HttpRequest


def ask():
    environ = {}
    setup_testing_defaults(environ)
    return b"".join(shop.application(environ, lambda status, headers: None))


@pytest.mark.parametrize("number", [1, 2])
def test_request(audit_trail, number):
    assert ask() == b"ok"
    types = [record.event.event_type for record in audit_trail.records()]
    assert types == ["auth.failure", "shop.sold", "http.request"]


def test_nothing_is_left_behind():
    assert get_audit() is shop.own
    shop.own.close()
    text = b"".join(path.read_bytes() for path in Path("real").rglob("*.audit"))
    assert b"audit.log_closed" in text and b"http.request" not in text
""",
    )
    result.assert_outcomes(passed=3)
