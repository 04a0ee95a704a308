"""The whole logs in docs/vectors: both verifiers say of each what docs/format.md promises, and so does `sha256sum`."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from audit_async import standalone
from tests.trail.lived import verify
from tests.trails import run_verify_trail

DOCS = Path(__file__).parents[2] / "docs"
VECTORS = DOCS / "vectors"
LOGS: list[dict[str, Any]] = json.loads((VECTORS / "logs.json").read_bytes())["logs"]


def named(case: dict[str, Any]) -> str:
    """Return the name of a vector."""
    return str(case["directory"]).split("/")[1]


@pytest.mark.parametrize("case", LOGS, ids=named)
def test_both_verifiers_agree_with_the_vector(case: dict[str, Any]) -> None:
    """Valid or not, the head, and for `audit-async verify` the kinds of what is found and noted."""
    base_dir = (VECTORS / case["directory"]).parents[1]
    report = verify(base_dir)
    assert report.valid == case["valid"], case["why"]
    assert [{"kind": found.kind, "segment": found.segment} for found in report.findings] == case["findings"]
    assert sorted({note.kind for note in report.notes} - {"truncation_unseen"}) == case["notes"]
    head = report.logs[0].head
    assert (head._asdict() if head is not None else None) == case["head"]
    out = StringIO()
    with redirect_stdout(out):
        status = standalone.main([str(base_dir)])
    assert status == (0 if case["valid"] else 1), out.getvalue()
    if case["valid"]:
        assert f"seq {case['head']['seq']}, hash {case['head']['hash']}" in out.getvalue()
    alone = run_verify_trail(base_dir)  # without zstd
    assert alone.returncode == status, alone.stdout


def test_the_checksums_are_what_sha256sum_says() -> None:
    """The files are in its format, and the manifest has the same hashes."""
    directory = VECTORS / "logs/valid/orders/00"
    checksums = sorted(path.name for path in directory.glob("*.sha256"))
    command = ["sha256sum", "--check", "--strict", *checksums]
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=180, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    entries = json.loads((directory / "manifest.json").read_bytes())["segments"]
    assert [entry["segment"] + ".sha256" for entry in entries] == checksums


def test_the_check_that_the_page_prints_follows_the_chain() -> None:
    """Run as it is printed, over the segments of the valid log and of one in which a record was changed."""
    code, *_ = re.findall(r"```python\n(.*?)```", (DOCS / "format.md").read_text(encoding="utf-8"), re.DOTALL)
    for case in LOGS:
        if named(case) in {"valid", "record-changed", "record-removed"}:
            segments = sorted((VECTORS / case["directory"]).glob("*.audit"))
            content = b"".join(path.read_bytes() for path in segments)
            ended = subprocess.run(["python3", "-c", code], input=content, capture_output=True, timeout=60, check=False)
            assert (ended.returncode == 0) == case["valid"]
            if case["valid"]:
                assert ended.stdout.decode().split() == [str(case["head"]["seq"]), case["head"]["hash"]]
