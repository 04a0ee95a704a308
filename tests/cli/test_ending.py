"""How commands end: the exit status, and one clear line where the work can't be done."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import audit_async
from audit_async.cli import main
from audit_async.cli.app import PANELS
from audit_async.cli.extra_commands import NAMES
from tests.cli.commands import COMMAND, Audit, run_in_pipes, run_on_terminal
from tests.cli.made_trails import failure, make_trail
from tests.cli.running_service import running_service
from tests.processes import started
from tests.trail.written import WrittenLog

READING = ["verify", "query", "tail", "stats", "doctor", "retention"]


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """A trail of one log."""
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(20)])
    return tmp_path / "t"


def assert_one_line(text: str, *parts: str) -> None:
    """Assert that an error is one line, names the command, has these parts and is no traceback."""
    assert text.startswith("audit-async: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize("command", READING)
def test_all_is_well(command: str, trail: Path, audit: Audit) -> None:
    """A sound trail is status 0, and nothing is said on standard error but a count."""
    ended = audit(command, trail)
    assert ended.status == 0
    assert ended.err in {"", "20 records\n"}


@pytest.mark.parametrize("command", READING)
def test_an_empty_directory(command: str, tmp_path: Path, audit: Audit) -> None:
    """A directory without a log can't be read: status 3, and the message says what to give."""
    ended = audit(command, tmp_path)
    assert (ended.status, ended.out) == (3, "")
    assert_one_line(ended.err, str(tmp_path), "holds no log", "base directory")


@pytest.mark.parametrize("command", READING)
def test_no_directory(command: str, tmp_path: Path, audit: Audit) -> None:
    """A path that leads nowhere can't be read: status 3."""
    ended = audit(command, tmp_path / "nowhere")
    assert (ended.status, ended.out) == (3, "")
    assert_one_line(ended.err, "nowhere", "No such file or directory")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="audit-async-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("closed", [".", "orders", "orders/00"])
def test_what_may_not_be_read(closed: str, open_directory: Path) -> None:
    """A trail that is closed to this user, at whatever level, is status 3; the message says as whom to read it."""
    make_trail(open_directory, [failure("bob")])
    trail, log = open_directory, open_directory / closed
    (trail / "orders").chmod(0o755)
    # Root may read everything, so it becomes nobody, once the commands have imported all that they need.
    code = (
        "import contextlib, io, os, sys; from audit_async.cli import main\n"
        "log, trail, *commands = sys.argv[1:]\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    assert [main([command, trail]) for command in commands] == [0] * len(commands)\n"
        "os.chmod(log, 0)\n"
        "os.geteuid() or os.setuid(65534)\n"
        "sys.exit(str([main([command, trail]) for command in commands]))"
    )
    command = [sys.executable, "-c", code, str(log), str(trail), *READING]
    # Without coverage, whose file nobody may not write.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    log.chmod(0o700)
    assert ended.stdout == ""
    *errors, statuses = ended.stderr.splitlines()
    assert statuses == str([3] * len(READING))
    for error in errors:
        assert_one_line(f"{error}\n", str(log), "Permission denied", "as the user who owns it")


#: Every command that reads records or looks at a log, as the arguments after its name.
PIECE_READERS = {
    "query": ["{trail}"],
    "query --actor": ["{trail}", "--actor", "bob"],
    "query --newest-first": ["{trail}", "--newest-first"],
    "tail": ["{trail}", "-n", "100"],
    "show": ["{seq}", "{trail}"],
    "stats": ["{trail}"],
    "export": ["{trail}", "{out}.ndjson"],
    "export bundle": ["{trail}", "{out}.zip"],
    "doctor": ["{trail}"],
}


@pytest.mark.parametrize("piece", ["*.audit", "manifest.json", "archive", "archive/*"])
def test_a_piece_that_may_not_be_read(piece: str, open_directory: Path) -> None:
    """A segment, manifest or archive that is closed to this user is status 3, never "nothing found"."""
    log = WrittenLog(open_directory / "t")
    log.write(*({"event_type": "test.x", "user_id": "bob", "n": n, "text": "x" * 200} for n in range(20)))
    log.archive(log.sealed()[:2])
    log.close()
    out = open_directory / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    for path in (open_directory / "t").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (open_directory / "t").chmod(0o755)
    closed = sorted((open_directory / "t" / "orders" / "00").glob(piece))
    assert closed
    code = (
        "import contextlib, io, os, sys; from audit_async.cli import main\n"
        "trail, out, closed, *commands = sys.argv[1:]\n"
        "os.environ['XDG_CACHE_HOME'] = out\n"
        "def run(command, name):\n"
        "    return main([word.format(trail=trail, out=f'{out}/{name}') for word in command.split()])\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    first = [run(command, f'first{n}') for n, command in enumerate(commands)]\n"
        "assert first == [0] * len(commands), first\n"  # and all that is needed is imported
        "os.chmod(closed, 0)\n"
        "os.geteuid() or os.setuid(65534)\n"
        "for command in commands:\n"
        "    status = run(command, 'e')\n"
        "    sys.stderr.write(f'STATUS {status} of {command}\\n')"
    )
    commands = [" ".join([name.split()[0], *words]) for name, words in PIECE_READERS.items()]
    commands = [command.replace("{seq}", "6" if piece == "*.audit" else "0") for command in commands]
    command = [sys.executable, "-c", code, str(open_directory / "t"), str(out), str(closed[0]), *commands]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    for path in (open_directory / "t").rglob("*"):
        path.chmod(0o700)
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"STATUS ([0-9]+)", ended.stderr) == ["3"] * len(commands), ended.stderr
    assert "Permission denied" in ended.stderr
    assert not list(out.glob("e.*"))


@pytest.mark.parametrize("command", [["query"], ["stats"], ["tail"], ["export"], ["doctor"], ["show"]], ids=" ".join)
def test_a_lack_of_descriptors_is_called_what_it_is(command: list[str], trail: Path, tmp_path: Path) -> None:
    """A process that may open no more files says so, with status 3; it is not taken for rights or for damage."""
    words = {"export": ["{t}", str(tmp_path / "e.csv")], "show": ["0", "{t}"]}.get(command[0], ["{t}"])
    arguments = [*command, *(word.format(t=trail) for word in words)]
    code = (
        "import contextlib, gc, io, os, resource, sys; from audit_async.cli import main\n"
        "warm = [word.replace('e.csv', 'w.csv') for word in sys.argv[1:]]\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    main(warm)\n"  # everything is imported
        "for limit in range(3, 40):\n"
        "    held = [os.dup(0)]\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + limit - 2, 4096))\n"
        "    status, out, err = None, io.StringIO(), io.StringIO()\n"
        "    try:\n"
        "        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "            status = main([*sys.argv[1:], *(['--force'] if 'export' in sys.argv else [])])\n"
        "    except OSError as error:\n"  # the event loop itself got no descriptor
        "        assert error.errno == 24, error\n"
        "    finally:\n"
        "        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "        os.close(held[0])\n"
        "    gc.collect()\n"  # an event loop whose making has failed still has a descriptor, and is in a cycle
        "    text = out.getvalue() + err.getvalue()\n"
        "    shown = ' '.join(text.split())\n"
        "    print(status, 'raise the limit' in shown, 'as the user who owns' in shown, text if status == 1 else '')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    outcomes = {tuple(line.split(maxsplit=3)) for line in ended.stdout.splitlines()}
    assert outcomes <= {("None", "False", "False"), ("3", "True", "False"), ("0", "False", "False")}, ended.stdout
    assert {status for status, *_ in outcomes} >= {"0", "3"}


@pytest.mark.parametrize("command", ["query", "stats", "tail"])
def test_damage_is_a_finding(command: str, trail: Path, audit: Audit) -> None:
    """Damage that a command comes upon is status 1; the message says where it is."""
    (segment,) = (trail / "orders" / "00").glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b'"path":"/17"', b'"path":"/71"'))
    ended = audit(command, trail)
    assert ended.status == 1
    assert_one_line(ended.err, segment.name, "line 18", "verify")


def test_damage_can_be_passed_over(trail: Path, audit: Audit) -> None:
    """With `--skip-damage` all genuine records are shown, and what was left out is counted."""
    (segment,) = (trail / "orders" / "00").glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b'"path":"/17"', b'"path":"/71"'))
    ended = audit("query", trail, "--skip-damage", "--json")
    assert ended.status == 0
    assert [row["seq"] for row in ended.rows] == [n for n in range(20) if n != 17]
    assert_one_line(ended.err, "damage", "1 times", "line 18")


def test_a_foreign_file(tmp_path: Path, audit: Audit) -> None:
    """Lines of another program in a segment's place are a finding, never a traceback."""
    log = tmp_path / "t" / "orders" / "00"
    log.mkdir(parents=True)
    (log / "000000000000-2026-11-22.audit").write_text('{"level":"info","msg":"started"}\nnot even JSON\n\xff\x00')
    for command in ("query", "stats", "tail", "verify"):
        ended = audit(command, tmp_path / "t")
        assert ended.status == 1
        assert "Traceback" not in ended.err
        assert "000000000000-2026-11-22.audit" in ended.out + ended.err


def test_a_version_from_the_future(trail: Path, audit: Audit) -> None:
    """A log of a later format is a finding that says so; it is never taken for a sound one."""
    identity = trail / "orders" / "00" / "log.json"
    recorded = identity.read_text()
    # The second has a log.json of which this release understands nothing but the version.
    for later in ('"format_version":2', '"format_version":2,"digest":"sha512"'):
        identity.write_text(recorded.replace('"format_version":1', later))
        for command in ("verify", "doctor"):
            ended = audit(command, trail)
            assert ended.status == 1
            assert "version 2" in ended.out
        assert len(audit("verify", trail, "--json").document["findings"]) == 1


def test_records_of_a_version_from_the_future(trail: Path, audit: Audit) -> None:
    """What its records say is for another release: nothing of them is shown or exported, and nothing is left behind."""
    identity = trail / "orders" / "00" / "log.json"
    identity.write_text(identity.read_text().replace('"format_version":1', '"format_version":2'))
    commands: list[list[str | Path]] = [
        ["query", trail], ["query", trail, "--skip-damage"], ["tail", trail], ["stats", trail], ["show", "3", trail],
        ["export", trail, trail.with_name("e.zip")], ["export", trail, trail.with_name("e.csv")],
    ]  # fmt: skip
    for arguments in commands:
        ended = audit(*arguments)
        assert (ended.status, ended.out) == (3, "")
        assert_one_line(ended.err, str(identity), "version 2", "the release that fits")
    assert [path.name for path in trail.parent.iterdir()] == ["t"]


def test_a_file_for_a_directory(trail: Path, audit: Audit) -> None:
    """Whoever names a file is told to name a directory, not that he may not read it."""
    (segment,) = (trail / "orders" / "00").glob("*.audit")
    for command in READING:
        ended = audit(command, segment)
        assert (ended.status, ended.out) == (3, "")
        assert_one_line(ended.err, str(segment), "is no directory", "give the base directory")


@pytest.mark.parametrize("command", ["query", "stats", "tail", "retention"])
def test_a_damaged_manifest_is_named_with_its_log(command: str, trail: Path, audit: Audit) -> None:
    """Every log has a manifest, so the message says of which log it is."""
    (trail / "orders" / "00" / "manifest.json").write_text("{}")
    make_trail(trail, [failure("eve")], instance="01")
    ended = audit(command, trail)
    assert ended.status == (3 if command == "retention" else 1)  # which goes on with the other logs
    assert_one_line(ended.err, "orders/00/manifest.json", "not what the library writes")


def test_a_link_in_a_segment_s_place(tmp_path: Path, audit: Audit) -> None:
    """It is a finding that says what it is, for a sealed segment as for the last, and the link is not followed."""
    trail = tmp_path / "t"
    make_trail(trail, [failure("bob", n) for n in range(40)], max_bytes=4000)
    first = min((trail / "orders" / "00").glob("*.audit"))
    first.rename(tmp_path / "aside")
    first.symlink_to(tmp_path / "aside")
    for command in ("query", "stats"):
        ended = audit(command, trail)
        assert (ended.status, ended.out) == (1, "")
        assert_one_line(ended.err, f"orders/00/{first.name}", "not a regular file but a link")
    reasons = [found["reason"] for found in audit("verify", trail, "--json").document["findings"]]
    assert reasons == ["not a regular file but a link, a directory or a device"]


def test_a_wrong_question_names_the_option(trail: Path, audit: Audit) -> None:
    """What only the trail shows to be wrong is status 2, too, and is reported under the option's name."""
    make_trail(trail, [failure("eve")], instance="01")
    commands: list[tuple[list[str | Path], str]] = [
        (["query", trail, "--after-seq", "3"], "--after-seq: "),
        (["show", "3", trail], "--log: "),
        (["show", "3", trail, "--log", "orders"], "--log: "),
    ]
    for arguments, option in commands:
        ended = audit(*arguments)
        assert (ended.status, ended.out) == (2, "")
        assert_one_line(ended.err, option)


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["query"], ["query", ".", "--frob"], ["query", ".", "--limit", "0"], ["verify", ".", "--seq", "x"],
     ["verify", ".", "--last", "5", "--seq", "1-2"], ["tail", ".", "-n", "-1"], ["show", "x", "."],
     ["export", ".", "out.doc"], ["retention", ".", "--apply"], ["hold", "set", "."], ["config", "check"],
     ["hold", "set", ".", "--as", "me", "--reason", " "], ["hold", "lift", ".", "--as", " ", "--reason", "closed"],
     ["export", ".", "-", "--format", "bundle"], ["export", ".", "--json"], ["doctor"], ["retention"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage(arguments: list[str], audit: Audit) -> None:
    """What makes no sense is status 2 before anything is read; the message says what would."""
    ended = audit(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert "audit-async" in ended.err
    assert "Traceback" not in ended.err


COMMANDS = ["verify", "query", "tail", "show", "stats", "export", "sql", "retention", "hold set", "hold lift",
            "hold show", "doctor", "config check"]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, audit: Audit) -> None:
    """Every command's help shows an example of it, and how to get JSON."""
    ended = audit(*command.split(), "--help")
    assert ended.status == 0
    assert f"Example: audit-async {command} " in " ".join(ended.out.split())
    assert "--json" in ended.out


def test_examples_can_be_copied_from_the_help(audit: Audit) -> None:
    """Each example begins a line, no sentence ends in its last word, and an asterisk is no markup."""
    lines = [line.strip() for line in audit("export", "--help").out.splitlines()]
    assert "In a pipe: audit-async export ./audit --format csv | gzip > all.csv.gz" in lines
    helped = "".join(audit("partitions", "--help").out.split())
    assert "count(*)FROMread_parquet('/srv/audit-parquet/*/*/*.parquet'" in helped


def test_help_and_version(audit: Audit) -> None:
    """The help lists every command; the version is that of the package."""
    listed = audit("--help")
    assert listed.status == 0
    for command in COMMANDS:
        assert command.split()[0] in listed.out
    for panel in PANELS:
        assert panel in listed.out
    assert audit("--version").out == f"audit-async {audit_async.__version__}\n"


def test_commands_of_an_extra_are_in_the_help_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help names them and their extra; they say in one line what to install, whatever comes after their name."""
    there = importlib.util.find_spec
    absent = {"cryptography", "starlette"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else there(name))
    assert main(["--help"]) == 0
    listed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Show the trail in a browser. Needs the extra viewer." in listed
    assert all(name in listed for name in NAMES)
    for name in NAMES:
        assert main([name, "x", "--out", "y"]) == 2
        assert_one_line(capsys.readouterr().err, "pip install 'audit-async[cli,")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where typer and rich are missing, one line says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["verify", "."]) == 2
    assert_one_line(capsys.readouterr().err, "typer and rich", "pip install 'audit-async[cli]'")


def test_the_package_itself_needs_no_extra() -> None:
    """Importing the package, its reader and the door of the command line imports neither typer nor rich."""
    code = "import sys, audit_async, audit_async.reader, audit_async.cli; print({'typer', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


def test_the_installed_command(trail: Path) -> None:
    """The command that pip installs is the same as `python -m audit_async.cli`."""
    command = shutil.which("audit-async", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("this environment was made before the command was")
    installed = subprocess.run(
        [command, "query", str(trail), "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert installed.stdout == run_in_pipes("query", trail, "--json").out


def test_nobody_reads_on(tmp_path: Path) -> None:
    """Where the reader of a pipe has enough, the command ends at once, without a word, as SIGPIPE would end it."""
    make_trail(tmp_path / "t", [failure("x" * 500, n) for n in range(2000)])
    for options in ([], ["--json"]):
        with started(
            [*COMMAND, "query", str(tmp_path / "t"), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert child.stdout.readline()
            child.stdout.close()
            assert child.stderr.read() == b""
            assert child.wait(timeout=60) == 128 + signal.SIGPIPE


def test_ctrl_c(trail: Path) -> None:
    """Ctrl-C ends a command that waits with status 130 and no traceback."""
    status, written = run_on_terminal("tail", "-f", trail, until=lambda written: b"/19" in written)
    assert status == 130
    assert b"Traceback" not in written
    assert b"Error" not in written


def test_ctrl_c_while_the_access_is_recorded(trail: Path, audit: Audit) -> None:
    """A tail that is ended by Ctrl-C has recorded who was looking, and its log is closed in order."""
    status, written = run_on_terminal("tail", "-f", trail, "--as", "joe", until=lambda written: b"/19" in written)
    assert (status, b"Traceback" in written) == (130, False)
    rows = audit("query", trail, "--service", "audit-cli", "--json").rows
    kinds = [row["event"]["event_type"] for row in rows]
    assert kinds[0] == "audit.log_opened"
    assert kinds[-1] == "audit.log_closed"
    assert {row["event"]["actor"] for row in rows[1:-1]} == {"joe"}


def test_beside_a_running_service(tmp_path: Path, audit: Audit) -> None:
    """Every command that reads works on a log that is being written, and needs no lock."""
    with running_service(tmp_path / "t") as service:
        for command in READING:
            assert audit(command, tmp_path / "t").status == 0
        assert service.emit("second") == 2
        assert json.loads(audit("query", tmp_path / "t", "--json", "--newest-first", "--limit", "1").out)["seq"] == 2
