"""A machine with a real systemd as process 1, in namespaces of its own, for the units of `examples/deploy/`.

Its file system is an overlay in memory over this machine's, so that nothing in it reaches a file outside, but for
`/var/lib`, which is the directory that it is given. It has a network of its own, and no unit of the distribution: only
what a test copies to `/etc/systemd/system`. `/opt/orders` has the service as docs/operations.md installs it.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.deploy.recipes import DEPLOY
from tests.integrations.servers import Visitors
from tests.processes import PATIENCE_S

_PROJECT = DEPLOY.parents[1]
_SYSTEMD = next((path for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if Path(path).exists()), None)
_PROGRAMS = ("bash", "chroot", "curl", "ip", "mount", "nsenter", "unshare", "useradd")
_UNSHARE = ("unshare", "--pid", "--mount", "--cgroup", "--ipc", "--uts", "--net", "--fork", "--kill-child")
_NSENTER = ("--pid", "--mount", "--cgroup", "--ipc", "--uts", "--net", "--root", "--wd")
#: What systemd and its commands know of the outside: no unit and no generator of the distribution runs.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SYSTEMD_UNIT_PATH": "/etc/systemd/system",
    "SYSTEMD_GENERATOR_PATH": "/nonexistent",
    "SYSTEMD_LOG_LEVEL": "err",
    "container": "test",
}
_TARGETS = ("sysinit", "basic", "multi-user", "network-online", "timers", "shutdown", "umount", "final")
_CLONE_NEWNET = 0x40000000

#: $1: an empty directory; $2: the machine's /var/lib; $3: the project; $4: Python; $5: its packages; $6: its version.
_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
root=$1/root
mount -t proc proc "$root/proc"
mount -o bind,ro /proc/sys "$root/proc/sys"
mount --rbind /dev "$root/dev"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for place in run tmp var/tmp etc/systemd/system; do mount -t tmpfs -o mode=0755 tmpfs "$root/$place"; done
chmod 1777 "$root/tmp" "$root/var/tmp"
mount --bind "$2" "$root/var/lib"
packages=$root/opt/orders/venv/lib/python$6/site-packages
mkdir -p "$root/opt/python" "$packages" "$root/opt/orders/audit_async" "$root/opt/orders/venv/bin"
mount -o bind,ro "$3/audit_async" "$root/opt/orders/audit_async"
mount -o bind,ro "$4" "$root/opt/python"
mount -o bind,ro "$5" "$packages"
cp "$3"/examples/deploy/orders_service.py "$root/opt/orders/"
venv=/opt/orders/venv
echo "home = /opt/python/bin" > "$root$venv/pyvenv.cfg"
ln -s "/opt/python/bin/python$6" "$root$venv/bin/python"
main='from uvicorn.main import main\\nif __name__ == "__main__": main()\\n'
printf "#!$venv/bin/python\\n$main" > "$root$venv/bin/uvicorn"
command=$root/usr/local/bin/audit-async
printf '#!/bin/sh\\nPYTHONPATH=/opt/orders exec %s/bin/python -m audit_async.cli "$@"\\n' $venv > "$command"
chmod 0755 "$root$venv/bin/uvicorn" "$command"
for target in $TARGETS; do
    printf '[Unit]\\nDescription=%s\\nDefaultDependencies=no\\n' "$target" > "$root/etc/systemd/system/$target.target"
done
mount --make-rshared "$root"  # as systemd has it on a host: credentials are mounted in a child that shares this
exec chroot "$root" "$SYSTEMD" --system --unit=multi-user.target
"""


class Machine:
    """A machine that runs; `pid` is its process 1 as this machine sees it."""

    def __init__(self, pid: int, var_lib: Path) -> None:
        self.pid = pid
        self.var_lib = var_lib  #: its /var/lib, seen from here

    def _inside(self, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--target", str(self.pid), *_NSENTER]
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, timeout=120, check=False, env=_ENVIRONMENT | environment
        )

    def run(self, script: str, **environment: str) -> str:
        """Run shell commands as root, which ends at the first one that fails; return what they wrote."""
        ended = self._inside(["bash", "-e", "-u", "-o", "pipefail", "-c", script], environment)
        assert ended.returncode == 0, f"{script}\n{ended.stdout}{ended.stderr}{self.said()}"
        return ended.stdout

    def succeeds(self, script: str) -> bool:
        """Return whether shell commands end with status 0."""
        return self._inside(["bash", "-e", "-u", "-c", script], {}).returncode == 0

    def wait_until(self, script: str) -> None:
        """Return once shell commands end with status 0; fail after a minute."""
        self.run(f"for _ in $(seq 600); do if {script}; then exit 0; fi; sleep 0.1; done; exit 1")

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        Path(f"/proc/{self.pid}/root", path.lstrip("/")).write_text(text, encoding="utf-8")

    def said(self) -> str:
        """Return what the units wrote, if they write to `/run/said`."""
        path = Path(f"/proc/{self.pid}/root/run/said")
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def enter_network(self) -> None:
        """Let the thread that calls connect to this machine from now on, and to nothing else."""
        with Path(f"/proc/{self.pid}/ns/net").open("rb") as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")


class VisitorsInside(Visitors):
    """Visitors of a service on a machine."""

    def __init__(self, machine: Machine, address: str) -> None:
        super().__init__(address, path=lambda n: f"/orders/{n}")
        self._machine = machine

    def wait_for_answers(self, count: int) -> None:
        """Return once so many requests were answered."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.answered) < count:
            assert any(thread.is_alive() for thread in self._threads), self._machine.said()
            assert time.monotonic() < deadline, self._machine.said()
            time.sleep(0.02)

    def _visit(self) -> None:
        self._machine.enter_network()
        super()._visit()


def why_no_machine(directory: Path) -> str | None:
    """Return why no machine can run here, None if one can."""
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)}: not there"
    if _SYSTEMD is None:
        return "systemd is not there"
    if os.geteuid() != 0:
        return "only root can run a systemd in namespaces of its own"
    if _cgroup() is None:
        return "there is no hierarchy of cgroups, version 2"
    tries = 'mount --make-rprivate / && mount -t tmpfs tmpfs "$1" && mkdir "$1/upper" "$1/work" "$1/root" && '
    tries += 'mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"'
    tried = subprocess.run(
        [*_UNSHARE, "sh", "-c", tries, "tried", str(directory)], capture_output=True, text=True, timeout=60, check=False
    )
    return None if tried.returncode == 0 else f"no machine can run here: {tried.stderr.strip()}"


@contextmanager
def running_machine(directory: Path) -> Iterator[Machine]:
    """Run a machine until the end of the block; `directory` is empty, and keeps what is in its `/var/lib`."""
    root, var_lib = directory / "machine", directory / "var-lib"
    root.mkdir()
    var_lib.mkdir()
    cgroup = Path(str(_cgroup()), f"audit-async-{os.getpid()}")
    cgroup.mkdir()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    places = [root, var_lib, _PROJECT, sys.base_prefix, sysconfig.get_path("purelib"), version]
    log = directory / "machine.log"
    # First into a cgroup of its own, which is then the root of all that it knows.
    enter = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup)]
    with log.open("w") as output:
        unshare = subprocess.Popen(
            [*enter, *_UNSHARE, "sh", "-c", _BOOT, "boot", *map(str, places)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=_ENVIRONMENT | {"TARGETS": " ".join(_TARGETS), "SYSTEMD": str(_SYSTEMD)},
        )  # fmt: skip
    try:
        machine = Machine(_first_process(unshare, log), var_lib)
        machine.wait_until("systemctl is-active multi-user.target")
        machine.run("ip link set lo up")
        yield machine
    finally:
        unshare.kill()
        unshare.wait()
        _remove(cgroup)


def _cgroup() -> Path | None:
    """Return the directory of this process's cgroup, version 2; None if there is none that can be written."""
    (own,) = re.findall(r"^0::(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE) or [None]
    mounted = re.findall(r"^(?:\S+ ){4}(\S+) .* - cgroup2 ", Path("/proc/self/mountinfo").read_text(), re.MULTILINE)
    if own is None or not mounted:
        return None
    path = Path(mounted[0], own.lstrip("/"))
    return path if os.access(path, os.W_OK) else None


def _remove(cgroup: Path) -> None:
    """Remove a cgroup whose processes were killed, and those in it, once the kernel has seen their end."""
    deadline = time.monotonic() + PATIENCE_S
    while cgroup.exists():
        for directory in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                directory.rmdir()
        with suppress(OSError):
            cgroup.rmdir()
            return
        assert time.monotonic() < deadline, f"{cgroup} can't be removed"
        time.sleep(0.02)


def _first_process(unshare: subprocess.Popen[bytes], log: Path) -> int:
    """Return the pid of process 1 once systemd has taken the shell's place there."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert unshare.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        pids = children.read_text().split()
        if pids and Path(f"/proc/{pids[0]}/comm").read_text() == "systemd\n":
            return int(pids[0])
        time.sleep(0.02)
