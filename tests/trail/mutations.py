"""Random edits of a log's directory: bytes, lines, whole files; and whether one has changed anything that matters."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

#: Files that hold nothing of the log.
LOCKS = {"lock", "backup.lock"}
_BYTES = b'\0\n\r \t"\\{}[]:,09afz\x7f\xff'


def mutate(log: Path, other: Path, random_: random.Random) -> str:
    """Edit the directory of a log once; `other` is the directory of another log. Return what was done."""
    files = [path for path in sorted(log.rglob("*")) if path.is_file() and path.name not in LOCKS]
    path = random_.choice(files)
    edit = random_.choice(_OF_FILES if random_.random() < 0.25 else _OF_LINES if random_.random() < 0.4 else _OF_BYTES)
    before = path.read_bytes()
    for each in files:
        each.chmod(0o600)
    done = edit(path, log, other, random_)
    return f"{edit.__name__.strip('_')} {path.relative_to(log)} ({len(before)} bytes): {done}"


def contents(log: Path) -> dict[str, object]:
    """Return what matters in a log's directory, by the files' names.

    White space in a JSON file does not, nor two members that nothing depends on: when the log was made, and whether a
    seal has been told of; a segment is live where the manifest does not say otherwise. Of a deleted segment nothing is
    left that could contradict the times that the manifest has of it. Nor does the lock matter, nor what was put aside.
    """
    found: dict[str, object] = {}
    for path in sorted(log.rglob("*")):
        name = str(path.relative_to(log))
        if path.is_file() and name not in LOCKS and not name.startswith("torn"):
            content = path.read_bytes()
            found[name] = _meaning(content) if name in {"manifest.json", "log.json"} else content
    return found


def _meaning(content: bytes) -> object:
    try:
        decoded = json.loads(content)
    except ValueError:
        return content
    if isinstance(decoded, dict):
        decoded.pop("created", None)
        entries = decoded.get("segments")
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                if entry.setdefault("state", "live") == "deleted":
                    for member, kept in (("first_timestamp", 10), ("last_timestamp", 0)):  # its date is in its name
                        if isinstance(entry.get(member), str):
                            entry[member] = entry[member][:kept]
                if isinstance(entry.get("recorded"), bool):
                    del entry["recorded"]
    return json.dumps(decoded, sort_keys=True)


Edit = Callable[[Path, Path, Path, random.Random], object]


def _flip_bit(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    content = bytearray(path.read_bytes())
    if content:
        at, bit = random_.randrange(len(content)), random_.randrange(8)
        content[at] ^= 1 << bit
        path.write_bytes(content)
        return at, bit
    return None


def _set_byte(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    content = bytearray(path.read_bytes())
    if content:
        at, byte = random_.randrange(len(content)), random_.choice(_BYTES)
        content[at] = byte
        path.write_bytes(content)
        return at, byte
    return None


def _insert_bytes(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    content = path.read_bytes()
    at = random_.choice([0, len(content), random_.randint(0, len(content))])
    new = bytes(random_.choices(_BYTES, k=random_.choice([1, 1, 2, 700])))
    path.write_bytes(content[:at] + new + content[at:])
    return at, new[:9]


def _cut_out_bytes(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    content = path.read_bytes()
    at, size = random_.randint(0, len(content)), random_.choice([1, 1, 2, 74, 512])
    path.write_bytes(content[:at] + content[at + size :])
    return at, size


def _truncate(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    size = random_.choice([0, random_.randint(0, path.stat().st_size)])
    os.truncate(path, size)
    return size


def _zero_block(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    content = path.read_bytes()
    at = 512 * random_.randint(0, len(content) // 512)
    path.write_bytes(content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :])
    return at


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _remove_line(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    lines = _lines(path)
    at = random_.randrange(len(lines)) if lines else 0
    path.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
    return at


def _remove_last_lines(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    lines = _lines(path)
    keep = random_.randint(0, len(lines))
    path.write_bytes(b"".join(lines[:keep]))
    return keep


def _repeat_line(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    lines = _lines(path)
    if not lines:
        return None
    source, at = random_.randrange(len(lines)), random_.randint(0, len(lines))
    path.write_bytes(b"".join([*lines[:at], lines[source], *lines[at:]]))
    return source, at


def _swap_lines(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    lines = _lines(path)
    if not lines:
        return None
    first, second = random_.randrange(len(lines)), random_.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    path.write_bytes(b"".join(lines))
    return first, second


def _move_line(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    lines = _lines(path)
    if not lines:
        return None
    line = lines.pop(random_.randrange(len(lines)))
    at = random_.randint(0, len(lines))
    path.write_bytes(b"".join([*lines[:at], line, *lines[at:]]))
    return at


def _take_line_of_other_file(path: Path, log: Path, other: Path, random_: random.Random) -> object:
    source = random_.choice([*log.glob("*.audit"), *other.glob("*.audit")])
    lines, theirs = _lines(path), _lines(source)
    at = random_.randint(0, len(lines))
    path.write_bytes(b"".join([*lines[:at], random_.choice(theirs or [b""]), *lines[at + random_.randint(0, 1) :]]))
    return source.name, at


def _remove_file(path: Path, _log: Path, _other: Path, _random: random.Random) -> object:
    path.unlink()
    return None


def _rename_file(path: Path, _log: Path, _other: Path, random_: random.Random) -> object:
    digits = [at for at, letter in enumerate(path.name) if letter.isdigit()]
    if digits and random_.random() < 0.8:
        at = random_.choice(digits)
        name = path.name[:at] + random_.choice("0123456789") + path.name[at + 1 :]
    else:
        name = random_.choice([path.name + ".audit", path.name.upper(), "x.audit", "000000000099-2026-11-22.audit"])
    path.rename(path.with_name(name))
    return name


def _swap_files(path: Path, log: Path, _other: Path, random_: random.Random) -> object:
    second = random_.choice([each for each in log.rglob("*") if each.is_file() and each.name not in LOCKS])
    content = path.read_bytes()
    path.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return second.name


def _copy_file(path: Path, log: Path, _other: Path, random_: random.Random) -> object:
    target = random_.choice([each for each in log.rglob("*") if each.is_file() and each.name not in LOCKS])
    if target != path:
        shutil.copyfile(path, target)
    return target.name


def _take_file_of_other_log(path: Path, log: Path, other: Path, random_: random.Random) -> object:
    theirs = random_.choice([each for each in other.rglob("*") if each.is_file() and each.name not in LOCKS])
    target = random_.choice([path, log / theirs.name])
    target.write_bytes(theirs.read_bytes())
    return theirs.name, target.name


_OF_BYTES: list[Edit] = [_flip_bit, _flip_bit, _set_byte, _insert_bytes, _cut_out_bytes, _truncate, _zero_block]
_OF_LINES: list[Edit] = [
    _remove_line,
    _remove_last_lines,
    _repeat_line,
    _swap_lines,
    _move_line,
    _take_line_of_other_file,
]
_OF_FILES: list[Edit] = [_remove_file, _rename_file, _swap_files, _copy_file, _take_file_of_other_log]
