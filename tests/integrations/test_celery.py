"""`audit_tasks`: runs of Celery tasks in the trail, with a real broker and real worker processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from audit_async import ActorInfo, ConfigError, acting_as
from audit_async.ambient.ambient_log import set_stand_in
from audit_async.context import audit_context
from audit_async.events import Failure, JobEnded
from audit_async.integrations.celery import AuditedTasks, audit_tasks
from audit_async.sync import SyncAuditLogger
from audit_async.testing import AuditTrail
from tests.integrations.servers import PROJECT
from tests.logs import ConfigFor
from tests.processes import PATIENCE_S, wait_until
from tests.trails import check_trail, read_events

DANA = ActorInfo(user_id="dana", ip="203.0.113.9")

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="no redis-server: apt-get install redis-server"
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a Redis server on a socket, for the tests of this module."""
    # A directory of pytest's may have a longer name than a socket can have.
    with tempfile.TemporaryDirectory(prefix="audit-redis-", dir="/tmp") as directory:
        place = Path(directory, "redis.sock")
        command = ["redis-server", "--port", "0", "--unixsocket", str(place), "--save", "", "--dir", directory]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                wait_until(lambda: answers(place), server)
                yield f"redis+socket://{place}"
            finally:
                server.terminate()


def answers(path: Path) -> bool:
    """Return whether a server listens: there is a socket a little earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


class Shop:
    """A worker of `celery_app` with a queue of its own, and what its trail has."""

    def __init__(self, broker: str, directory: Path, *options: str, **environment: str) -> None:
        self.trail = directory / "audit"
        self.done_file = directory / "done"
        self.log = directory / "worker.log"
        self.queue = directory.name
        self.sender = Celery("sender", broker=broker)
        self._environment = os.environ | {
            "CELERY_BROKER": broker,
            "CELERY_AUDIT": str(self.trail),
            "CELERY_DONE": str(self.done_file),
            "PYTHONPATH": str(PROJECT),
            **environment,
        }
        self._command = [
            *(sys.executable, "-m", "celery", "-A", "tests.integrations.celery_app", "worker"),
            *("-Q", self.queue, "--loglevel", "INFO", "--without-gossip", "--without-mingle", *options),
        ]

    @contextmanager
    def working(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the worker until the end of the block, and end it as its operator would."""
        with self.log.open("a") as output:
            worker = subprocess.Popen(self._command, env=self._environment, stdout=output, stderr=output)
        try:
            wait_until(lambda: "ready." in self.log.read_text(), worker, self.log)
            yield worker
            worker.terminate()
            assert worker.wait(PATIENCE_S) == 0, self.log.read_text()
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.wait()

    def send(self, task: str, *args: object, **options: Any) -> str:
        """Send a task; return its id."""
        return str(self.sender.send_task(task, args=args, queue=self.queue, **options).id)

    def done(self) -> list[str]:
        """Return the runs that have reached their end."""
        return self.done_file.read_text().splitlines() if self.done_file.exists() else []

    def runs(self) -> list[dict[str, Any]]:
        """Return the recorded runs, in their order in each log, after a check of all logs."""
        return [record["event"] for record in self.records() if record["event"]["event_type"] == "job.ended"]

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all logs, after a check of each."""
        logs = sorted(path.parent for path in self.trail.rglob("log.json"))
        for log in logs:
            check_trail(log)
        return [record for log in logs for record in read_events(log)]

    def recorded(self, task_id: str) -> bool:
        """Return whether a run is in the trail, which may be written at the moment."""
        return any(task_id.encode() in path.read_bytes() for path in self.trail.rglob("*.audit"))


@pytest.fixture
def sending() -> Iterator[AuditedTasks]:
    """Let context and actor of the test travel with what it sends."""
    audited = audit_tasks(Celery("nothing runs here"))
    yield audited
    audited.disconnect()


@needs_redis
@pytest.mark.usefixtures("sending")
def test_runs_are_recorded_on_behalf_of_whoever_asked(broker: str, tmp_path: Path) -> None:
    """Context and actor travel; each run has its outcome, of an exception the class, of arguments the chosen ones."""
    shop = Shop(broker, tmp_path, "--concurrency", "2", "--max-tasks-per-child", "3")
    with shop.working() as worker:
        with acting_as(DANA), audit_context(request_id="r-1"):
            refunded = shop.send("shop.refund", "o-7", 500)
            failed = shop.send("shop.fail", "hunter2")
            retried = shop.send("shop.flaky")
        others = [shop.send("shop.reject"), shop.send("shop.ignore"), shop.send("shop.refund", "too", 2, 3)]
        forged = shop.send("shop.refund", "o-8", 1, headers={"audit_async": {"actor": 7}})
        expired = shop.send("shop.refund", "o-9", 1, expires=datetime.now(UTC) - timedelta(seconds=5))
        wait_until(lambda: all(map(shop.recorded, [refunded, failed, *others, forged, expired])), worker, shop.log)
        wait_until(lambda: shop.log.read_text().count(f"shop.flaky[{retried}] succeeded"), worker, shop.log)
    runs = shop.runs()
    by_id = {run["job_id"]: run for run in runs}
    assert Counter(run["job_id"] for run in runs) == Counter({**dict.fromkeys(by_id, 1), retried: 3})
    assert by_id[refunded] == {
        "event_type": "job.ended",
        "actor": {"user_id": "dana", "ip": "203.0.113.9"},
        "job": "shop.refund",
        "job_id": refunded,
        "attempt": 1,
        "result": {"status": "success"},
        "queue": shop.queue,
        "duration_ms": by_id[refunded]["duration_ms"],
        "arguments": {"order_id": "o-7"},
    }
    assert by_id[failed]["result"] == {"status": "failure", "reason": "KeyError"}
    attempts = sorted(
        (run["attempt"], run["result"], run["actor"]["user_id"]) for run in runs if run["job_id"] == retried
    )
    again = {"status": "partial_success", "details": "retried: ConnectionError"}
    assert attempts == [(1, again, "dana"), (2, again, "dana"), (3, {"status": "success"}, "dana")]
    assert [by_id[other]["result"] for other in others] == [
        {"status": "failure", "reason": "rejected"},
        {"status": "partial_success", "details": "ignored"},
        {"status": "failure", "reason": "TypeError"},
    ]
    assert not any("actor" in by_id[other] for other in [*others, forged, expired])
    assert by_id[forged]["result"] == {"status": "success"}
    assert "unreadable header" in shop.log.read_text()
    assert by_id[expired]["result"] == {"status": "failure", "reason": "expired"}
    assert "duration_ms" not in by_id[expired]
    counted = [record for record in shop.records() if record["event"]["event_type"] == "test.counted"]
    assert {record["event"]["producer"]: record.get("context") for record in counted} == {
        "o-7": {"request_id": "r-1"},
        "o-8": None,
    }
    assert "hunter2" not in str(runs)


@needs_redis
@pytest.mark.parametrize(
    ("pool", "environment"),
    [("prefork", {}), ("threads", {}), ("prefork", {"CELERY_AMBIENT": "1"})],
    ids=["prefork", "threads", "a log of the application's own"],
)
def test_a_worker_that_is_asked_to_stop_loses_nothing(
    broker: str, tmp_path: Path, pool: str, environment: dict[str, str]
) -> None:
    """SIGTERM under load: each run that has ended is recorded once, and every log is closed, whoever opened it."""
    shop = Shop(broker, tmp_path, "--concurrency", "3", "--pool", pool, "--max-tasks-per-child", "40", **environment)
    for number in range(400):  # before the worker is there, so that it does not come to their end
        shop.send("shop.many", number)
    with shop.working() as worker:
        wait_until(lambda: len(shop.done()) > 60, worker, shop.log)
    done = shop.done()
    assert 60 < len(done) < 400
    assert len(shop.runs()) == len(done)
    assert len({run["job_id"] for run in shop.runs()}) == len(done)
    types = Counter(record["event"]["event_type"] for record in shop.records())
    assert types["audit.log_opened"] == types["audit.log_closed"] >= (2 if pool == "prefork" else 1)
    shop.sender.control.purge()


@needs_redis
def test_a_process_that_is_killed_is_recorded_by_the_worker(broker: str, tmp_path: Path) -> None:
    """Of a run whose process is gone the worker's main process says how it ended, and on whose behalf it ran."""
    shop = Shop(broker, tmp_path, "--concurrency", "1", CELERY_DURABLE="1")
    with shop.working() as worker:
        first = shop.send("shop.refund", "o-1", 1)
        wait_until(lambda: shop.recorded(first), worker, shop.log)
        killed = shop.send("shop.sleep", 600, "killed")
        wait_until(lambda: "killed" in shop.done()[-1], worker, shop.log)
        os.kill(int(shop.done()[-1].split()[0]), signal.SIGKILL)
        wait_until(lambda: shop.recorded(killed), worker, shop.log)
        revoked = shop.send("shop.sleep", 600, "revoked")
        wait_until(lambda: "revoked" in shop.done()[-1], worker, shop.log)
        shop.sender.control.revoke(revoked, terminate=True)
        wait_until(lambda: shop.recorded(revoked), worker, shop.log)
        last = shop.send("shop.refund", "o-2", 1)
        wait_until(lambda: shop.recorded(last), worker, shop.log)
    runs = shop.runs()
    assert len(runs) == 4
    assert {run["job_id"]: run["result"] for run in runs} == {
        first: {"status": "success"},
        killed: {"status": "failure", "reason": "billiard.exceptions.WorkerLostError"},
        revoked: {"status": "failure", "reason": "terminated"},
        last: {"status": "success"},
    }


@pytest.fixture
def audit_trail(tmp_path: Path) -> Iterator[AuditTrail]:
    """Do what the fixture of the pytest plugin does, which is not loaded here."""
    with AuditTrail(tmp_path) as trail:
        yield trail


def _eager(name: str = "shop") -> Celery:
    """Return an application that runs its tasks in the caller, and keeps them for itself.

    Tasks are shared by default: each application of the process that is finalized later has them too, those of other
    tests among them, and the same name given to two of them is a warning.
    """

    class Eager(Celery):  # type: ignore[misc]  # it has no types
        def task(self, *args: Any, **options: Any) -> Any:
            return super().task(*args, **options | {"shared": False})

    app = Eager(name, broker="memory://")
    app.conf.task_always_eager = True
    return app


def test_eager_tasks_are_recorded_where_they_are_called(audit_trail: AuditTrail) -> None:
    """In tests: with the fixture's log, and the actor and the context of the caller."""
    app = _eager()

    @app.task(name="shop.refund")
    def refund(order_id: str) -> str:
        return order_id

    @app.task(name="shop.fail")
    def fail() -> None:
        raise KeyError("hunter2")

    audited = audit_tasks(app, audit_trail.audit, arguments={"shop.refund": ["order_id"]})
    try:
        with acting_as(DANA):
            assert refund.delay("o-7").get() == "o-7"
        with pytest.raises(KeyError):
            fail.delay().get()
    finally:
        audited.disconnect()
    audit_trail.assert_recorded(JobEnded, job="shop.refund", actor=DANA, arguments={"order_id": "o-7"})
    audit_trail.assert_recorded(JobEnded, job="shop.fail", result=Failure(reason="KeyError"))
    refund.delay("o-8")
    assert len(audit_trail.events(JobEnded)) == 2


def test_a_log_of_a_test_takes_the_place_of_the_application_s(audit_trail: AuditTrail, config_for: ConfigFor) -> None:
    """The application names its log where it is imported; with the fixture nothing has to be changed in it."""
    app = _eager()

    @app.task(name="shop.add")
    def add() -> int:
        return 7

    audited = audit_tasks(app, SyncAuditLogger(config_for()))
    before = set_stand_in(audit_trail.audit)  # as the fixture of the plugin does
    try:
        assert add.delay().get() == 7
    finally:
        set_stand_in(before)
        audited.disconnect()
    audit_trail.assert_recorded(JobEnded, job="shop.add")


def test_two_applications_of_a_process_have_a_log_each(audit_trail: AuditTrail, config_for: ConfigFor) -> None:
    """Signals are the whole process's: each connection takes the runs of its own application and leaves the others."""
    apps = [_eager("shop"), _eager("store")]
    for app in apps:

        @app.task(name="shop.multiply")
        def multiply() -> int:
            return 7

    with SyncAuditLogger(config_for(service_id="other")) as other:
        connections = [audit_tasks(apps[0], other), audit_tasks(apps[1], audit_trail.audit)]
        try:
            for app in (apps[1], apps[0], apps[1]):
                assert app.tasks["shop.multiply"].delay().get() == 7
        finally:
            for connection in connections:
                connection.disconnect()
    assert sorted(record.service_id for record in audit_trail.records(JobEnded)) == ["other", "test", "test"]


def test_a_task_without_a_log_runs(caplog: pytest.LogCaptureFixture) -> None:
    """The application's task counts for more; the log of the process says what is missing."""
    app = _eager()

    @app.task(name="shop.add")
    def add() -> int:
        return 7

    audited = audit_tasks(app)
    try:
        assert add.delay().get() == 7
    finally:
        audited.disconnect()
    assert "the end of a Celery task could not be recorded" in caplog.text


def test_wrong_arguments_are_refused() -> None:
    """When the tasks are connected."""
    app = _eager()
    with pytest.raises(ConfigError, match=r"^audit: "):
        audit_tasks(app, "audit")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match=r"^arguments: "):
        audit_tasks(app, arguments={"shop.refund": "order_id"})


def test_an_import_of_the_application_opens_nothing(tmp_path: Path) -> None:
    """Only a worker has a log; whatever sends tasks, or lists them, has none."""
    command = [sys.executable, "-c", "import tests.integrations.celery_app"]
    environment = os.environ | {"CELERY_AUDIT": str(tmp_path / "audit"), "PYTHONPATH": str(PROJECT)}
    assert subprocess.run(command, env=environment, check=False, timeout=60).returncode == 0
    assert not (tmp_path / "audit").exists()
