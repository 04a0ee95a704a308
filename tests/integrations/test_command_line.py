"""`audited_command`: runs of commands of click, Typer and plain Python, with who ran them and how they ended."""

from __future__ import annotations

import argparse
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from audit_async import ActorInfo, AuditConfig, ConfigError, LogLocked, current_actor, get_audit, use_audit
from audit_async.integrations.command_line import audited_command, os_user
from audit_async.sync import SyncAuditLogger
from tests.integrations.servers import PROJECT
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

ME = pwd.getpwuid(os.getuid()).pw_name


def runs(config: AuditConfig) -> list[dict[str, Any]]:
    """Return what is recorded of commands, after an independent check of the log."""
    check_trail(log_directory(config))
    events = [record["event"] for record in read_events(log_directory(config))]
    return [event for event in events if event["event_type"].startswith("command.")]


def typer_app(config: AuditConfig) -> typer.Typer:
    """Return an application with commands that end in several ways."""
    app = typer.Typer()
    users = typer.Typer()
    app.add_typer(users, name="users")

    @users.command()
    @audited_command(config, parameters=("user", "password"), started=True)
    def lock(user: str, password: str = typer.Option("hunter2"), status: int = 0, fail: bool = False) -> None:
        """Lock somebody out."""
        actor = current_actor()
        assert actor is not None
        get_audit().emit(Counted(producer=actor.user_id, n=1))
        if fail:
            raise KeyError("hunter2")
        if status:
            raise typer.Exit(status)

    @app.command()
    @audited_command(config)
    def stop() -> None:
        """End as Ctrl-C does."""
        raise KeyboardInterrupt

    return app


def test_a_command_of_typer(config_for: ConfigFor) -> None:
    """Path, parameters by name, status; the log and the actor are those of the moment in the command."""
    config = config_for()
    run = CliRunner().invoke
    assert run(typer_app(config), ["users", "lock", "dana"]).exit_code == 0
    assert run(typer_app(config), ["users", "lock", "erin", "--status", "3"]).exit_code == 3
    assert isinstance(run(typer_app(config), ["users", "lock", "fred", "--fail"]).exception, KeyError)
    assert run(typer_app(config), ["stop"]).exit_code in {1, 130}
    found = runs(config)
    started, ended = found[:2]
    assert started["actor"] == ended["actor"] == {"user_id": ME, "kind": "user"}
    assert started["run_id"] == ended["run_id"]
    assert started["command"].endswith("users lock")
    assert started["parameters"] == {"user": "dana", "password": "[redacted:password]"}
    statuses = [(event["exit_status"], event.get("error")) for event in found if event["event_type"] == "command.ended"]
    assert statuses == [(0, None), (3, None), (1, "KeyError"), (130, "KeyboardInterrupt")]
    assert len({event["run_id"] for event in found}) == 4
    counted = [record["event"] for record in read_events(log_directory(config))]
    assert [event["producer"] for event in counted if event["event_type"] == "test.counted"] == [ME] * 3
    assert "hunter2" not in str(found)


def test_a_command_that_ctrl_c_ends(tmp_path: Path) -> None:
    """In a real process, whose log is drained for the signal: what the command records on its way out is there, too."""
    program = """
import os, signal, sys, time
from pathlib import Path
from audit_async import AuditConfig, Local, get_audit
from audit_async.integrations.command_line import audited_command
from tests.logs import Counted

@audited_command(AuditConfig(mode=Local(Path(sys.argv[1])), service_id="admin"))
def copy():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(120)
    finally:
        get_audit().emit(Counted(producer="clean-up", n=1))

copy()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == -signal.SIGINT, ended.stderr
    events = [record["event"] for record in read_events(tmp_path / "admin/00")]
    types = [event["event_type"] for event in events]
    assert types == ["audit.log_opened", "test.counted", "command.ended", "audit.log_closed"]
    assert (events[2]["exit_status"], events[2]["error"]) == (130, "KeyboardInterrupt")


def test_a_plain_command(config_for: ConfigFor) -> None:
    """argparse, or nothing: by the function's name, or the one it is given; with the log that is there."""

    @audited_command(parameters=("path",))
    def clean_up(path: str) -> int:
        return len(path)

    @audited_command(name="backup", actor=lambda: ActorInfo(user_id="cron"))
    def run_backup(options: argparse.Namespace) -> None:
        sys.exit("no space")

    with SyncAuditLogger(config_for()) as audit, use_audit(audit):
        assert clean_up("/srv") == 4
        with pytest.raises(SystemExit):
            run_backup(argparse.Namespace())
    first, second = runs(config_for())
    assert (first["command"], first["parameters"], first["exit_status"]) == ("clean-up", {"path": "/srv"}, 0)
    assert (second["command"], second["actor"], second["exit_status"]) == ("backup", {"user_id": "cron"}, 1)
    assert "parameters" not in second
    assert "error" not in second


def test_a_command_whose_log_can_t_be_opened_does_not_run(config_for: ConfigFor) -> None:
    """Nothing happens unrecorded."""

    @audited_command(config_for(instance="00"))
    def never() -> None:
        raise AssertionError("it ran")

    with SyncAuditLogger(config_for(instance="00")), pytest.raises(LogLocked):
        never()
    with pytest.raises(ConfigError, match="no audit log is set"):
        audited_command()(never)()


def test_a_record_that_fails_does_not_undo_the_command(config_for: ConfigFor, caplog: pytest.LogCaptureFixture) -> None:
    """The command has run, and its result counts; the loss is counted and logged."""
    with SyncAuditLogger(config_for()) as audit, use_audit(audit):

        @audited_command()
        def closes() -> str:
            audit.close()
            return "done"

        assert closes() == "done"
    assert audit.stats().dropped_by_type == {"command.ended": 1}
    assert "closes has run, and its record is not known to be durable" in caplog.text


def test_the_account_is_the_operating_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what the environment says; an account without an entry is named by its number."""
    for name in ("LOGNAME", "USER", "SUDO_USER"):
        monkeypatch.setenv(name, "mallory")
    assert os_user().user_id == ME

    def no_entry(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    assert os_user().user_id == f"uid:{os.getuid()}"


def test_a_real_process(tmp_path: Path) -> None:
    """A command of its own process: the record is there when it has ended, with the status that the shell sees."""
    script = tmp_path / "admin.py"
    script.write_text(
        "import typer\nfrom audit_async import AuditConfig, Local\n"
        "from audit_async.integrations.command_line import audited_command\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "@audited_command(AuditConfig(mode=Local('audit'), service_id='admin'), parameters=('user',))\n"
        "def lock(user: str) -> None:\n    raise typer.Exit(4)\n"
        "app()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    ended = subprocess.run([sys.executable, script, "dana"], cwd=tmp_path, env=environment, check=False, timeout=60)
    assert ended.returncode == 4
    [event] = [
        record["event"]
        for record in read_events(tmp_path / "audit" / "admin" / "00")
        if record["event"]["event_type"] == "command.ended"
    ]
    assert (event["command"], event["exit_status"], event["parameters"]) == ("admin.py", 4, {"user": "dana"})


def test_wrong_arguments_are_refused() -> None:
    """When the function is decorated."""

    async def later() -> None: ...

    with pytest.raises(ConfigError, match="no parameter 'who'"):
        audited_command(parameters=("who",))(lambda: None)
    with pytest.raises(ConfigError, match=r"^parameters: "):
        audited_command(parameters="who")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match=r"^command: "):
        audited_command()(later)
    with pytest.raises(ConfigError, match=r"^audit: "):
        audited_command("audit")  # type: ignore[arg-type]  # on purpose
