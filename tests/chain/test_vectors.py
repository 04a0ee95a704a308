"""The test vectors in docs/vectors: our verifiers, the one in docs/format.md, and `sha256sum` agree on them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from audit_async import standalone
from audit_async._chain import BadRecord, Head, check_record
from audit_async._chain.bulk_check import Bad, ChainChecker, Good

DOCS = Path(__file__).parents[2] / "docs"
VECTORS = DOCS / "vectors"
LINES: list[dict[str, Any]] = json.loads((VECTORS / "lines.json").read_bytes())["lines"]

Check = Callable[[bytes, int | None, bytes | None], tuple[int, bytes] | None]


@pytest.fixture(scope="module")
def printed_check() -> Check:
    """The function that docs/format.md prints."""
    code, _ = re.findall(r"```python\n(.*?)```", (DOCS / "format.md").read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "printed"}
    exec(code, namespace)  # noqa: S102 - it is ours, and running it is the point
    check: Check = namespace["check"]
    return check


def named(case: dict[str, Any]) -> str:
    """Return the name of a vector."""
    return str(case["file"]).partition("/")[2]


@pytest.mark.parametrize("case", LINES, ids=named)
def test_every_verifier_agrees_on_a_line(case: dict[str, Any], printed_check: Check) -> None:
    """One at a time, many at once, by the file that stands alone, and by the page that describes the format."""
    line = (VECTORS / case["file"]).read_bytes()
    after = Head(case["after"]["seq"], case["after"]["hash"].encode()) if case["after"] is not None else None
    try:
        check_record(line, after)
        accepted = True
    except BadRecord:
        accepted = False
    assert accepted == case["valid"], case["why"]
    if line.endswith(b"\n") and line.count(b"\n") == 1:
        (outcome,) = ChainChecker(after).check_lines(line)
        assert isinstance(outcome, Good if case["valid"] else Bad)
    due = (after.seq + 1, after.hash) if after is not None else (None, None)
    expected = case["valid"] or case.get("only_by_parsing", False)
    assert (printed_check(line, *due) is not None) == expected, case["why"]
    record = standalone.RECORD.fullmatch(line)
    alone = record is not None and standalone.is_whole(line, record[4])
    if record is not None and after is not None:
        alone = alone and (int(record[1]), record[3]) == due
    assert alone == expected, case["why"]


def test_the_hash_is_what_sha256sum_says() -> None:
    """Of the line without its last 76 bytes, and a brace."""
    for case in LINES:
        line = (VECTORS / case["file"]).read_bytes()
        if case["valid"]:
            said = subprocess.run(["sha256sum"], input=line[:-76] + b"}", capture_output=True, timeout=180, check=True)
            assert said.stdout.split()[0] == line[-67:-3] == sha256(line[:-76] + b"}").hexdigest().encode()
            assert line[-155:-141] == b',"prev_hash":"'


def test_the_valid_lines_are_one_chain() -> None:
    """Each is the one that the next is linked to."""
    chain = [case for case in LINES if case["valid"] and case["after"] is not None]
    data = b"".join((VECTORS / case["file"]).read_bytes() for case in chain)
    (outcome,) = ChainChecker(Head(-1, b"0" * 64)).check_lines(data)
    assert isinstance(outcome, Good)
    assert [record.seq for record in outcome.records] == list(range(5))
