"""docs/getting-to-production.md, walked from its beginning to its end in an empty directory."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.commands import environment
from tests.deploy.recipes import DEPLOY
from tests.deploy.runbooks import DOCS
from tests.ports import free_ports
from tests.trails import check_trail, logs_below, read_events

PAGE = (DOCS / "getting-to-production.md").read_text(encoding="utf-8")
#: The ports of the page, and how many in a row each of them needs.
PORTS = {"8000": 1, "9470": 2, "9099": 1, "9465": 1, "8484": 1}

#: As a browser follows the link: it gets a cookie, and the page of records.
SIGN_IN = "curl -sf -c jar -b jar -L $(grep -o 'http://[^ ]*sign-in[^ ]*' said) | grep -o '<title>Records.*'"


def blocks(kind: str) -> list[str]:
    """Return the page's blocks of a kind, without prompts."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return ["".join(line.removeprefix("$ ") for line in block.splitlines(keepends=True)) for block in found]


def on_other_ports(text: str, ports: dict[str, int]) -> str:
    """Return a text with the ports that are free here."""
    return re.sub(rf"\b(?:{'|'.join(ports)})\b", lambda port: str(ports[port[0]]), text)


def test_the_page_is_walked(tmp_path: Path) -> None:
    """Each command ends with status 0; the alert reaches the webhook, the records the SIEM, and the logs are closed."""
    ports = {port: free_ports(count) for port, count in PORTS.items()}
    for name in ("orders_service.py", "webhook_receiver.py"):
        shutil.copy(DEPLOY / name, tmp_path)
    (settings,) = blocks("toml")
    (tmp_path / "deliver.toml").write_text(on_other_ports(settings, ports))
    install, *walk = blocks("console")
    assert "pip install" in install, "the environment of the tests has it"
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, module in {"python": "", "uvicorn": "-m uvicorn", "audit-async": "-m audit_async.cli"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (programs / name).chmod(0o755)
    said = tmp_path / "said"
    expected = re.findall(r"^```text\n(.*?)\(", PAGE, re.DOTALL | re.MULTILINE)[0]
    script = on_other_ports("\n".join(walk), ports)
    for command, then in (
        (" --status", f"until grep -q {expected[:20]!r} said; do sleep 0.1; done"),
        (" --as alice &", f"until grep -q sign-in said; do sleep 0.1; done; {SIGN_IN}"),
    ):  # what a reader waits for, and opens in a browser
        assert script.count(f"{command}\n") == 1
        script = script.replace(f"{command}\n", f"{command}\n{then}\n")
    script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\nPATH={programs}:$PATH\n{script}"
    with said.open("w") as output:
        ended = subprocess.run(
            ["timeout", "600", "bash", "-e", "-u", "-o", "pipefail", "-c", script],
            cwd=tmp_path, stdout=output, stderr=output, check=False, env=environment(),
        )  # fmt: skip
    text = said.read_text()
    assert ended.returncode == 0, text
    assert expected in text
    assert text.count("/siem ") >= 5
    assert "<title>Records" in text
    assert text.count("valid  ") >= 3
    assert "is writing the log" not in text.rpartition("valid  ")[2]
    for log in logs_below(tmp_path / "trail" / "orders"):
        check_trail(log)
        *_, last = read_events(log)
        assert last["event"]["event_type"] == "audit.log_closed"
