"""The recipes in `examples/deploy/`, read as systemd, a container engine and Kubernetes read them, and run confined."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"


class Recipe(NamedTuple):
    """What a recipe starts."""

    command: list[str]  #: as it is written, without the interpreter's path: `uvicorn --app-dir ...`
    environment: dict[str, str]
    stop_timeout_s: float  #: from SIGTERM to SIGKILL


def unit_settings(path: Path) -> dict[str, list[str]]:
    """Return the settings of a unit's section `[Service]`; systemd allows some of them several times."""
    section = path.read_text(encoding="utf-8").partition("[Service]\n")[2].partition("\n[")[0]
    settings: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", section, flags=re.MULTILINE):
        settings.setdefault(name, []).append(value)
    return settings


def systemd_recipe() -> Recipe:
    """Return what `orders.service` starts."""
    settings = unit_settings(DEPLOY / "orders.service")
    return Recipe(
        _without_path(shlex.split(settings["ExecStart"][0])),
        dict(variable.split("=", 1) for variable in settings["Environment"]),
        float(settings["TimeoutStopSec"][0]),
    )


def container_recipe() -> Recipe:
    """Return what the image of the `Dockerfile` starts."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    environment = re.search(r"^ENV (.*)$", text, flags=re.MULTILINE)
    command = re.search(r"^CMD (\[.*\])$", text, flags=re.MULTILINE)
    stop = re.search(r"--stop-timeout (\d+)", text)
    assert environment
    assert command, "CMD is a list, so that no shell is process 1"
    assert stop
    return Recipe(
        _without_path(json.loads(command[1])),
        dict(variable.split("=", 1) for variable in environment[1].split()),
        float(stop[1]),
    )


def manifests() -> dict[str, dict[str, Any]]:
    """Return the objects of `orders.kubernetes.yaml` by kind."""
    text = (DEPLOY / "orders.kubernetes.yaml").read_text(encoding="utf-8")
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


def _without_path(command: list[str]) -> list[str]:
    return [command[0].rpartition("/")[2], *command[1:]]


def option(command: list[str], name: str) -> str:
    """Return the value of a command's option."""
    return command[command.index(name) + 1]


_UNSHARE = ("unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")
#: The one directory that a confined command can write, under the name that it has there.
WRITABLE = Path("/srv")
#: Make the root read-only but for one directory, and give up every capability: ProtectSystem=strict, `--read-only`.
#: The user stays: Python may be in a home that no other user can read.
_CONFINE = f"""
set -e
mount --bind "$1" {WRITABLE}
mount -o remount,bind,ro /
cd {WRITABLE}
shift
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""


def confined_to(directory: Path) -> tuple[str, ...]:
    """Return what to put before a command: process 1, without a capability, that can write only there."""
    return (*_UNSHARE, "sh", "-c", _CONFINE, "confined", str(directory))


def why_not_confined(directory: Path) -> str | None:
    """Return why nothing can be confined here, None if it can."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return "unshare or setpriv is not there"
    command = [*confined_to(directory), sys.executable, "-c", "import audit_async"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return None if tried.returncode == 0 else f"nothing can be confined here: {tried.stderr.strip()}"


def first_process(unshare: int) -> int:
    """Return the pid, as this process sees it, of process 1 in the namespace that `unshare` has made."""
    (child,) = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
    return int(child)
