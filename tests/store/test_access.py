"""Who may read a log: private by default, or what `Local(dir_mode=, file_mode=, group=)` says, for all that is made."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local
from audit_async._layout.access_modes import Access, local_like, why_insecure
from audit_async.config import RetentionPolicy, RotationPolicy
from audit_async.errors import ConfigError
from audit_async.events import AuthFailure
from tests.store.chained import memory_directory

pytestmark = pytest.mark.anyio

AUDITOR = 4321
GROUP = 4322


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Give a directory that every user may enter: those of pytest are closed again by each session that starts."""
    with memory_directory() as place:
        place.chmod(0o755)
        yield place


def config(local: Local, **settings: object) -> AuditConfig:
    """Return the configuration of a log with small segments that are archived at once."""
    return AuditConfig(
        mode=local,
        service_id="orders",
        handle_signals=False,
        rotation=RotationPolicy(max_bytes=2000),
        retention=RetentionPolicy(archive_after_days=0, automatic=False),
        **settings,  # type: ignore[arg-type]  # each test names settings that exist
    )


async def write(settings: AuditConfig) -> None:
    """Write several segments, archive some, set a hold."""
    async with AuditLogger(settings) as audit:
        for _ in range(12):
            await audit.emit_durable(AuthFailure(reason="invalid_token", ip="203.0.113.9", path="/v2/tasks"))
        await audit.apply_retention()
        await audit.set_hold(reason="case 4711", set_by="legal")
        for _ in range(12):
            await audit.emit_durable(AuthFailure(reason="invalid_token", ip="203.0.113.9", path="/v2/tasks"))


def modes(base_dir: Path) -> dict[str, set[int]]:
    """Return the modes of what is below the base directory, by kind."""
    found: dict[str, set[int]] = {"directory": set(), "sealed": set(), "file": set()}
    active = max(base_dir.rglob("*.audit"))
    for path in base_dir.rglob("*"):
        is_sealed = path.suffix in {".zst", ".sha256"} or (path.suffix == ".audit" and path != active)
        kind = "directory" if path.is_dir() else "sealed" if is_sealed else "file"
        found[kind].add(stat.S_IMODE(path.stat().st_mode))
    return found


async def test_a_log_is_private_by_default(tmp_path: Path) -> None:
    """Without a word of the configuration only the owner may read, whatever the umask is."""
    before = os.umask(0)
    try:
        await write(config(Local(tmp_path / "a")))
    finally:
        os.umask(before)
    assert modes(tmp_path / "a") == {"directory": {0o700}, "sealed": {0o400}, "file": {0o600}}


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o000])
async def test_all_that_is_made_has_the_configured_modes(tmp_path: Path, umask: int) -> None:
    """Directories, files, sealed segments, checksums and archives are as configured, under every umask."""
    before = os.umask(umask)
    try:
        await write(config(Local(tmp_path / "a", dir_mode=0o750, file_mode=0o640)))
    finally:
        os.umask(before)
    assert modes(tmp_path / "a") == {"directory": {0o750}, "sealed": {0o440}, "file": {0o640}}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750


async def test_a_log_that_was_private_is_opened_by_the_configuration(tmp_path: Path) -> None:
    """What was made before the configuration said so becomes readable with the next opening."""
    await write(config(Local(tmp_path / "a")))
    async with AuditLogger(config(Local(tmp_path / "a", dir_mode="0750", file_mode="0o640"))):
        pass
    assert modes(tmp_path / "a") == {"directory": {0o750}, "sealed": {0o440}, "file": {0o640}}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to any group and become another user")
async def test_an_auditor_reads_and_does_not_write(open_place: Path) -> None:
    """An account that is in the group verifies the trail, and can neither write a file nor remove one."""
    base_dir = open_place / "a"
    await write(config(Local(base_dir, dir_mode=0o750, file_mode=0o640, group=GROUP)))
    script = """
import os, sys
from audit_async.cli import main
from pathlib import Path
main(["verify", sys.argv[1]])  # imports what it needs, which the other account might not be allowed to
os.setgid(int(sys.argv[2])); os.setgroups([]); os.setuid(int(sys.argv[3]))
status = main(["verify", sys.argv[1]])
log = Path(sys.argv[1]) / "orders" / "00"
for name in os.listdir(log):
    for attempt in (lambda: open(log / name, "ab"), lambda: os.unlink(log / name)):
        try:
            attempt()
        except (PermissionError, IsADirectoryError):
            continue
        sys.exit(f"{name} could be changed")
sys.exit(status)
"""
    command = [sys.executable, "-c", script, str(base_dir), str(GROUP), str(AUDITOR)]
    ended = await anyio.run_process(command, check=False, env={"HOME": "/nowhere"})
    assert ended.returncode == 0, (ended.stdout + ended.stderr).decode()
    assert {path.stat().st_gid for path in base_dir.rglob("*")} == {GROUP}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"dir_mode": 0o770}, "mode.dir_mode"),
        ({"file_mode": 0o660}, "mode.file_mode"),
        ({"dir_mode": 0o707}, "mode.dir_mode"),
        ({"dir_mode": 750}, "mode.dir_mode"),
        ({"dir_mode": 0o500}, "mode.dir_mode"),
        ({"dir_mode": 0o1750}, "mode.dir_mode"),
        ({"file_mode": 0o750}, "mode.file_mode"),
        ({"file_mode": "rw-r-----"}, "mode.file_mode"),
        ({"file_mode": True}, "mode.file_mode"),
        ({"group": ""}, "mode.group"),
        ({"group": -1}, "mode.group"),
    ],
)
def test_wrong_permissions_are_refused_when_they_are_configured(settings: dict[str, object], field: str) -> None:
    """What would let others write, or keep the owner out, or is no mode, is named by its setting."""
    with pytest.raises(ConfigError) as caught:
        config(Local("audit", **settings))  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.field == field


def test_permissions_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    """Octal text and TOML's octal numbers mean the same, and a path that is relative keeps the rest."""
    (tmp_path / "audit.toml").write_text(
        'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "audit"\ndir_mode = 0o750\nfile_mode = "0640"\n'
        'group = "adm"\n',
        encoding="utf-8",
    )
    loaded = AuditConfig.load(tmp_path / "audit.toml")
    assert loaded.mode == Local(str(tmp_path / "audit"), dir_mode=0o750, file_mode=0o640, group="adm")
    variables = {"AUDIT_BASE_DIR": "audit", "AUDIT_SERVICE_ID": "orders", "AUDIT_DIR_MODE": "0750", "AUDIT_GROUP": "7"}
    assert AuditConfig.from_env(environ=variables).mode == Local("audit", dir_mode=0o750, group=7)
    disabled = AuditConfig.from_env(environ=variables | {"AUDIT_MODE": "disabled"})
    assert not isinstance(disabled.mode, Local)


def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A group's name is looked up when the log is opened; a wrong one is the configuration's fault."""
    with pytest.raises(ConfigError, match=r"mode\.group.*no-such-group"):
        Access.of(Local(tmp_path, group="no-such-group"))


async def test_writable_modes_need_to_be_asked_for_twice(tmp_path: Path) -> None:
    """With `allow_insecure_dir` also modes with which others can write are taken."""
    settings = config(Local(tmp_path / "a", dir_mode=0o770, file_mode=0o660), allow_insecure_dir=True)
    async with AuditLogger(settings):
        pass
    assert stat.S_IMODE((tmp_path / "a" / "orders" / "00" / "log.json").stat().st_mode) == 0o660


async def test_who_has_no_configuration_makes_files_like_those_that_are_there(tmp_path: Path) -> None:
    """The command line, which knows only the directory, keeps a log's modes."""
    await write(config(Local(tmp_path / "a", dir_mode=0o750, file_mode=0o640)))
    found = local_like(tmp_path / "a" / "orders" / "00", tmp_path / "a")
    assert (found.dir_mode, found.file_mode) == ("0750", "0640")


def test_the_advice_on_a_volume_of_a_group_is_possible_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can't change a directory's mode is told to use one of his own below it; its owner, to change it."""
    tmp_path.chmod(0o2775)
    status = os.stat(tmp_path)
    mine = why_insecure(tmp_path, status)
    assert mine is not None
    assert "chmod go-w" in mine
    monkeypatch.setattr(os, "geteuid", lambda: status.st_uid + 1000)
    other = why_insecure(tmp_path, status)
    assert other is not None
    assert "chmod" not in other
    assert f"{tmp_path}/audit" in other
    assert "fsGroup" in other


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's directory")
def test_the_advice_on_a_volume_of_a_group_works(open_place: Path) -> None:
    """On a directory of root's with setgid and group write, a service opens its log in a directory of its own below."""
    volume = open_place / "volume"
    volume.mkdir()
    os.chown(volume, 0, GROUP)
    volume.chmod(0o2775)
    script = """
import asyncio, os, sys
from audit_async import AuditConfig, AuditLogger, Local
os.setgroups([int(sys.argv[2])]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[3]))
async def run(path):
    async with AuditLogger(AuditConfig(mode=Local(path), service_id="orders")):
        pass
try:
    asyncio.run(run(sys.argv[1]))
except Exception as error:
    print(error)
asyncio.run(run(sys.argv[1] + "/audit"))
"""
    command = [sys.executable, "-c", script, str(volume), str(GROUP), str(AUDITOR)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"{volume}/audit" in ended.stdout
