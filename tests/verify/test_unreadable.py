"""What a verification can't read is said as such: never as a finding, never as valid, and with the reason.

The one who reads is a user without rights, in a process of his own, or a process without descriptors: both real.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from audit_async._trail.log_files import read_lines
from audit_async._verify import segment_check, void_copies
from audit_async.status import Position
from tests.trail.lived import LivedLog, verify
from tests.trail.signed import SigningLog

NOBODY = 65534

# Reads once with all rights, so that every module is imported; then gives them up, as an auditor has none.
_AS_NOBODY = """
import os, sys
from audit_async.cli import main
good, base, *options = sys.argv[1:]
main(["verify", good, *options])
sys.stdout.flush()
os.ftruncate(1, 0)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(["verify", base, *options]))
"""


@pytest.fixture
def log() -> Iterator[LivedLog]:
    """A log that anybody may read, with a segment deleted, one archived and several live."""
    with tempfile.TemporaryDirectory(prefix="audit-async-") as name:
        base = Path(name)
        base.chmod(0o755)
        lived = LivedLog(base / "audit").session(20).retain(archived=3, deleted=1)
        for path in [base, *base.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield lived
        for path in base.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)


def as_nobody(log: LivedLog | SigningLog, *options: str) -> tuple[int, str, str]:
    """Verify as a user without rights; return status, standard output and standard error.

    A log that anybody may read is verified before, as root, so that all that is needed is imported.
    """
    with tempfile.TemporaryDirectory() as name, (Path(name) / "out").open("wb+") as out:
        good = LivedLog(Path(name) / "good").session(1)
        command = [sys.executable, "-c", _AS_NOBODY, str(good.base_dir), str(log.base_dir), *options]
        ended = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, timeout=120, check=False)
        out.seek(0)
        return ended.returncode, out.read().decode().lstrip("\0"), ended.stderr.decode()


def pieces(log: LivedLog) -> dict[str, tuple[Path, str]]:
    """Return what can be closed to a reader, and what the report calls it."""
    archive = next((log.directory / "archive").iterdir())
    return {
        "sealed": (log.segments[0], log.segments[0].name),
        "active": (log.segments[-1], log.segments[-1].name),
        "checksum": (Path(f"{log.segments[0]}.sha256"), f"{log.segments[0].name}.sha256"),
        "manifest": (log.directory / "manifest.json", "manifest.json"),
        "identity": (log.directory / "log.json", "log.json"),
        "archive": (archive, f"archive/{archive.name}"),
        "archive directory": (log.directory / "archive", "archive"),
    }


@pytest.mark.parametrize(
    "what", ["sealed", "active", "checksum", "manifest", "identity", "archive", "archive directory"]
)
def test_a_piece_that_may_not_be_read_is_status_3_and_no_finding(log: LivedLog, what: str) -> None:
    """Nothing is said to be missing or changed; the file is named, and what to do."""
    assert as_nobody(log)[0] == 0
    path, name = pieces(log)[what]
    path.chmod(0)
    head = f"orders/00={log.head.seq}:{log.head.hash}"
    status, out, err = as_nobody(log, "--json", "--expected-head", head)
    assert status == 3, (out, err)
    report: dict[str, Any] = json.loads(out)
    assert report["findings"] == []
    assert report["valid"] is False
    assert name in [piece["file"] for piece in report["unreadable"]]
    assert all("as the user who owns it" in piece["reason"] for piece in report["unreadable"])
    assert "unclean_end" not in {note["kind"] for note in report["notes"]}
    status, out, err = as_nobody(log)
    assert status == 3
    assert "NOT valid" not in out
    assert "NOT verified" in out
    assert "Permission denied" in out


@pytest.mark.parametrize("mode", [0o000, 0o444])
@pytest.mark.parametrize("level", ["base", "service", "log"])
def test_a_directory_that_may_not_be_read_is_status_3(log: LivedLog, level: str, mode: int) -> None:
    """Whether its names can be listed (0444) or not."""
    path = {"base": log.base_dir, "service": log.directory.parent, "log": log.directory}[level]
    path.chmod(mode)
    status, out, err = as_nobody(log)
    assert status == 3, (out, err)
    assert "NOT valid" not in out
    assert "Permission denied" in out + err


def test_a_finding_counts_for_more_than_what_can_not_be_read(log: LivedLog) -> None:
    """Status 1, and both are shown."""
    log.edit(log.segments[1], lambda lines: lines[1:])
    log.segments[0].chmod(0)
    status, out, _ = as_nobody(log)
    assert status == 1
    assert "NOT valid" in out
    assert "Permission denied" in out


def test_unsealed_segments_after_one_that_can_not_be_read_are_not_called_a_gap(log: LivedLog) -> None:
    """Without a manifest each is linked to the one before, which may hold anything."""
    fresh = LivedLog(log.base_dir / "fresh").session(12)
    (fresh.directory / "manifest.json").unlink()
    assert fresh.report().valid
    for path in [fresh.base_dir, *fresh.base_dir.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    fresh.segments[1].chmod(0)
    status, out, err = as_nobody(fresh, "--json")
    assert status == 3, (out, err)
    assert json.loads(out)["findings"] == []


# Opens files until there are no more descriptors, gives a few back, and verifies.
_WITHOUT_DESCRIPTORS = """
import os, resource, sys
from audit_async.cli import main
good, base, left = sys.argv[1:]
main(["verify", good, "--json", "--processes", "1"])
sys.stdout.flush()
os.ftruncate(1, 0)
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for fd in taken[: int(left)]:
    os.close(fd)
sys.exit(main(["verify", base, "--processes", "1"]))
"""


@pytest.mark.parametrize("left", range(0, 14, 2))
def test_lack_of_descriptors_is_neither_a_finding_nor_lack_of_rights(log: LivedLog, left: int) -> None:
    """However few are left: the trail is verified, or it is said that descriptors are lacking."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with tempfile.TemporaryDirectory() as name, (Path(name) / "out").open("wb+") as file:
        good = LivedLog(Path(name) / "good").session(1)
        command = [sys.executable, "-c", _WITHOUT_DESCRIPTORS, str(good.base_dir), str(log.base_dir), str(left)]
        ended = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, timeout=120, check=False, preexec_fn=limit)
        file.seek(0)
        out = file.read().decode() + ended.stderr.decode()
    assert ended.returncode in {0, 3}, out
    assert "NOT valid" not in out
    assert "as the user who owns it" not in out
    if ended.returncode == 3:
        assert "Too many open files" in out


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_fails_while_it_is_read_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Not at the opening but in the middle of a segment; the head after it is not called missing."""
    lived = LivedLog(tmp_path / "audit").session()

    def failing(file: BinaryIO, **how: Any) -> Iterator[Any]:
        for lines in read_lines(file, **how):
            yield lines
            if os.fstat(file.fileno()).st_ino == lived.segments[-1].stat().st_ino:
                raise OSError(number, os.strerror(number))

    monkeypatch.setattr(segment_check, "read_lines", failing)
    monkeypatch.setattr(segment_check, "_CHUNK_BYTES", 500)
    for expected in (lived.head, Position(lived.head.seq + 5, "0" * 64)):
        report = lived.report(expected=expected)
        assert (report.valid, report.findings) == (False, ())
        (piece,) = report.unreadable
        assert (piece.log, piece.file) == ("orders/00", lived.segments[-1].name)
        assert os.strerror(number) in piece.reason


def test_void_copies_that_can_not_be_compared_are_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after a segment's records is judged only if it can be read."""
    lived = LivedLog(tmp_path / "audit").session()
    first, second, *_ = lived.segments
    first.chmod(0o600)
    first.write_bytes(first.read_bytes() + second.read_bytes())

    def failing(*_: object) -> BinaryIO:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert lived.report().valid
    monkeypatch.setattr(void_copies, "open_segment", failing)
    report = lived.report()
    assert report.findings == ()
    assert [piece.file for piece in report.unreadable] == [first.name]


def test_other_logs_are_verified_though_one_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One log's directory fails after it was found; the report says so and has the others."""
    LivedLog(tmp_path / "audit").session()
    broken = tmp_path / "audit" / "payments" / "00"
    broken.parent.mkdir()
    (tmp_path / "other").mkdir()
    LivedLog(tmp_path / "other").session().directory.rename(broken)
    listdir = os.listdir

    def failing(path: Any = ".") -> list[str]:
        if path == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", failing)
    report = verify(tmp_path / "audit")
    assert [(piece.log, piece.file) for piece in report.unreadable if piece.file == "."] == [("payments/00", ".")]
    assert [finding for finding in report.findings if finding.log == "orders/00"] == []
    assert report.logs[0].records > 0
