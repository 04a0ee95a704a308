"""Proof against the operator: what signing costs the log, how long a proof takes, and writing the tiles of a long log.

The log signs once a minute, as it does by itself, and once a second; its rate is also taken up to when a checkpoint
covers the last record, so that no work is left out. Proofs and tiles are of ten million records, or as many as
`BENCH_TLOG_RECORDS` says, whose hashes are made up: nothing that is measured depends on what was hashed. `python -m
bench.transparency DIRECTORY NUMBER` is the process that writes so many, and whose memory is measured.

Two files for each 256 records: on ext4 making one takes 20 us, and up to 600 in the minutes after many were deleted
there, since it looks past each inode that was freed lately. So run it on a disk where nothing else does that.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from hashlib import shake_128
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

import uvloop

from audit_async import AuditLogger, Batched, Immediate, Receipt, Transparency
from audit_async.logger.open_session import checkpoints_of
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.merkle import HASH_SIZE
from audit_async.tlog.signed_tree import SignedTree
from audit_async.tlog.signing_keys import Signer, load_signer, new_key, sign_checkpoint, write_key
from bench.frame import (
    Row,
    config,
    effort,
    in_turn,
    median,
    ordinary_event,
    percentile,
    ratios,
    row_of,
    show,
    work_directory,
)
from bench.throughput import Subject, produce

_ORIGIN: Final = "bench.example/bench/00"
#: What the log gives the tree at once, and after how many records a checkpoint is made.
_PIECE: Final = 4096
_A_CHECKPOINT: Final = 64 * _PIECE
_MODES: Final = {"immediate": Subject(Immediate()), "batched": Subject(Batched())}
_BY_DEFAULT: Final = ", signing"
_INTERVALS_S: Final = {"": None, _BY_DEFAULT: 60.0, ", signing every second": 1.0}


def run() -> None:
    """Measure and print."""
    longest = int(os.environ.get("BENCH_TLOG_RECORDS", effort(10_000_000, 20_000)))
    with work_directory() as directory:
        write_key(directory / "key.pem", new_key())
        show("transparency: durable events a second, one producer, signing and not signing", _throughput(directory))
        rows, tree = _tiles(directory, longest)
        show("transparency: tiles against the length of the log", rows)
        show("transparency: the evidence for one record", _proofs(directory, tree, longest))


# -- what signing costs ------------------------------------------------------------------------------------------------


class _Signed(NamedTuple):
    """What one run with or without signatures brought about."""

    durable_per_s: float  #: until the last was acknowledged
    signed_per_s: float  #: until a checkpoint covered the last; the same if nothing is signed
    behind: int  #: records that were not in the tree yet when the last was acknowledged


def _throughput(directory: Path) -> list[Row]:
    events, rounds = effort(400_000, 2_000), effort(7, 1)
    fresh = count()

    def written(subject: Subject, interval_s: float | None) -> _Signed:
        done = uvloop.run(_write(directory, f"log{next(fresh)}", subject, events, interval_s))
        assert isinstance(done, _Signed)
        return done

    subjects = {
        f"{mode}{how}": partial(written, subject, interval_s)
        for mode, subject in _MODES.items()
        for how, interval_s in _INTERVALS_S.items()
    }
    runs = in_turn(subjects, rounds=rounds)
    rows = []
    for mode in _MODES:
        plain = [each.durable_per_s for each in runs[mode]]
        rows.append(row_of(mode, plain, "events/s", "not signed"))
        for how in list(_INTERVALS_S)[1:]:
            name = f"{mode}{how}"
            durable, signed = [each.durable_per_s for each in runs[name]], [each.signed_per_s for each in runs[name]]
            behind = median([each.behind for each in runs[name]])
            rows += [
                row_of(name, durable, "events/s", f"{behind:,.0f} records not in the tree yet at the end"),
                row_of(
                    f"{name} / {mode}", ratios(durable, plain), "", digits=2, floor=0.7 if how == _BY_DEFAULT else None
                ),
                row_of(f"{name}, until all is signed / {mode}", ratios(signed, plain), "", digits=2),
            ]
    return rows


async def _write(directory: Path, name: str, subject: Subject, events: int, interval_s: float | None) -> _Signed:
    signing = None
    if interval_s is not None:
        signing = Transparency(key=directory / "key.pem", origin=_ORIGIN, interval=interval_s)
    async with AuditLogger(config(directory / name, subject.mode, transparency=signing)) as audit:
        began = perf_counter()
        durable_per_s = (await produce(audit, subject, events)).events_per_s
        if signing is None:
            return _Signed(durable_per_s, durable_per_s, 0)
        behind = audit.stats().durable - checkpoints_of(audit._session, audit._buffer)._tree.size
        await audit.checkpoint()
        return _Signed(durable_per_s, events / (perf_counter() - began), behind)


# -- tiles -------------------------------------------------------------------------------------------------------------


class _Written(NamedTuple):
    """What a process that wrote tiles says."""

    records_per_s: float
    most_kib: int  #: the most memory that it held


def _tiles(directory: Path, longest: int) -> tuple[list[Row], Path]:
    """Return the rows, and a directory with the longest tree."""
    lengths = [longest // 10, longest // 4, longest // 2, longest]
    fresh = count()
    measured: dict[int, list[_Written]] = {length: [] for length in lengths}
    for number in range(effort(2, 1)):
        for length in lengths[:: 1 if number % 2 else -1]:
            tree = directory / f"tree{next(fresh)}"
            measured[length].append(_in_a_process(tree, length))
            if length == longest:
                kept = tree
    rows = []
    for length, runs in measured.items():
        rates, memory = [each.records_per_s for each in runs], [each.most_kib / 1024 for each in runs]
        rows.append(row_of(f"{length:,} records", rates, "records/s"))
        rows.append(row_of(f"{length:,} records: the most memory held", memory, "MiB", digits=1))
    shortest_runs, longest_runs = measured[lengths[0]], measured[longest]
    slower = ratios([each.records_per_s for each in shortest_runs], [each.records_per_s for each in longest_runs])
    grown = [(b.most_kib - a.most_kib) / 1024 for a, b in zip(shortest_runs, longest_runs, strict=True)]
    what = f"{longest:,} and {lengths[0]:,}"
    rows.append(row_of(f"linear? time a record, {what}", slower, "times", digits=2, ceiling=1.25))
    rows.append(row_of(f"constant? memory, {what}", grown, "MiB more", digits=1, ceiling=4))
    return rows, kept


def _in_a_process(tree: Path, records: int) -> _Written:
    command = [sys.executable, "-m", "bench.transparency", str(tree), str(records)]
    done = subprocess.run(  # noqa: S603 - ourselves
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    return _Written(*json.loads(done.stdout))


def main() -> None:
    """Write a tree and publish its checkpoints as the command line says; print the rate and the most memory held."""
    tree, records = Path(sys.argv[1]), int(sys.argv[2])
    signer = _signer(tree.parent)
    publisher = _open(tree, 0, signer)
    began = perf_counter()
    for hashes in _record_hashes(records):
        publisher.append(hashes)
        if publisher.size % _A_CHECKPOINT == 0 or publisher.size == records:
            publisher.publish(_sign(publisher.prepare(), signer))
    took_s = perf_counter() - began
    publisher.close()
    # Not `getrusage`: its figure includes what the parent held before it became this program.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    print(json.dumps([records / took_s, int(found[1])]))


def _record_hashes(records: int) -> Iterator[list[bytes]]:
    """Give made-up record hashes in pieces, the same ones each time."""
    for begin in range(0, records, _PIECE):
        length = min(_PIECE, records - begin)
        made = shake_128(b"%d" % begin).digest(length * HASH_SIZE)
        yield [made[at : at + HASH_SIZE] for at in range(0, len(made), HASH_SIZE)]


def _record_hash(index: int) -> bytes:
    """Return one of them."""
    begin, at = index // _PIECE * _PIECE, index % _PIECE * HASH_SIZE
    return shake_128(b"%d" % begin).digest(at + HASH_SIZE)[at:]


def _signer(directory: Path) -> Signer:
    return load_signer(directory / "key.pem", origin=_ORIGIN)


def _sign(checkpoint: Checkpoint, signer: Signer) -> SignedCheckpoint:
    return asyncio.run(sign_checkpoint(checkpoint, [signer]))


def _open(tree: Path, records: int, signer: Signer) -> SignedTree:
    return SignedTree.open(tree, origin=_ORIGIN, keys=[signer.key], records=records, record_hash=_record_hash)


# -- proofs ------------------------------------------------------------------------------------------------------------


def _proofs(directory: Path, tree: Path, longest: int) -> list[Row]:
    times = effort(2_000, 50)
    publisher = _open(tree, longest, _signer(directory))
    assert publisher.size == longest
    asked = [(index, _record_hash(index)) for index in random.Random(7).choices(range(longest), k=times)]  # noqa: S311 - no secret
    took_ms = []
    for index, record_hash in asked:
        began = perf_counter()
        publisher.prove(index, record_hash)
        took_ms.append(1e3 * (perf_counter() - began))
    publisher.close()
    events = effort(500_000, 2_000)
    by_receipt_ms, by_id_ms = uvloop.run(_prove_in_a_log(directory, events, times))
    return [
        _quantiles(f"a proof from the tiles of {longest:,} records", took_ms),
        _quantiles(f"`await audit.prove(receipt)` in an open log of {events:,} records", by_receipt_ms),
        _quantiles("`await audit.prove(audit_id)` in that log", by_id_ms),
    ]


def _quantiles(subject: str, took_ms: list[float]) -> Row:
    p50, p99, most = (percentile(took_ms, percent) for percent in (50, 99, 100))
    figure = f"p50 {p50:.2f}, p99 {p99:.2f}, the slowest {most:.2f} ms"
    return Row(subject, figure, f"{len(took_ms):,} proofs, records at random", p99, "ms", p50, most, ceiling=5)


async def _prove_in_a_log(directory: Path, events: int, times: int) -> tuple[list[float], list[float]]:
    """Return how long it takes, in ms, by receipt and by audit_id."""
    key = Transparency(key=directory / "key.pem", origin=_ORIGIN)
    async with AuditLogger(config(directory / "proofs", Batched(), transparency=key)) as audit:
        receipts: list[Receipt] = []
        for n in range(events):
            receipts.append(audit.emit(ordinary_event(n)))
            if n % 1000 == 0:
                await receipts[-1].durable()
        await audit.flush()
        await audit.checkpoint()
        took_ms: tuple[list[float], list[float]] = [], []
        for receipt in random.Random(7).choices(receipts, k=times):  # noqa: S311 - no secret
            named: tuple[Receipt | str, Receipt | str] = receipt, receipt.audit_id
            for record, took in zip(named, took_ms, strict=True):
                began = perf_counter()
                await audit.prove(record)
                took.append(1e3 * (perf_counter() - began))
        return took_ms


if __name__ == "__main__":
    main()
