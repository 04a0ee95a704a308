"""One flipped bit, anywhere in a log: opening or verifying says so, with our own errors and no others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_async._chain import BadRecord, check_record
from audit_async._durable import disk
from audit_async._layout.manifest import read_manifest
from audit_async.errors import LogCorrupted
from tests.store.chained import Chain, log_path, memory_directory, open_store


def make_log(base_dir: Path, records: int) -> Chain:
    """Make a log with sealed segments and an active one."""
    chain = Chain()
    store = open_store(base_dir, max_bytes=1200)
    for _ in range(records):
        store.commit(chain.batch(), sync=True)
    assert len(store.sealed_segments) == 2
    store.close()
    return chain


def flips(content: bytes, step: int) -> Iterator[tuple[int, bytes]]:
    """Give the content with one bit flipped, in each byte in turn, a different bit from byte to byte."""
    for at in range(0, len(content), step):
        changed = bytearray(content)
        changed[at] ^= 1 << (at % 8)
        yield at, bytes(changed)


def verdict(log: Path, chain: Chain) -> str | None:
    """Open and verify as a reader with a manifest does; return what was found, None for nothing."""
    try:
        store = open_store(log.parent.parent, max_bytes=1200)
    except LogCorrupted as error:
        return str(error)
    store.close()
    if store.recovered:
        return f"recovered: {store.recovered[0].reason}"
    if store.head != chain.head:
        return "the head is another one"
    head = None
    for entry in read_manifest(log):
        content = (log / entry.segment).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            return f"{entry.segment} is not what was sealed"
        if (log / f"{entry.segment}.sha256").read_bytes() != f"{entry.sha256}  {entry.segment}\n".encode():
            return f"the checksum file of {entry.segment} differs"
        lines = content.splitlines(keepends=True)
        for line in lines:
            try:
                checked = check_record(line, head)
            except BadRecord as error:
                return str(error)
            head = checked.head
        if (entry.first_timestamp.encode() not in lines[0]) or (entry.last_timestamp.encode() not in lines[-1]):
            return f"{entry.segment}: a time is another one"
    return None


@pytest.mark.parametrize("which", ["active", "sealed", "checksum", "manifest", "identity"])
def test_a_flipped_bit_is_reported(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte of each file in turn; what may pass is white space and two members that nothing depends on."""
    monkeypatch.setattr(disk, "sync_data", lambda _: None)
    monkeypatch.setattr(disk, "sync_directory", lambda _: None)
    with memory_directory() as base_dir:
        chain = make_log(base_dir, 6)
        log = log_path(base_dir)
        names = sorted(path.name for path in log.glob("*.audit"))
        name = {
            "active": names[-1],
            "sealed": names[0],
            "checksum": f"{names[0]}.sha256",
            "manifest": "manifest.json",
            "identity": "log.json",
        }[which]
        kept = {path.name: (path.stat().st_mode, path.read_bytes()) for path in log.iterdir()}
    unreported = []
    for at, changed in flips(kept[name][1], 1):
        with memory_directory() as base_dir:
            log = log_path(base_dir)
            log.parent.mkdir(mode=0o700)
            log.mkdir(mode=0o700)
            for other, (mode, content) in kept.items():
                (log / other).write_bytes(changed if other == name else content)
                (log / other).chmod(mode)
            if verdict(log, chain) is None:
                unreported.append(at)
    content = kept[name][1]
    if which == "manifest":  # of white space there are several kinds; `recorded` only says what to tell once more
        unreported = [
            at for at in unreported if not content[at : at + 1].isspace() and b'"recorded"' not in _line(content, at)
        ]
    if which == "identity":  # the log's age is told, not checked; a white space may be another
        unreported = [at for at in unreported if at < content.index(b'"created"')]
    assert unreported == []


def _line(content: bytes, at: int) -> bytes:
    begin = content.rfind(b"\n", 0, at) + 1
    return content[begin : content.find(b"\n", at)]
