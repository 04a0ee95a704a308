"""Commands over many logs: what is wrong with one keeps no other waiting, and a lack of descriptors is called that."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit_async import AuditLogger
from audit_async._layout.holds_in_force import holds_in_sealed
from audit_async._layout.manifest import read_manifest
from audit_async._store import log_backup
from audit_async._trail.log_files import find_logs
from audit_async._trail.running_writer import writer_of
from audit_async.cli import main
from bench.long_trail import write_logs
from tests.cli.commands import Audit, Ended

POLICY = ("--archive-after-days", "1", "--delete-after-days", "9999", "--min-retention-days", "1")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Give six logs of three services; each has one sealed segment."""
    write_logs(tmp_path / "t", 6, instances=2)
    return tmp_path / "t"


def damage(base_dir: Path) -> None:
    """Let the second log be one that no command can do its work on."""
    (base_dir / "svc-00000" / "01" / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    "arguments",
    [("backup", "FROM", "TO"), ("retention", "FROM", *POLICY), ("retention", "FROM", *POLICY, "--apply"),
     ("hold", "set", "FROM", "--as", "R. Roe", "--reason", "case 4711")],
)  # fmt: skip
def test_one_log_s_damage_keeps_no_other_waiting(
    arguments: tuple[str, ...], logs: Path, tmp_path: Path, audit: Audit
) -> None:
    """The others are done, the damaged one is named, and the status says that not everything was."""
    damage(logs)
    places = {"FROM": str(logs), "TO": str(tmp_path / "copy")}
    ended = audit(*(places.get(argument, argument) for argument in arguments), "--json")
    if arguments[0] == "hold":  # placed all the same, since a hold must not wait for a repair
        assert (ended.status, len(ended.document["logs"])) == (0, 6)
        return
    assert ended.status == 3
    done = [entry["log"] for entry in ended.document["logs"]]
    assert done == ["svc-00000/00", "svc-00001/00", "svc-00001/01", "svc-00002/00", "svc-00002/01"]
    (error,) = ended.document["errors"]
    assert error in ended.err.replace("\n", " ")
    assert "svc-00000/01" in error
    assert "manifest.json" in error


def test_what_was_not_restored_is_named(logs: Path, tmp_path: Path, audit: Audit) -> None:
    """The backup of one log is damaged; all others come back, and verify."""
    assert audit("backup", logs, tmp_path / "copy").status == 0
    damage(tmp_path / "copy")
    ended = audit("restore", tmp_path / "copy", tmp_path / "back", "--json")
    assert ended.status == 3
    assert len(ended.document["logs"]) == 5
    assert "svc-00000/01" in ended.document["errors"][0]
    assert audit("verify", tmp_path / "back" / "svc-00002").status == 0


def test_the_only_log_s_damage_ends_a_command_as_before(logs: Path, tmp_path: Path, audit: Audit) -> None:
    """There is no other to go on with: the error's own status, 1 for damage."""
    damage(logs)
    ended = audit("backup", logs / "svc-00000" / "01", tmp_path / "copy", "--json")
    assert (ended.status, ended.out) == (1, "")


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process have no file descriptor left, by the limit that the system sets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nothing_is_said_of_what_could_not_be_opened(logs: Path) -> None:
    """No log is called free, no segment without a hold, no archive damaged, because no descriptor was left."""
    log = find_logs(logs)[0]
    (entry,) = read_manifest(log.directory)
    assert holds_in_sealed(log.directory, entry).is_complete
    assert writer_of(log) is None
    with no_descriptors():
        for answer in (
            lambda: writer_of(log),
            lambda: holds_in_sealed(log.directory, entry),
            lambda: log_backup._is_whole(log.directory, entry),
        ):
            with pytest.raises(OSError, match="Too many open files") as caught:
                answer()
            assert caught.value.errno == errno.EMFILE


def run_with_descriptors(arguments: list[str], limit: int, scratch: Path) -> Ended:
    """Run a command in a fork that may have so many descriptors, and no others than the first three at its start."""
    child = os.fork()
    if not child:
        status = 99
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(scratch / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            os.closerange(3, 1024)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            status = main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(ended), (scratch / "out").read_text(), (scratch / "err").read_text())


COMMANDS = {
    "hold show": ("hold", "show", "FROM", "--json"),
    "hold set": ("hold", "set", "FROM", "--as", "x", "--reason", "y", "--json"),
    "doctor": ("doctor", "FROM", "--json"),
    "retention": ("retention", "FROM", *POLICY, "--json"),
    "backup": ("backup", "FROM", "TO", "--json"),
    "restore": ("restore", "FROM", "TO", "--json"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_lack_of_descriptors_is_called_that(name: str, logs: Path, tmp_path: Path, audit: Audit) -> None:
    """With any limit, from one at which nothing can be opened: never a question of rights, never damage."""
    assert AuditLogger is not None  # imported, as the command is here, so that the forks need no descriptor for it
    audit(*(str(logs) if part == "FROM" else str(tmp_path / "warm") for part in COMMANDS[name]))
    enough: set[int] = set()
    for limit in range(6, 16):
        source, target = tmp_path / f"from{limit}", tmp_path / f"to{limit}"
        shutil.copytree(logs, source)
        for directory in source.rglob("*/"):
            directory.chmod(0o700)
        places = {"FROM": str(source), "TO": str(target)}
        ended = run_with_descriptors([places.get(part, part) for part in COMMANDS[name]], limit, tmp_path)
        said = ended.out + ended.err
        assert ended.status in {0, 3}, (limit, said)
        for wrong in ("user who owns", "system's log", "is missing", "damaged:", "Traceback", "not what the manifest"):
            assert wrong not in said, (limit, said)
        if ended.status:
            assert "Too many open files" in said, (limit, said)
        else:
            enough.add(limit)
    assert enough, "with sixteen it works, however many logs there are"
