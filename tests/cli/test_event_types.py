"""`--type` with what is no recorded type: a class, a category, a typo; and with a type of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit_async.cli import event_types
from tests.cli.commands import Audit, run_on_terminal
from tests.cli.made_trails import erasure, failure, make_trail


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """A trail with two events of the library's types, and one of a type that only its service knows."""
    own = json.dumps({"event_type": "invoice.paid", "invoice_id": 7}).encode()
    make_trail(tmp_path / "t", [failure("bob"), erasure("c-1"), own])
    return tmp_path / "t"


COMMANDS = [["query"], ["tail"], ["stats"], ["export"]]


def run(audit: Audit, command: list[str], trail: Path, *options: str) -> tuple[int, str, str]:
    """Run a command that takes filters."""
    target = [str(trail.with_name("out.ndjson"))] if command == ["export"] else []
    return tuple(audit(*command, trail, *target, *options))  # type: ignore[return-value]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("auth", "it is a category: give 'auth.*'"),
        ("auth.", "it is a category: give 'auth.*'"),
        ("Security", "it is a category: give 'security.*'"),
        ("auth.falure", "did you mean auth.failure?"),
        ("AUTH.FAILURE", "did you mean auth.failure?"),
        ("rate_limit_exceeded", "did you mean security.rate_limit_exceeded?"),
        ("Authfailure", "did you mean"),
        ("auht.*", "did you mean 'auth.*'?"),
        ("xyzzy", "types begin with access., "),
    ],
)
def test_a_type_that_there_is_not(command: list[str], given: str, hint: str, trail: Path, audit: Audit) -> None:
    """What finds nothing because it is no type is wrong usage, and the message says what there is."""
    status, out, err = run(audit, command, trail, "--type", given)
    assert (status, out) == (2, "")
    assert err.startswith("audit-async: --type: ")
    assert hint in err
    assert not trail.with_name("out.ndjson").exists()


def test_a_class_is_its_type(trail: Path, audit: Audit) -> None:
    """An event's class is as good as its type, for the built-in ones and those of one's own."""
    assert [row["seq"] for row in audit("query", trail, "--type", "AuthFailure", "--json").rows] == [0]
    assert audit("query", trail, "--type", "DataDeleted", "--json").rows[0]["event"]["event_type"] == "data.deleted"
    (access, *_) = [audit("query", trail, "--service", "orders", "--type", "AuthFailure", "--as", "joe")]
    assert access.status == 0
    (row,) = audit("query", trail, "--type", "audit.log_accessed", "--json").rows
    assert row["event"]["query"] == {"event_types": ["auth.failure"]}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("given", ["invoice.paid", "invoice.*", "*.paid", "auth.success", "auth.*", "[i]nvoice.paid"])
def test_what_is_in_the_trail_or_known_is_a_type(command: list[str], given: str, trail: Path, audit: Audit) -> None:
    """A type that only the trail has is one, and so is a known one of which there is no record."""
    assert run(audit, command, trail, "--type", given)[0] == 0


def test_a_type_of_other_records_than_the_wanted_ones(trail: Path, audit: Audit) -> None:
    """That a type is in the trail counts, whatever else is asked for."""
    ended = audit("query", trail, "--type", "invoice.paid", "--actor", "bob", "--since", "1h")
    assert (ended.status, ended.err) == (0, "0 records\n")


def test_following_waits_for_a_type_that_is_not_there_yet(trail: Path) -> None:
    """`tail -f` says that a type is not known, and follows: its first record may come."""
    status, written = run_on_terminal(
        "tail", "-f", trail, "--type", "invoice.sent", until=lambda out: b"no type that this program knows" in out
    )
    assert status == 130
    assert b"did you mean" in written or b"types begin with" in written


def test_a_large_trail_is_not_searched_to_its_end(trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """If looking for a type would take long, a remark says that it is not known, and the query decides."""
    monkeypatch.setattr(event_types, "_MOST_PIECES", 1)
    ended = audit("query", trail, "--type", "auth.falure")
    assert ended.status == 0
    assert "no type that this program knows; did you mean auth.failure?" in ended.err
