"""Two verifiers that share no code say the same of whatever was done to a trail: valid, not valid, or not checked."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local, standalone
from audit_async._trail.log_files import TrailUnreadable
from tests.campaign import Campaign
from tests.store.chained import memory_directory, open_store
from tests.trail.lived import LivedLog, verify
from tests.trail.mutations import LOCKS, mutate
from tests.trail.signed import SMALL_SEGMENTS, SigningLog

VALID, FOUND, NOTHING, NOT_CHECKED = range(4)


def verdict_of_verify(base_dir: Path) -> tuple[int, str]:
    """Return what `audit-async verify` would end with, and why."""
    try:
        report = verify(base_dir)
    except TrailUnreadable as error:
        return NOTHING if "holds no log" in str(error) else NOT_CHECKED, str(error)
    status = FOUND if report.findings else NOT_CHECKED if report.unreadable else VALID
    return status, "; ".join(f"{found.segment}: {found.reason}" for found in report.findings)


def verdict_of_standalone(base_dir: Path) -> tuple[int, str]:
    """Return what the file that stands alone ends with, and what it prints."""
    out = StringIO()
    with redirect_stdout(out):
        status = standalone.main([str(base_dir)])
    return status, out.getvalue()


# -- logs to start from --------------------------------------------------------------------------------------------


class Trails:
    """Trails with a bit of everything, and another log; copied for each edit."""

    def __init__(self, base_dir: Path) -> None:
        self.other = LivedLog(base_dir / "other")
        self.other.chain.now_ns += 1_000_000
        self.other.session(10).retain(archived=1)
        self.base_dirs: Final = [
            self.retained(base_dir / "retained").base_dir,
            self.held(base_dir / "held"),
            self.without_manifest(base_dir / "unsealed"),
            SigningLog(base_dir / "signed", rotation=SMALL_SEGMENTS).session().session().base_dir,
        ]

    @staticmethod
    def retained(base_dir: Path) -> LivedLog:
        """Sessions, one of them not closed, segments deleted and archived."""
        log = LivedLog(base_dir).session(14, closed=False).session(8)
        log.retain(archived=2, deleted=1)
        log.chain.now_ns += 3_600 * 10**9
        return log.session(6)

    @classmethod
    def held(cls, base_dir: Path) -> Path:
        """A legal hold was set after that, and two instances run."""
        cls.retained(base_dir)

        async def hold() -> None:
            config = AuditConfig(mode=Local(base_dir), service_id="orders", instance="00", handle_signals=False)
            async with AuditLogger(config) as audit:
                await audit.set_hold(reason="case 7", set_by="legal")

        anyio.run(hold)
        open_store(base_dir, instance="01").close()
        second = LivedLog(base_dir.parent / f"{base_dir.name} 01")
        second.chain.now_ns += 77
        shutil.rmtree(base_dir / "orders" / "01")
        shutil.copytree(second.session(9).directory, base_dir / "orders" / "01")
        path = base_dir / "orders" / "01" / "log.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"instance": "01"}))
        return base_dir

    @staticmethod
    def without_manifest(base_dir: Path) -> Path:
        """Segments that are not sealed yet."""
        log = LivedLog(base_dir).session(10, per_batch=1, max_bytes=1500)
        for path in [*log.directory.glob("*.sha256"), log.directory / "manifest.json"]:
            path.unlink()
        return base_dir


@pytest.fixture(scope="module")
def trails() -> Iterator[Trails]:
    """The trails, in memory."""
    with memory_directory() as base_dir:
        yield Trails(base_dir)


# -- what is done to them ------------------------------------------------------------------------------------------

Edit = Callable[[Path, random.Random], object]


def _pick(log: Path, random_: random.Random, pattern: str = "*") -> Path:
    return random_.choice([path for path in sorted(log.glob(pattern)) if path.is_file()] or [log / "nothing"])


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    if path.is_file():
        path.write_bytes(change(path.read_bytes()))


def _json(path: Path, change: Callable[[Any], object]) -> None:
    def edit(content: bytes) -> bytes:
        decoded = json.loads(content)
        change(decoded)
        return json.dumps(decoded).encode()

    if path.is_file():
        _rewrite(path, edit)


def convert(log: Path, random_: random.Random) -> None:
    """Make CR LF of each line feed, in one file or in all."""
    names = sorted(log.glob("*")) if random_.random() < 0.3 else [_pick(log, random_)]
    for path in names:
        _rewrite(path, lambda content: content.replace(b"\n", b"\r\n"))


def append_zeros(log: Path, random_: random.Random) -> None:
    """Append zeros, or other bytes, to a segment."""
    tail = random_.choice([bytes(1), bytes(512), bytes(5000), b"x", b"\n", b'{"seq":'])
    _rewrite(_pick(log, random_, "*.audit"), lambda content: content + tail)


def append_copies(log: Path, random_: random.Random) -> None:
    """Append what follows to a segment, as a failed fsync does; perhaps with a block of zeros, perhaps damaged."""
    segments = sorted(log.glob("*.audit"))
    if len(segments) < 2:
        return
    at = random_.randrange(len(segments) - 1)
    copies = bytearray(b"".join(path.read_bytes() for path in segments[at + 1 :]))
    copies = copies[: random_.choice([len(copies), random_.randrange(len(copies) + 1)])]
    if copies and random_.random() < 0.5:
        begin = random_.randrange(len(copies))
        end = min(len(copies), begin + random_.choice([1, 512, 4000]))
        copies[begin:end] = bytes(end - begin) if random_.random() < 0.7 else b"y" * (end - begin)
    _rewrite(segments[at], lambda content: content + bytes(copies))


def age_manifest(log: Path, random_: random.Random) -> None:
    """Take the newest entries away, as in a copy whose manifest is older."""
    count = random_.randint(1, 3)
    _json(log / "manifest.json", lambda manifest: manifest["segments"].__delitem__(slice(-count, None)))


def edit_entry(log: Path, random_: random.Random) -> None:
    """Change a member of an entry."""
    members: list[tuple[str, Sequence[object]]] = [
        ("state", ["live", "archived", "deleted", "lost", "damaged", "gone", 7]),
        *((name, [0, 1, 10**20, "1", True, 1.0, None]) for name in ("first_seq", "last_seq", "records", "bytes")),
        *((name, ["0" * 64, "", 5]) for name in ("sha256", "hash", "prev_hash", "segment")),
        *((name, ["2026-11-22T12:00:00.000000Z", "x"]) for name in ("first_timestamp", "last_timestamp")),
        ("recorded", [True, False, 0, "x"]),
        ("more", [1]),
    ]
    name, values = random_.choice(members)

    def change(manifest: dict[str, Any]) -> None:
        entry = random_.choice(manifest["segments"] or [{}])
        if random_.random() < 0.15:
            entry.pop(name, None)
        else:
            entry[name] = random_.choice(values)

    _json(log / "manifest.json", change)


def remove_quietly(log: Path, random_: random.Random) -> None:
    """Remove a segment with its checksum, and let the manifest say that it was deleted or archived."""
    path = _pick(log, random_, "*.audit")
    state = random_.choice(["deleted", "archived", "live"])
    for file in (path, Path(f"{path}.sha256")):
        file.unlink(missing_ok=True)

    def change(manifest: dict[str, Any]) -> None:
        for entry in manifest["segments"]:
            if entry["segment"] == path.name or random_.random() < 0.1:
                entry["state"] = state

    _json(log / "manifest.json", change)


def edit_small_file(log: Path, random_: random.Random) -> None:
    """Change, remove or replace log.json, hold.json or a checksum file."""
    path = random_.choice([log / "log.json", log / "hold.json", log / "manifest.json", _pick(log, random_, "*.sha256")])
    what = random_.randrange(6)
    if what == 0:
        path.unlink(missing_ok=True)
    elif what == 1:
        path.write_bytes(random_.choice([b"", b"{}", b"[]", b"\xff", b"\xef\xbb\xbf{}", b"NaN", b'{"a":1}', b"[" * 9]))
    elif path.suffix == ".json":
        members = ["log_id", "service_id", "format_version", "created", "instance", "reason", "id", "set_by", "since"]
        value = random_.choice(["x", "", 1, 2, None, "0123456789abcdef", "00", "01"])
        _json(path, lambda decoded: decoded.__setitem__(random_.choice(members), value))


def replace_by_other_kind(log: Path, random_: random.Random) -> None:
    """Put a link, a directory or a FIFO in a file's place."""
    path = _pick(log, random_)
    if not path.exists() or path.name in LOCKS:
        return
    aside = log.parent.parent.parent / f"aside {random_.random()}"
    path.rename(aside)
    kind = random_.randrange(4)
    if kind == 0:
        path.symlink_to(aside)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        os.mkfifo(path)


def add_foreign(log: Path, random_: random.Random) -> None:
    """Add a file that looks like one of the log's."""
    first, second, far = (f"{seq:012d}-2026-11-22.audit" for seq in (0, 1, 9999))
    names = ["x.audit", "0.audit.sha256", "y.unfinished", first + ".sha256", second, far]
    names += ["archive/x.zst", f"archive/{first}.zst"]
    name = random_.choice(names)
    (log / "archive").mkdir(exist_ok=True)
    (log / name).write_bytes(random_.choice([b"", b"x", _pick(log, random_, "*.audit").read_bytes()]))


def move_instance(log: Path, random_: random.Random) -> None:
    """Rename, copy or exchange instances."""
    target = log.with_name(random_.choice(["01", "02", "00.old"]))
    what = random_.randrange(3)
    if what == 0 and not target.exists():
        log.rename(target)
    elif what == 1 and not target.exists():
        shutil.copytree(log, target, ignore=lambda _, names: [name for name in names if not _is_plain(log / name)])
    elif target.exists():
        aside = log.with_name("aside")
        log.rename(aside)
        target.rename(log)
        aside.rename(target)


def _is_plain(path: Path) -> bool:
    return not path.exists() or path.is_file() or path.is_dir()


OWN: list[Edit] = [
    convert,
    append_zeros,
    append_copies,
    age_manifest,
    edit_entry,
    edit_entry,
    remove_quietly,
    edit_small_file,
    edit_small_file,
    replace_by_other_kind,
    add_foreign,
    move_instance,
]


def edit_trail(base_dir: Path, other: Path, random_: random.Random) -> Iterator[str]:
    """Edit a trail one to three times; yield what was done."""
    for _ in range(random_.choice([1, 1, 1, 2, 3])):
        logs = sorted(path for path in (base_dir / "orders").iterdir() if path.is_dir())
        log = random_.choice(logs)
        for path in log.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(0o600)
        try:
            if random_.random() < 0.45:
                yield mutate(log, other, random_)
            else:
                edit = random_.choice(OWN)
                edit(log, random_)
                yield f"{edit.__name__} {log.name}"
        except (ValueError, IndexError, OSError, TypeError, KeyError, AttributeError) as error:
            yield f"nothing: {error!r}"  # an edit before this one has left nothing to edit


def compare(trails: Trails, base_dir: Path, seed: str, *, can_unpack: bool) -> None:
    """Edit a copy of a trail and hold the two verdicts against each other."""
    random_ = random.Random(seed)  # noqa: S311 - for repeating a run, not for secrets
    shutil.copytree(random_.choice(trails.base_dirs), base_dir / "audit")
    try:
        done = list(edit_trail(base_dir / "audit", trails.other.directory, random_))
        ours, reason = verdict_of_verify(base_dir / "audit")
        alone, said = verdict_of_standalone(base_dir / "audit")
        may_differ = not can_unpack and alone == NOT_CHECKED and "was not checked" in said
        is_in_archive = not can_unpack and ours == FOUND and alone == VALID and "not read here (zstd)" in said
        assert ours == alone or may_differ or is_in_archive, (
            f"seed {seed!r}: verify {ours} ({reason}), standalone {alone}: {done}\n{said}"
        )
    finally:
        shutil.rmtree(base_dir)


@pytest.mark.parametrize("can_unpack", [True, False], ids=["with zstd", "without zstd"])
def test_both_verifiers_accept_the_trails(trails: Trails, monkeypatch: pytest.MonkeyPatch, *, can_unpack: bool) -> None:
    """As they were written."""
    if not can_unpack:
        monkeypatch.setattr(standalone, "zstd", None)
    for base_dir in trails.base_dirs:
        assert verdict_of_verify(base_dir) == (VALID, "")
        assert verdict_of_standalone(base_dir)[0] == VALID


@pytest.mark.parametrize("can_unpack", [True, False], ids=["with zstd", "without zstd"])
def test_both_verifiers_agree_on_a_sample(trails: Trails, monkeypatch: pytest.MonkeyPatch, *, can_unpack: bool) -> None:
    """Two hundred edits each, the same in every run."""
    if not can_unpack:
        monkeypatch.setattr(standalone, "zstd", None)
    with memory_directory() as base_dir:
        for number in range(200):
            compare(trails, base_dir / "edited", f"sample {can_unpack} {number}", can_unpack=can_unpack)


@pytest.mark.campaign
@pytest.mark.parametrize("can_unpack", [True, False], ids=["with zstd", "without zstd"])
def test_both_verifiers_agree_on_ten_thousand_edits(
    trails: Trails, monkeypatch: pytest.MonkeyPatch, campaign: Campaign, *, can_unpack: bool
) -> None:
    """Others in every run; a failure names the seed."""
    if not can_unpack:
        monkeypatch.setattr(standalone, "zstd", None)
    with memory_directory() as base_dir:
        for number in campaign.rounds(10_000):
            compare(trails, base_dir / "edited", f"campaign {campaign.seed} {number}", can_unpack=can_unpack)
