"""What happens while the trail can't take a record: nothing unrecorded where that was asked for, no harm otherwise."""

from __future__ import annotations

import errno
import logging
from threading import Event as ThreadEvent
from typing import Any

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, BufferFull, ConfigError, Disabled, HealthStatus
from audit_async._store.log_store import LogStore
from audit_async.integrations.asgi import AuditMiddleware, Scope
from tests.integrations.asgi_client import ask, hello, http_scope, open_trail
from tests.logs import ConfigFor, Counted

pytestmark = pytest.mark.anyio


class Asked:
    """An application that counts its requests."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer `{}`."""
        self.times += 1
        await hello(scope, receive, send)


def fill(audit: AuditLogger, up_to: int | None = None) -> None:
    """Fill the buffer with ordinary events; the writer has no turn meanwhile."""
    try:
        while up_to is None or audit.health().waiting_events < up_to:
            audit.emit(Counted(producer="p", n=0))
    except BufferFull:
        pass


async def test_a_full_buffer_refuses_requests_before_they_are_served(
    config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    """With `fail_closed` the answer is 503 with Retry-After, the application is not asked, and later all is well."""
    async with open_trail(config_for, buffer_events=100) as trail:
        asked = Asked()
        app = AuditMiddleware(asked, trail.audit, fail_closed=True)
        fill(trail.audit)
        for _ in range(2):
            exchanged = await ask(app, http_scope())
            assert (exchanged.status, asked.times) == (503, 0)
            assert exchanged.headers["retry-after"] == "5"
            assert len(exchanged.body) == int(exchanged.headers["content-length"])
        await trail.audit.flush()
        assert (await ask(app, http_scope())).status == 200
        assert (asked.times, app.refused, app.unrecorded) == (1, 2, 0)
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


async def test_requests_under_way_have_their_room(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `fail_closed` no more requests are let in at once than the buffer has room for, so none goes unrecorded."""
    disk_is_slow, release = ThreadEvent(), anyio.Event()
    commit = LogStore.commit

    def slow(self: LogStore, batch: Any, *, sync: bool) -> Any:
        disk_is_slow.wait(120)
        return commit(self, batch, sync=sync)

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await release.wait()
        await hello(scope, receive, send)

    async with open_trail(config_for, buffer_events=100) as trail:
        monkeypatch.setattr(LogStore, "commit", slow)
        fill(trail.audit, 80)
        middleware = AuditMiddleware(app, trail.audit, fail_closed=True)
        answers: list[int | None] = []

        async def one() -> None:
            answers.append((await ask(middleware, http_scope())).status)

        async with anyio.create_task_group() as requests:
            for _ in range(30):
                requests.start_soon(one)
            with anyio.fail_after(60):
                while len(answers) < 21:  # 9 of the 90 places are free; the others are refused at once
                    await anyio.sleep(0.001)
            release.set()
        disk_is_slow.set()
        assert (answers.count(503), answers.count(200)) == (21, 9)
        assert middleware.unrecorded == 0
        assert len(await trail.events()) == 80 + 9


async def test_a_failing_disk_refuses_requests(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `fail_closed` a disk that takes nothing is reason enough, long before the buffer is full."""
    held: list[Any] = []
    commit = LogStore.commit

    def failing(self: LogStore, batch: Any, *, sync: bool) -> Any:
        held.append(batch)
        raise OSError(errno.ENOSPC, "No space left on device")

    def mended(self: LogStore, batch: Any, *, sync: bool) -> Any:
        while held:
            commit(self, held.pop(0), sync=False)
        return commit(self, batch, sync=sync)

    async with open_trail(config_for) as trail:
        asked = Asked()
        app = AuditMiddleware(asked, trail.audit, fail_closed=True)
        monkeypatch.setattr(LogStore, "commit", failing)
        assert (await ask(app, http_scope())).status == 200  # nobody knows yet
        with anyio.fail_after(60):
            while trail.audit.health().status is not HealthStatus.DEGRADED:
                await anyio.sleep(0.001)
        assert (await ask(app, http_scope())).status == 503
        monkeypatch.setattr(LogStore, "commit", mended)
        with anyio.fail_after(60):
            await trail.audit.flush()
        assert (await ask(app, http_scope())).status == 200
        assert asked.times == 2
        assert len(await trail.events()) == 2


async def test_a_closed_log_refuses_requests(config_for: ConfigFor) -> None:
    """With `fail_closed` a log that is not started, or closed, means 503 as well."""
    audit = AuditLogger(config_for())
    asked = Asked()
    app = AuditMiddleware(asked, audit, fail_closed=True)
    assert (await ask(app, http_scope())).status == 503
    async with audit:
        assert (await ask(app, http_scope())).status == 200
    assert (await ask(app, http_scope())).status == 503
    assert asked.times == 1


async def test_a_disabled_log_refuses_nothing() -> None:
    """A log that is disabled on purpose records nothing and turns nobody away."""
    async with AuditLogger(AuditConfig(mode=Disabled(), service_id="orders")) as audit:
        assert (await ask(AuditMiddleware(hello, audit, fail_closed=True), http_scope())).status == 200


async def test_by_default_requests_are_served_and_the_loss_is_recorded(
    config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    """Open is the default: the answer is unchanged, the loss is counted, logged once, and told in the chain."""
    async with open_trail(config_for, buffer_events=100) as trail:
        asked = Asked()
        app = AuditMiddleware(asked, trail.audit)
        fill(trail.audit)
        for _ in range(3):
            assert (await ask(app, http_scope())).status == 200
        assert (asked.times, app.unrecorded) == (3, 3)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert trail.audit.stats().dropped_by_type["http.request"] == 3
        await trail.audit.flush()
        assert (await ask(app, http_scope())).status == 200
        assert app.unrecorded == 3
        await trail.audit.flush()
        assert b'"http.request":3' in trail.text()


async def test_a_closed_log_breaks_no_request_by_default(config_for: ConfigFor) -> None:
    """A request that ends after the log was closed is answered, and counted as unrecorded."""
    audit = AuditLogger(config_for())
    app = AuditMiddleware(hello, audit)
    assert (await ask(app, http_scope())).status == 200
    assert app.unrecorded == 1


async def test_a_defect_while_recording_breaks_no_request(
    config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong while the event is made, the application has answered and does not hear of it."""

    class Route:
        @property
        def path_format(self) -> str:
            raise RuntimeError("a framework's own defect")

    async with open_trail(config_for) as trail:
        app = AuditMiddleware(hello, trail.audit)
        assert (await ask(app, http_scope(route=Route()))).status == 200
        assert app.unrecorded == 1
        assert "a framework's own defect" in caplog.text


async def test_without_a_logger_the_error_says_what_to_do() -> None:
    """A middleware that finds no logger is set up wrongly: every request says how to mend it."""
    with pytest.raises(ConfigError, match=r"lifespan=audit_lifespan\(config\)"):
        await ask(AuditMiddleware(hello), http_scope())
