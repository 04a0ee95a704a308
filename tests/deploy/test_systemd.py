"""The units run under a real systemd, confined as they say; SIGTERM and restarts under load lose nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.forwarding import DirectorySink
from tests.deploy.recipes import DEPLOY
from tests.deploy.runbooks import commands
from tests.deploy.systemd_machine import Machine, VisitorsInside, running_machine, why_no_machine
from tests.logs import Counted
from tests.trails import check_trail, logs_below, read_events

ADDRESS = "http://127.0.0.1:8000"
#: All that a test changes in a unit: a machine has no journal, and its Python was built for another place.
SAID = "[Service]\nStandardOutput=append:/run/said\nStandardError=append:/run/said\n"
SAID += "Environment=LD_LIBRARY_PATH=/opt/python/lib\n"
UNITS = sorted(DEPLOY.glob("*.service"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Run a machine; skipped, with the reason, if none can run here."""
    tried = tmp_path / "tried"
    tried.mkdir()
    if reason := why_no_machine(tried):
        pytest.skip(reason)
    with running_machine(tmp_path) as running:
        yield running


def wait_ready(machine: Machine) -> None:
    """Return once both workers answer: each has its own log, and shows it on its own port."""
    for slot in ("00", "01"):
        metrics = f"curl -sf http://127.0.0.1:{9470 + int(slot)}/metrics"
        machine.wait_until(f"""{metrics} | grep -q 'audit_async_healthy{{log_instance="{slot}",.*}} 1.0'""")
    assert machine.run(f"curl -sf {ADDRESS}/ready") == '{"status":"ok"}'


def under_load(machine: Machine, script: str) -> set[str]:
    """Run commands that end or restart the service while it answers; return the orders that were answered."""
    with VisitorsInside(machine, ADDRESS) as visitors:
        machine.wait_until(f"test $(curl -s {ADDRESS}/live -o /dev/null -w '%{{http_code}}') = 200")
        visitors.wait_for_answers(50)
        machine.run(script)
    return {str(n) for n in visitors.answered}


def signatures(trail: Path) -> tuple[int, ...]:
    """Return how many keys have signed the newest checkpoint of each log."""
    checkpoints = [(log / "tlog" / "checkpoint").read_text(encoding="utf-8") for log in logs_below(trail / "orders")]
    return tuple([checkpoint.count("\n— ") for checkpoint in checkpoints])


@pytest.mark.parametrize(
    "steps", [pytest.param(1, id="both-keys"), pytest.param(2, id="new-key-alone", marks=pytest.mark.campaign)]
)
def test_a_service_is_installed_gets_another_key_and_ends(machine: Machine, steps: int) -> None:
    """The commands of the pages, with the unit as it is: answered is recorded, whoever restarts or stops it."""
    trail = machine.var_lib / "orders" / "audit"
    machine.run("mkdir -p /etc/systemd/system/orders.service.d")
    machine.write("/etc/systemd/system/orders.service.d/said.conf", SAID)
    shutil.copy(DEPLOY / "orders.service", f"/proc/{machine.pid}/root/root/")
    install = commands("operations.md", "systemd", block=1)
    *before, doctor = install.splitlines()
    machine.run("cd /root\n" + "\n".join(before))
    wait_ready(machine)
    assert "0 wrong" in machine.run(doctor)
    assert_confined(machine)
    answered = set()
    for step in range(steps):
        answered |= under_load(machine, commands("operations/keys.md", "The signing key of a log", block=step))
        assert signatures(trail) == [(1, 1), (2, 2)][step]
        wait_ready(machine)
    if steps == 2:  # a crash: systemd starts it again, in the same slots
        answered |= under_load(machine, "systemctl kill --signal=KILL orders")
        machine.wait_until("test $(systemctl show orders --property NRestarts --value) = 1")
        wait_ready(machine)
    vkey = machine.run("audit-async keys show /etc/orders/audit-key-2.pem --origin web-1/orders/00")
    assert vkey.startswith("web-1/orders/00+")
    answered |= under_load(machine, "systemctl stop orders")
    assert signatures(trail) == [(2, 2), (1, 1)][steps - 1]
    assert machine.run("systemctl show orders --property Result --value").strip() == "success"

    recorded = set()
    assert len(logs_below(trail / "orders")) == 2
    for log in logs_below(trail / "orders"):
        check_trail(log)
        events = [record["event"] for record in read_events(log)]
        types = [event["event_type"] for event in events]
        assert types.count("audit.log_closed") == steps + 1, "systemd had to kill it"
        # A third time after the crash, if no checkpoint was signed by the new key alone before it.
        assert types.count("audit.signing_keys_changed") in {steps, 2 * steps - 1}
        recorded |= {event["resource"]["resource_id"] for event in events if event["event_type"] == "resource.read"}
    assert answered - recorded == set()


def assert_confined(machine: Machine) -> None:
    """Assert that the kernel does to each process of the service what the unit says."""
    pids = machine.run("cat /sys/fs/cgroup/system.slice/orders.service/cgroup.procs").split()
    user = machine.run("id -u orders").strip()
    assert len(pids) >= 3, "the supervisor and two workers"
    for pid in pids:
        status = dict(re.findall(r"^(\w+):\s+(\S+)", machine.run(f"cat /proc/{pid}/status"), re.MULTILINE))
        assert status["Uid"] == user != "0"
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    inside = f"nsenter --target {pids[0]} --mount --root"
    assert not machine.succeeds(f"{inside} touch /opt/orders/here")
    assert not machine.succeeds(f"{inside} ls /dev/vda /root/orders.service")
    assert machine.run("stat -c '%U %a' /var/lib/orders /var/lib/orders/audit").split() == 2 * ["orders", "700"]
    environment = machine.run(f"tr '\\0' '\\n' < /proc/{pids[0]}/environ")
    assert "PRIVATE KEY" not in environment


#: Where each of the other units needs something of its own, and what shows that it works.
OTHERS = {
    "audit-deliver": "curl -sf http://127.0.0.1:9465/health && test -s /var/lib/audit-deliver/out.ndjson",
    "audit-serve": "curl -sf -H 'X-Forwarded-User: carol' -H 'Host: audit.example.org' http://127.0.0.1:8484/",
    "audit-forward": 'test -n "$(find /srv/engine -type f -size +0)"',
    "audit-collect": "test -s /srv/audit/acme/*/orders/*/000000000000-*.audit",
    "audit-report": "ls /var/lib/audit-reports/soc2-*.html",
}
CONFIGURATION = {
    "deliver.toml": 'base_dir = "/var/lib/audit"\nstate_dir = "/var/lib/audit-deliver"\n[[sink]]\nname = "file"\n'
    'type = "file"\npath = "/var/lib/audit-deliver/out.ndjson"\n',
    "roles.toml": '[people.carol]\nrole = "auditor"\n',
    "forward.env": "AUDIT_ENGINE_URL=file:///srv/engine\nAUDIT_TENANT=acme\n",
    "collect.env": "AUDIT_ENGINE_URL=file:///srv/engine\nAUDIT_TENANT=acme\n",
    "report.env": "AUDIT_BASE_DIR=/var/lib/audit\nAUDIT_REPORT_DIR=/var/lib/audit-reports\n"
    "AUDIT_REPORT_FRAMEWORK=soc2\n",
    "embed.key": "ab" * 32,
}


@pytest.mark.campaign
def test_the_other_units_work_confined(machine: Machine) -> None:
    """Each of them does what it is for, as the logs' owner and with the limits that it has."""
    machine.run("useradd --system --no-create-home audit && mkdir -p /etc/audit-async /srv/audit /srv/engine")
    machine.run("mkdir -m 0700 -p /var/lib/audit-reports")
    for name, text in CONFIGURATION.items():
        machine.write(f"/etc/audit-async/{name}", text)
    machine.run("audit-async keys new --out /etc/audit-async/collector.pem && install -d -m 0700 /var/lib/audit")
    anyio.run(record_one, machine.var_lib / "audit")
    DirectorySink.prepare(Path(f"/proc/{machine.pid}/root/srv/engine"))
    machine.run("chown -R audit /var/lib/audit /srv/audit /srv/engine /var/lib/audit-reports")
    shutil.copy(DEPLOY / "audit-report.sh", f"/proc/{machine.pid}/root/usr/local/bin/")
    for name, shows in OTHERS.items():
        machine.run(f"mkdir /etc/systemd/system/{name}.service.d")
        machine.write(f"/etc/systemd/system/{name}.service.d/said.conf", f"{SAID}ReadWritePaths=-/srv/engine\n")
        shutil.copy(DEPLOY / f"{name}.service", f"/proc/{machine.pid}/root/etc/systemd/system/")
        machine.run(f"systemctl daemon-reload && systemctl start {name}")
        machine.wait_until(f"({shows}) > /dev/null")
        machine.run(f"systemctl stop {name}")
        assert machine.run(f"systemctl show {name} --property Result --value").strip() == "success", machine.said()


async def record_one(base_dir: Path) -> None:
    """Write a log that was ended in order."""
    async with AuditLogger(AuditConfig(mode=Local(base_dir), service_id="orders")) as audit:
        audit.emit(Counted(producer="here", n=1))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_a_unit_well_confined(tmp_path: Path, unit: Path) -> None:
    """By `systemd-analyze security`: what docs/operations.md says, of a scale that ends with 10 for no limits."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    here = tmp_path / unit.name
    here.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE))
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(here)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    exposure = re.search(r"exposure level for .*: ([\d.]+)", found.stdout)
    assert exposure is not None, found.stderr
    assert float(exposure[1]) < 2.5
