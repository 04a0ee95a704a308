"""`doctor` and `config check`: what is wrong is found, and nothing is changed by looking."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger
from audit_async._layout.names import INDEX_ENDING
from audit_async._trail import log_files, running_writer
from audit_async._trail.log_files import Log, SegmentFile
from audit_async.cli.diagnosis import host_checks, log_checks
from audit_async.errors import LogCorrupted
from tests.cli.commands import Audit, environment
from tests.cli.made_trails import failure, make_trail
from tests.cli.running_service import running_service
from tests.ports import free_port
from tests.store.chained import Chain, open_store
from tests.store.failing_disk import mounted

CONFIGS = sorted((Path(__file__).parents[2] / "examples" / "config").glob("*.toml"))


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """A sound trail."""
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(40)], max_bytes=4000)
    return tmp_path / "t"


def log_of(trail: Path) -> Path:
    """Return the log's directory."""
    return trail / "orders" / "00"


def checks(audit: Audit, trail: Path, *options: str | Path) -> dict[str, list[tuple[str, str]]]:
    """Return what the doctor found, by the check's name."""
    ended = audit("doctor", trail, *options, "--json")
    document: dict[str, Any] = ended.document
    found: dict[str, list[tuple[str, str]]] = {}
    for check in document["checks"]:
        found.setdefault(check["name"], []).append((check["status"], check["text"]))
    fails = any(check["status"] == "fail" for check in document["checks"])
    assert document["healthy"] is not fails
    assert ended.status == (1 if fails else 0)
    return found


def test_what_could_not_be_looked_at_has_a_status_of_its_own(
    trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither healthy nor wrong, as far as it is known: a bucket that does not answer."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    bucket = f"s3://audit?endpoint=http://127.0.0.1:{free_port()}&region=us-east-1"
    ended = audit("doctor", trail, "--bucket", bucket, "--json")
    assert (ended.status, ended.document["healthy"]) == (3, False)
    assert [check["subject"] for check in ended.document["checks"] if check["unreadable"]] == ["bucket"]


def test_a_healthy_trail(trail: Path, audit: Audit) -> None:
    """A sound trail has no failing check, every check has its line, and nothing is changed by looking."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in trail.rglob("*")}
    ended = audit("doctor", trail)
    assert ended.status == 0
    for name in ("base directory", "disk", "clock", "lock", "permissions", "segments", "last session"):
        assert name in ended.out
    assert "0 wrong" in ended.out
    assert {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in trail.rglob("*")} == before


@pytest.mark.parametrize("at", ["", "orders", "orders/00"])
def test_a_directory_that_others_can_write_to(at: str, trail: Path, audit: Audit) -> None:
    """Wherever others could replace files, the check fails and says what to run."""
    (trail / at).chmod(0o777)
    found = checks(audit, trail)
    texts = [text for status, text in found["base directory"] + found["permissions"] if status == "fail"]
    assert any("chmod go-w" in text for text in texts)


def test_files_that_are_not_as_they_should_be(trail: Path, audit: Audit) -> None:
    """A link, and a file that others can write to, fail; a log that others can read is worth a look."""
    (log_of(trail) / "link").symlink_to("/etc/passwd")
    (log_of(trail) / "manifest.json").chmod(0o666)
    texts = [text for status, text in checks(audit, trail)["permissions"] if status == "fail"]
    assert len(texts) == 2
    (log_of(trail) / "link").unlink()
    (log_of(trail) / "manifest.json").chmod(0o600)
    log_of(trail).chmod(0o755)
    assert [status for status, _ in checks(audit, trail)["permissions"]] == ["warn"]


def test_segments_that_are_gone_or_cut(trail: Path, audit: Audit) -> None:
    """A sealed segment that is missing or has another size fails, without reading any of them."""
    first, second, *_ = sorted(log_of(trail).glob("*.audit"))
    first.unlink()
    second.chmod(0o600)
    os.truncate(second, 10)
    texts = [text for status, text in checks(audit, trail)["segments"] if status == "fail"]
    assert len(texts) == 2
    assert "missing" in texts[0]
    assert "10" not in texts[0]


def test_what_crashes_left(trail: Path, audit: Audit) -> None:
    """Torn records, unfinished files and a torn last line are worth a look, and are said to be what they are."""
    (log_of(trail) / "torn").mkdir()
    (log_of(trail) / "torn" / "x.torn").write_bytes(b"{")
    (log_of(trail) / "manifest.json.unfinished").write_bytes(b"{")
    with max(log_of(trail).glob("*.audit")).open("ab") as last:
        last.write(b'{"seq":40,"au')
    found = checks(audit, trail)
    assert found["torn records"][0][0] == found["leftovers"][0][0] == found["last session"][0][0] == "warn"
    assert "13 bytes" in found["last session"][0][1]


def test_a_service_in_another_container_is_not_called_dead(
    trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From a sidecar its process can't be seen: nothing is said of it that was not."""
    (tmp_path / "locks").write_text("")  # what /proc/locks shows there
    monkeypatch.setattr(running_writer, "_LOCKS", tmp_path / "locks")
    segment = max(log_of(trail).glob("*.audit"))
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-1]))  # without audit.log_closed
    found = checks(audit, trail)
    assert "held by no process that can be seen from here; last taken by process" in found["lock"][0][1]
    unless = "unless a process in another container or on another host is writing the log"
    assert found["last session"] == [
        ("warn", f"did not end in order: whatever was not durable then is lost, {unless}"),
    ]
    segment.write_bytes(b"".join([*lines[:-1], lines[-1][:9]]))
    assert unless in checks(audit, trail)["last session"][0][1]


def test_what_vanishes_while_it_looks(trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service writes next to it: a file that is renamed or deleted after the listing is no finding."""
    real = os.scandir
    looked = set()

    @contextmanager
    def scandir(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        made = Path(path) / f"made{INDEX_ENDING}"
        if made.parent.name in {"00", "index"}:
            made.write_bytes(b"")
            looked.add(made.parent.name)
        with real(path) as entries:
            found = list(entries)
        made.unlink(missing_ok=True)
        yield found

    assert audit("index", trail).status == 0
    before = checks(audit, trail)
    monkeypatch.setattr(os, "scandir", scandir)
    after = checks(audit, trail)
    assert looked == {"00", "index"}
    for name in ("permissions", "index", "segments"):
        assert after[name] == before[name]


def test_a_segment_that_is_deleted_while_it_looks(trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest that was read said that it is there, and is out of date."""
    segment = min(log_of(trail).glob("*.audit"))
    manifest = log_of(trail) / "manifest.json"
    before = manifest.read_text()
    segments = log_files.list_segments(Log(log_of(trail), "orders", "00", ""))
    manifest.write_text(before.replace('"state": "live"', '"state": "deleted"', 1))
    segment.unlink()
    answers = [segments]

    def list_segments(log: Log) -> list[SegmentFile]:
        return answers.pop() if answers else log_files.list_segments(log)

    monkeypatch.setattr(f"{log_checks.__name__}.list_segments", list_segments)
    assert {status for status, _ in checks(audit, trail)["segments"]} == {"ok"}
    assert not answers
    manifest.write_text(before)  # and if the manifest still says so it is missing
    assert ("fail", f"{segment.name} is missing; run verify") in checks(audit, trail)["segments"]


@pytest.mark.parametrize("behind", [b'{"seq":40,"au\n', b"\x00\xff\n\n{}\n", b'{"level":"info"}\n{"seq":40,"au'])
def test_what_no_crash_leaves(behind: bytes, trail: Path, audit: Audit) -> None:
    """Where opening will refuse, that is wrong, and nobody is told that it will put the bytes aside."""
    last = max(log_of(trail).glob("*.audit"))
    with last.open("ab") as file:
        file.write(behind)
    ((status, text),) = checks(audit, trail)["last session"]
    assert status == "fail"
    assert f"{len(behind)} bytes" in text
    with pytest.raises(LogCorrupted):
        open_store(trail)


def test_a_log_without_its_identity(trail: Path, audit: Audit) -> None:
    """A missing log.json is said to be missing, in words."""
    (log_of(trail) / "log.json").unlink()
    assert checks(audit, trail)["log.json"] == [("fail", "the file is missing; run verify")]


def test_the_index(trail: Path, audit: Audit) -> None:
    """The cache of the queries is shown for what it is."""
    assert "index" not in checks(audit, trail)
    assert audit("index", trail).status == 0
    assert checks(audit, trail)["index"][0][0] == "ok"


def test_a_clock_that_was_wrong(tmp_path: Path, audit: Audit) -> None:
    """A last record from the future fails: the clock was wrong then, or is now."""
    chain = Chain()
    chain.now_ns = int((datetime.now(UTC) + timedelta(hours=2)).timestamp()) * 10**9
    store = open_store(tmp_path / "t")
    store.commit(chain.batch_of([failure("bob")]), sync=True)
    store.close()
    assert any(status == "fail" and "from now" in text for status, text in checks(audit, tmp_path / "t")["clock"])


def test_a_full_disk(trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less free space than the configured limit fails; little more is worth a look."""
    free = os.statvfs(trail).f_bavail * os.statvfs(trail).f_frsize
    for limit, status in ((free * 2, "fail"), (free // 2, "warn"), (1, "ok")):
        assert [check.status for check in host_checks.examine(trail, low_disk_bytes=limit) if check.name == "disk"] == [
            status
        ]


@pytest.mark.parametrize(("kind", "status"), [("nfs4", "warn"), ("tmpfs", "fail"), ("ext4", "ok"), (None, "ok")])
def test_file_systems(kind: str | None, status: str, trail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system in memory fails, one of the network is worth a look."""
    monkeypatch.setattr(host_checks, "_kind_of_file_system", lambda path: kind)
    (check,) = [c for c in host_checks.examine(trail, low_disk_bytes=0) if c.name == "file system"]
    assert check.status == status


def test_a_running_service(tmp_path: Path, audit: Audit) -> None:
    """While a service runs, its process is named, and what a crash would lose follows from its flush mode."""
    with running_service(tmp_path / "t") as service:
        found = checks(audit, tmp_path / "t")
        assert found["lock"] == [("ok", f"held by process {service.pid}")]
        assert "about one sync's time (as the log says)" in found["a crash now"][0][1]
        (tmp_path / "audit.toml").write_text(
            'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "t"\n'
            '[flush_mode]\ntype = "hybrid"\nbatch_size = 70\n'
        )
        configured = checks(audit, tmp_path / "t", "--config", tmp_path / "audit.toml")
        assert "up to 70 records or 1 s, critical events" in configured["a crash now"][0][1]
    assert checks(audit, tmp_path / "t")["last session"] == [
        ("ok", "closed in order; nothing is open, so a crash loses nothing now")
    ]


def test_a_session_that_was_killed(trail: Path, audit: Audit) -> None:
    """A log without an orderly end, and without a writer, is worth a look."""
    assert checks(audit, trail)["last session"][0][0] == "warn"


def test_the_configuration_is_of_another_trail(trail: Path, tmp_path: Path, audit: Audit) -> None:
    """A configuration that leads to another place, or that records nothing, fails."""
    config = tmp_path / "audit.toml"
    config.write_text('service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "elsewhere"\n')
    assert checks(audit, trail, "--config", config)["base_dir"][0][0] == "fail"
    config.write_text('service_id = "orders"\n[mode]\ntype = "disabled"\n')
    assert checks(audit, trail, "--config", config)["mode"][0][0] == "fail"
    config.write_text('service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "t"\n')
    assert checks(audit, trail, "--config", config)["settings"][0][0] == "ok"
    assert audit("doctor", "--config", config).status == 0


def test_a_hold_and_a_file_that_is_none(trail: Path, audit: Audit) -> None:
    """A hold is worth a look; a file in its place that nobody can read fails."""
    audit("hold", "set", trail, "--as", "R. Roe", "--reason", "case 4711")
    (check,) = checks(audit, trail)["hold"]
    assert check[0] == "warn"
    assert "case 4711" in check[1]
    (log_of(trail) / "hold.json").write_text("{}")
    assert checks(audit, trail)["hold"][0][0] == "fail"


def test_it_waits_for_nothing(trail: Path, tmp_path: Path) -> None:
    """A FIFO in whatever file's place is not waited for; what can't be understood fails."""
    needed = ["lock", "log.json", "manifest.json", "hold.json"]
    names = [*needed, "torn", "archive", "index", "*.audit", "*.sha256"]
    for number, name in enumerate(names):
        log = log_of(shutil.copytree(trail, tmp_path / f"with-{number}"))
        path = min(log.glob(name), default=log / name)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    code = (  # one interpreter for all
        "import sys; from audit_async.cli import main\n"
        "for trail in sys.argv[1:]:\n"
        "    for command in ('query', 'stats', 'tail', 'doctor'):\n"
        "        status = main([command, trail])\n"
        "    print(f'STATUS {status} END', flush=True)"
    )
    command = [sys.executable, "-c", code, *(str(tmp_path / f"with-{number}") for number in range(len(names)))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment())
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0, ended.stderr
    *said, rest = re.split(r"STATUS (\S+) END\n", ended.stdout)
    assert rest == ""
    for name, text, status in zip(names, said[::2], said[1::2], strict=True):
        assert status in {"0", "1"}, name
        if name in needed:
            assert status == "1", name
            assert "not a regular file" in " ".join(text.split()), name


def test_a_file_system_that_does_not_sync_directories(tmp_path: Path, audit: Audit) -> None:
    """A directory that can't be synced fails, and the check names call and directory; nothing else hides it."""
    with mounted(tmp_path) as disk:
        make_trail(disk.path / "t", [failure("bob")])
        assert checks(audit, disk.path / "t")["directory sync"][0][0] == "ok"
        disk.fail(["fsyncdir"], errno.EINVAL)
        ((status, text),) = checks(audit, disk.path / "t")["directory sync"]
        assert status == "fail"
        assert str(disk.path / "t") in text
        assert "fsync" in text
        assert "Invalid argument" in text


def test_it_agrees_with_the_configured_access(tmp_path: Path, audit: Audit) -> None:
    """Modes and group are held against `dir_mode`, `file_mode` and `group`; the next opening sets them."""
    config = tmp_path / "audit.toml"
    base = f'service_id = "orders"\nhandle_signals = false\n[mode]\ntype = "local"\nbase_dir = "{tmp_path / "t"}"\n'
    config.write_text(base)
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(40)], max_bytes=4000)
    assert "access" not in checks(audit, tmp_path / "t", "--config", config)
    config.write_text(f'{base}dir_mode = "0750"\nfile_mode = "0640"\n')
    ((status, text),) = checks(audit, tmp_path / "t", "--config", config)["access"]
    assert status == "warn"
    assert "has mode 0700, and dir_mode is 0750" in text

    async def open_once() -> None:
        async with AuditLogger(AuditConfig.load(config)):
            pass

    anyio.run(open_once)
    found = checks(audit, tmp_path / "t", "--config", config)
    assert "access" not in found
    assert found["permissions"][0][0] == "ok"
    config.write_text(f'{base}dir_mode = "0750"\nfile_mode = "0640"\ngroup = "no-such-group"\n')
    assert checks(audit, tmp_path / "t", "--config", config)["access"][0][0] == "fail"


def test_damage_does_not_end_it(trail: Path, audit: Audit) -> None:
    """A manifest or identity that can't be understood is a failing check among the others."""
    (log_of(trail) / "manifest.json").write_text("{}")
    (log_of(trail) / "log.json").write_text("{}")
    found = checks(audit, trail)
    assert found["log.json"][0][0] == found["records"][0][0] == "fail"
    assert found["disk"]


# -- config check -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_the_example_configurations(file: Path, audit: Audit) -> None:
    """Every example configuration is valid, and each setting is shown as it will be."""
    ended = audit("config", "check", file)
    assert ended.status == 0
    assert re.search(r"retention\.delete_after_days +\d+", ended.out)
    assert re.search(r"rotation\.daily +true", ended.out)
    assert re.search(r"redaction\.keys +the \d+ names that are built in", ended.out)
    assert "A crash can lose: " in ended.out
    assert audit("config", "check", file, "--json").document["settings"]["service_id"]


def test_what_waiting_for_company_can_lose(tmp_path: Path, audit: Audit) -> None:
    """The delay of the immediate mode is among what a crash can lose."""
    file = tmp_path / "audit.toml"
    base = 'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "t"\n'
    file.write_text(f'{base}[flush_mode]\ntype = "immediate"\nmax_delay = 0.002\n')
    assert "about one sync's time and 0.002 s of waiting for company" in audit("config", "check", file).out


def test_a_wrong_configuration(tmp_path: Path, audit: Audit) -> None:
    """A wrong setting is status 1, and named with what is allowed."""
    file = tmp_path / "audit.toml"
    file.write_text('service_id = "orders"\nbuffer_evens = 3\n[mode]\ntype = "local"\nbase_dir = "t"\n')
    ended = audit("config", "check", file)
    assert ended.status == 1
    assert "buffer_evens" in ended.out
    assert "did you mean buffer_events?" in ended.out
    assert audit("config", "check", file, "--json").document["field"] == "buffer_evens"
    assert audit("config", "check", tmp_path / "nowhere.toml").status == 3


def test_the_environment(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that begin with a prefix are checked like a file."""
    monkeypatch.setenv("TRAIL_BASE_DIR", "/var/lib/audit")
    monkeypatch.setenv("TRAIL_SERVICE_ID", "orders")
    monkeypatch.setenv("TRAIL_FLUSH_MODE", "batched")
    ended = audit("config", "check", "--environment", "TRAIL_")
    assert ended.status == 0
    assert "up to 100 records or 1 s" in ended.out
    monkeypatch.setenv("TRAIL_FLUSH_SIZE", "0")
    assert audit("config", "check", "--environment", "TRAIL_").status == 1


def test_a_file_and_the_environment(tmp_path: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file first and the variables over it, as `AuditConfig.load` with a prefix takes them; one is needed."""
    file = tmp_path / "audit.toml"
    file.write_text('service_id = "orders"\nmode = { type = "local", base_dir = "t" }\n')
    monkeypatch.setenv("TRAIL_SERVICE_ID", "billing")
    monkeypatch.setenv("TRAIL_LOG_LEVEL", "debug")
    ended = audit("config", "check", file, "--environment", "TRAIL_")
    assert ended.status == 0
    assert "the variables TRAIL_*" in ended.out
    assert "billing" in ended.out
    assert str(tmp_path / "t") in ended.out
    assert "the variable TRAIL_LOG_LEVEL is no setting" in ended.err
    assert audit("config", "check").status == 2
