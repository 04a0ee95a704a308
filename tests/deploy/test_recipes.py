"""The deployment recipes run: confined as they say, under load, ended by SIGTERM, and nothing answered is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import kubernetes_validate
import pytest

from audit_async import AuditConfig, Local
from tests.deploy.recipes import (
    DEPLOY,
    WRITABLE,
    Recipe,
    confined_to,
    container_recipe,
    first_process,
    manifests,
    option,
    systemd_recipe,
    unit_settings,
    why_not_confined,
)
from tests.integrations.servers import Server, Visitors, asking, serving
from tests.ports import free_ports
from tests.trails import check_trail, logs_below, read_events

DRAIN_S = AuditConfig(mode=Local("audit"), service_id="orders").drain_timeout
#: The oldest release that the manifests are for, and the newest that is known.
KUBERNETES = ("1.33", kubernetes_validate.latest_version())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a directory as StateDirectory= makes one."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    if reason := why_not_confined(path):
        pytest.skip(reason)
    return path


def on_any_port(command: list[str]) -> list[str]:
    """Return the recipe's command for this machine: the service from this tree, on loopback, on a free port."""
    own = {"--app-dir": str(DEPLOY), "--port": "0", "--host": "127.0.0.1"}
    return [own.get(before, word) for before, word in zip(["", *command], command, strict=False)]


def environment_of(recipe: Recipe) -> dict[str, str]:
    """Return the recipe's environment as a process confined to `state` needs it."""
    environment = {
        name: value.replace("/var/lib/orders", str(WRITABLE)) if name == "AUDIT_BASE_DIR" else value
        for name, value in recipe.environment.items()
    }
    environment |= {"METRICS_PORT": str(free_ports(2)), "METRICS_ADDRESS": "127.0.0.1", "HOME": "/nonexistent"}
    return environment


def stopped_under_load(server: Server, pid: int) -> list[int]:
    """Send SIGTERM while requests are answered; return those that were, once everything has ended."""
    with Visitors(server.address, path=lambda n: f"/orders/{n}") as visitors:
        visitors.wait_for(100, server)
        os.kill(pid, signal.SIGTERM)
        assert server.process.wait(timeout=120) in {0, 128 + signal.SIGTERM, -signal.SIGTERM}, server.said()
    return visitors.answered


def assert_nothing_is_lost(base_dir: Path, answered: list[int], logs: int) -> None:
    """Assert that each chain is whole and was closed, and that everything that was answered is in one of them."""
    directories = logs_below(base_dir)
    assert len(directories) == logs
    recorded = set()
    for directory in directories:
        check_trail(directory)
        events = [record["event"] for record in read_events(directory)]
        assert [event["event_type"] for event in events].count("audit.log_closed") == 1
        recorded |= {event["resource"]["resource_id"] for event in events if event["event_type"] == "resource.read"}
    assert {str(n) for n in answered} - recorded == set()


def metrics_at(port: int) -> str:
    """Return what a worker tells of itself, once it does: one may serve a little before the other."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with asking(f"http://127.0.0.1:{port}") as client:
                return client.get("/metrics").text
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_confined_container_loses_nothing(state: Path) -> None:
    """As process 1, without a capability, on a read-only root: it serves, and SIGTERM loses no answer."""
    recipe = container_recipe()
    environment = environment_of(recipe)
    command = on_any_port(recipe.command)
    with serving(state, command, starts=1, environment=environment, before=confined_to(state)) as server:
        with server.asking() as client:
            assert client.get("/ready").json() == {"status": "ok"}
            assert client.get("/live").status_code == 200
        metrics = metrics_at(int(environment["METRICS_PORT"]))
        assert 'audit_async_healthy{log_instance="00",service_id="orders"} 1.0' in metrics
        answered = stopped_under_load(server, first_process(server.process.pid))
    assert_nothing_is_lost(state / "audit", answered, 1)


def test_only_the_state_directory_can_be_written(state: Path) -> None:
    """What confines the services above does: elsewhere the file system is read-only, for root as well."""
    tries = "import os; assert os.getpid() == 1; open('here', 'w'); open('/tmp/outside', 'w')"
    command = [*confined_to(state), sys.executable, "-c", tries]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Read-only file system" in ended.stderr
    assert (state / "here").exists()


def test_gunicorn_loses_nothing(tmp_path: Path) -> None:
    """Gunicorn with the recipe's settings: two workers, two logs, SIGTERM in the midst of requests."""
    command = ["gunicorn", "--config", str(DEPLOY / "orders_gunicorn.py"), "--bind", "127.0.0.1:0"]
    command += ["--pythonpath", str(DEPLOY), "orders_service:app"]
    environment = {"AUDIT_BASE_DIR": str(tmp_path / "audit"), "AUDIT_SERVICE_ID": "orders"}
    with serving(tmp_path, command, starts=2, environment=environment) as server:
        answered = stopped_under_load(server, server.process.pid)
    assert_nothing_is_lost(tmp_path / "audit", answered, 2)


# Limits.


def test_every_stop_leaves_time_for_requests_and_for_the_drain() -> None:
    """SIGKILL comes after the requests' time and the trail's drain, with each supervisor."""
    for recipe in (systemd_recipe(), container_recipe()):
        requests_s = float(option(recipe.command, "--timeout-graceful-shutdown"))
        assert recipe.stop_timeout_s >= requests_s + DRAIN_S + 5
    text = (DEPLOY / "orders_gunicorn.py").read_text(encoding="utf-8")
    settings: dict[str, object] = {"__name__": "orders_gunicorn"}
    exec(compile(text, "orders_gunicorn.py", "exec", dont_inherit=True), settings)  # noqa: S102 - our own example
    worker = settings["EndingWorker"]
    requests_s = worker.CONFIG_KWARGS["timeout_graceful_shutdown"]  # type: ignore[attr-defined]
    assert settings["graceful_timeout"] >= requests_s + DRAIN_S + 5
    pod = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    (service,) = pod["containers"]
    before_s = service["lifecycle"]["preStop"]["sleep"]["seconds"]
    requests_s = float(option(container_recipe().command, "--timeout-graceful-shutdown"))
    assert pod["terminationGracePeriodSeconds"] >= before_s + requests_s + DRAIN_S + 5


# Files that are for machines.


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_systemd_accepts_the_unit(tmp_path: Path, unit: Path) -> None:
    """`systemd-analyze verify` finds nothing: no misspelt setting, no missing file."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    program = unit_settings(unit)["ExecStart"][0].split()[0]
    here = tmp_path / unit.name
    here.write_text(unit.read_text(encoding="utf-8").replace(program, "/bin/true"))
    checked = subprocess.run(
        ["systemd-analyze", "verify", here], capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_a_unit_writes_only_where_it_has_to(unit: Path) -> None:
    """Each unit has a user, a read-only system, and no way to more rights."""
    settings = unit_settings(unit)
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["NoNewPrivileges"] in (["yes"], ["true"])
    assert settings["User"] != ["root"]
    assert "StateDirectory" in settings or "ReadWritePaths" in settings


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_the_manifests(version: str) -> None:
    """Each object is valid by the API's own schema, and has no member that it does not know."""
    for manifest in manifests().values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_finds_what_is_misspelt() -> None:
    """A probe or a limit with a wrong name is an error, not silently left out."""
    manifest = manifests()["StatefulSet"]
    pod = manifest["spec"]["template"]["spec"]
    pod["terminationGracePeriod"] = pod.pop("terminationGracePeriodSeconds")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, KUBERNETES[0], strict=True)


def test_a_pod_keeps_its_trail_and_can_open_it() -> None:
    """The trail is a directory below the volume, which fsGroup leaves alone, and the volume outlives the pod."""
    spec = manifests()["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    base_dir = container_recipe().environment["AUDIT_BASE_DIR"]
    assert Path(base_dir).parent == Path(mounts["trail"])
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"], container["name"]
    sidecar = pod["initContainers"][-1]
    assert sidecar["command"][1:3] == ["forward", base_dir]
    assert sidecar["restartPolicy"] == "Always", "a sidecar: it ends after the service, and ships the last record"
