"""`verify` on the command line: what is found, where, and what to keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Audit
from tests.cli.made_trails import failure, make_trail
from tests.store.chained import Chain


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """The chain of a log of some segments in `t`."""
    return make_trail(tmp_path / "t", [failure("bob", n) for n in range(40)], max_bytes=4000)


def test_a_sound_trail(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """A sound trail is status 0, and its head is shown as `--expected-head` takes it."""
    ended = audit("verify", tmp_path / "t")
    assert ended.status == 0
    head = f"orders/00=39:{chain.head.hash.decode()}"
    assert head in ended.out
    assert audit("verify", tmp_path / "t", "--expected-head", head).status == 0
    document = audit("verify", tmp_path / "t", "--json").document
    assert (document["valid"], document["findings"]) == (True, [])
    assert document["logs"][0]["head"] == {"seq": 39, "hash": chain.head.hash.decode()}
    assert document["logs"][0]["records"] == 40


def test_without_a_head_it_says_what_cannot_be_seen(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """Without an expected head the report says that a rewritten or truncated end can't be seen."""
    kinds = {note["kind"] for note in audit("verify", tmp_path / "t", "--json").document["notes"]}
    assert "truncation_unseen" in kinds
    head = f"39:{chain.head.hash.decode()}"
    notes = audit("verify", tmp_path / "t", "--expected-head", head, "--json").document["notes"]
    assert "truncation_unseen" not in {note["kind"] for note in notes}


def test_a_changed_byte_is_shown(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """A finding is a row with log, segment, line, seq, byte and reason; the status is 1."""
    segment = sorted((tmp_path / "t" / "orders" / "00").glob("*.audit"))[1]
    segment.chmod(0o600)
    content = segment.read_bytes()
    second = content.splitlines(keepends=True)[1]
    segment.write_bytes(content.replace(second, second.replace(b'"bad"', b'"bax"')))
    seq = int(segment.name[:12]) + 1
    document = audit("verify", tmp_path / "t", "--json").document
    assert document["valid"] is False
    (found,) = [finding for finding in document["findings"] if finding["kind"] == "record"]
    assert (found["log"], found["segment"], found["line"], found["seq"]) == ("orders/00", segment.name, 2, seq)
    assert found["byte_offset"] == content.index(second)
    ended = audit("verify", tmp_path / "t")
    assert ended.status == 1
    row = next(line for line in ended.out.splitlines() if found["reason"] in line)
    assert row.split()[:5] == ["orders/00", segment.name, "2", str(seq), str(found["byte_offset"])]


def test_a_truncated_end_against_a_head(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """A log whose end was cut off is sound by itself, and found with a head that was kept."""
    head = f"orders/00=39:{chain.head.hash.decode()}"
    last = max((tmp_path / "t" / "orders" / "00").glob("*.audit"))
    last.write_bytes(b"".join(last.read_bytes().splitlines(keepends=True)[:-1]))
    assert audit("verify", tmp_path / "t").status == 0
    ended = audit("verify", tmp_path / "t", "--expected-head", head)
    assert ended.status == 1
    assert "NOT valid" in ended.out


@pytest.mark.parametrize(
    ("options", "records"),
    [
        (["--last", "5"], 5),
        (["--seq", "38-39"], 8),
        (["--since", "2026-11-22", "--until", "2026-11-22"], 40),
        (["--processes", "1"], 40),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_a_part_of_a_trail(options: list[str], records: int, chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """A part of a trail can be verified: its last records, a range of numbers, a time."""
    document = audit("verify", tmp_path / "t", *options, "--json").document
    assert document["valid"] is True
    assert document["logs"][0]["last_seq"] == 39
    assert records <= document["logs"][0]["records"] <= 40


def test_a_part_that_is_not_there_is_not_called_valid(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """Where a range has no record, nobody reads that every hash of it holds."""
    for options in (["--since", "2026-11-01", "--until", "2026-11-02"], ["--seq", "5000-6000"]):
        ended = audit("verify", tmp_path / "t", *options)
        assert ended.status == 0
        assert ended.out.startswith("nothing to verify")
        assert "every hash" not in ended.out
    assert "no record of seq 5000 to 6000 is in the log; only seq" in " ".join(ended.out.split())
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(6000)], instance="01")
    both = audit("verify", tmp_path / "t", "--seq", "5000-6000")
    assert both.out.startswith("valid")
    assert "orders/00 no record of seq 5000 to 6000" in " ".join(both.out.split())


def test_many_findings_are_bounded(tmp_path: Path, audit: Audit) -> None:
    """A person is shown the first hundred findings, and told how many more there are."""
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(250)])
    (segment,) = (tmp_path / "t" / "orders" / "00").glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b'"bad"', b'"bax"'))
    ended = audit("verify", tmp_path / "t")
    assert ended.status == 1
    assert ended.out.count("orders/00  ") <= 102
    assert "more; --json has them all" in ended.out


def test_a_state_on_the_command_line(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """What was verified before is said, never hidden in `valid`; `--full` and an old state read everything."""
    (tmp_path / "kept").mkdir(mode=0o700)
    state = tmp_path / "kept" / "state"
    assert audit("verify", tmp_path / "t", "--state", state).status == 0
    ended = audit("verify", tmp_path / "t", "--state", state)
    assert ended.status == 0
    assert "verified before: 20" in ended.out
    assert audit("verify", tmp_path / "t", "--state", state, "--json").document["logs"][0]["records"] == 0
    for options in (["--full"], ["--full-every", "0s"]):
        ended = audit("verify", tmp_path / "t", "--state", state, *options)
        assert "verified before" not in ended.out
        assert "everything was read" in ended.out
    last = max((tmp_path / "t" / "orders" / "00").glob("*.audit"))
    last.write_bytes(b"".join(last.read_bytes().splitlines(keepends=True)[:-1]))
    assert audit("verify", tmp_path / "t").status == 0
    assert audit("verify", tmp_path / "t", "--state", state).status == 1


@pytest.mark.parametrize(
    "options",
    [["--full"], ["--full-every", "7d"], ["--state", "s", "--last", "3"], ["--state", "s", "--full-every", "7 years"]],
)
def test_wrong_usage_of_a_state(options: list[str], chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """Options that say nothing without each other, or contradict each other."""
    ended = audit("verify", tmp_path / "t", *options)
    assert ended.status == 2
    assert "state" in ended.err or "no length of time" in ended.err


def test_a_state_in_the_trail_is_wrong_usage(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """The message says where to keep it."""
    ended = audit("verify", tmp_path / "t", "--state", tmp_path / "t" / "state")
    assert ended.status == 2
    assert "on the machine that verifies" in " ".join(ended.err.split())
