"""Verifying logs together with what was signed of them: which key is for which log, and one report on everything.

What is checked of one log is the subject of `verification` and `signed_heads`. Needs the extra `tlog`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import anyio.from_thread
import anyio.to_thread
import msgspec

from audit_async._trail.log_files import Log, list_segments
from audit_async._verify.findings import Note, Observation, Observations
from audit_async._verify.signed_heads import SignedHeads, check_signed_heads
from audit_async._verify.verification import verify_trail
from audit_async._verify.verified_before import Verified
from audit_async._verify.verify_report import Progress, VerifyReport
from audit_async._verify.verify_scope import Everything, Scope, select
from audit_async.errors import ConfigError, LogCorrupted
from audit_async.status import Position
from audit_async.tlog.checkpoint import Checkpoint
from audit_async.tlog.failures import InvalidSignature, Malformed
from audit_async.tlog.log_monitor import directory_source, http_source
from audit_async.tlog.policy import Policy
from audit_async.tlog.tiles import FileReader

__all__ = ["TREE_DIRECTORY", "policy_for", "published_at", "verify_signed_trail"]

#: The place in its own directory in which a log publishes its tree by default.
TREE_DIRECTORY: Final = "tlog"


async def verify_signed_trail(
    logs: Sequence[Log],
    policy: Policy,
    scope: Scope | None = None,
    *,
    known_checkpoints: Mapping[str, bytes] | None = None,
    published: str | os.PathLike[str] | None = None,
    expected_heads: Mapping[str, Position] | None = None,
    verified: Verified | None = None,
    skip_encrypted: bool = False,
    processes: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> VerifyReport:
    """Verify logs as `verify_trail` does, and compare each of them with the checkpoints that the policy accepts.

    A key's name says which log it is for: one that ends in `/<service>/<instance>` is for the log of that name, any
    other for all logs without such a key. At a collector the names are the host's, and a key that ends in
    `/<host>/<service>/<instance>` is for the log of that host alone. A log that has a key must publish what it has
    signed. That the policy knows a log that is not here is a note. Whatever the scope, the hashes of all records are
    read.

    Args:
        logs: The logs.
        policy: Whose signatures count.
        scope: The part of each that is verified; None for everything.
        known_checkpoints: Signed notes that were kept elsewhere, each by the words that say where.
        published: The URL or directory at which the one log is published; None for `tlog/` of each.
        expected_heads: As for `verify_trail`.
        verified: As for `verify_trail`; the hashes of all records are compared with what was signed all the same.
        skip_encrypted: As for `verify_trail`.
        processes: As for `verify_trail`.
        progress: Called with the bytes of both: what is compared with the signatures, then what is verified.

    Raises:
        ConfigError: As `verify_trail` does, and for a known checkpoint that no key of the policy has signed.
        SourceFailed: A published log can't be reached.
    """
    known = _read_known(policy, known_checkpoints or {})
    origins = _origins(policy, logs)
    if published is not None and sum(map(bool, origins.values())) > 1:
        raise ConfigError("published", "belongs to one log; name the log by its service and instance")

    meter = await anyio.to_thread.run_sync(_Meter, [log for log in logs if origins[log.name]], logs, scope, progress)

    def check(log: Log) -> SignedHeads:
        source = published_at(log.directory / TREE_DIRECTORY if published is None else published)

        def tick(compared: int, records: int) -> None:
            anyio.from_thread.check_cancelled()
            meter.compared(log, compared, records)

        return check_signed_heads(log, policy, source, origins=origins[log.name], known=known, tick=tick)

    results: dict[str, SignedHeads] = {}
    for log in logs:
        results[log.name] = await anyio.to_thread.run_sync(check, log)
    report = await verify_trail(
        logs,
        scope,
        expected_heads=expected_heads,
        verified=verified,
        skip_encrypted=skip_encrypted,
        processes=processes,
        progress=meter.verified if progress is not None else None,
    )
    return _merged(report, results, policy, known, origins)


class _Meter:
    """Progress over two passes: all records of the logs that sign are compared, then what `scope` names is verified."""

    def __init__(
        self,
        signing: Sequence[Log],
        logs: Sequence[Log],
        scope: Scope | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        """Count the bytes of both passes; blocks."""
        self._progress: Final = progress
        wanted = progress is not None
        self._bytes = {log.name: _bytes_of(log, Everything()) if wanted else 0 for log in signing}
        self._to_compare = sum(self._bytes.values())
        self._to_verify = sum(_bytes_of(log, scope or Everything()) if wanted else 0 for log in logs)
        self._before = 0  # bytes of the logs that were compared before this one
        self._log = ""
        self._done = 0

    def compared(self, log: Log, records: int, of_all: int) -> None:
        """Report how far a log's records are compared; from a worker thread."""
        if self._progress is None or not records:
            return
        if log.name != self._log:
            self._before += self._bytes.get(self._log, 0)
            self._log = log.name
        done = self._before + self._bytes.get(log.name, 0) * min(records, of_all) // of_all
        if done > self._done:  # a log that is compared again starts over, and most ticks show no progress
            self._done = done
            total = self._to_compare + self._to_verify
            so_far = Progress(log=log.name, bytes_done=done, bytes_total=max(done, total), records=0)
            anyio.from_thread.run_sync(self._progress, so_far)

    def verified(self, progress: Progress) -> None:
        """Report how far the verification is, which is the second pass; on the event loop."""
        assert self._progress is not None  # noqa: S101 - it is only called if there is one
        first = self._to_compare
        so_far = msgspec.structs.replace(
            progress, bytes_done=first + progress.bytes_done, bytes_total=first + progress.bytes_total
        )
        self._progress(so_far)


def _bytes_of(log: Log, scope: Scope) -> int:
    """Return how many bytes of a log are to be read, 0 if that can't be said: reading it says what is wrong."""
    total = 0
    try:
        for segment, begin in ((part.segment, part.begin) for part in select(list_segments(log), scope)):
            if segment.sealed is None:
                total += os.stat(segment.log.directory / segment.name).st_size - begin
            elif segment.is_readable:
                total += segment.sealed.bytes - begin
    except (OSError, LogCorrupted):
        return 0
    return total


def published_at(where: str | os.PathLike[str]) -> FileReader:
    """Return a reader of a published log, at a URL or in a directory; raises `ConfigError` for a URL that is none."""
    if isinstance(where, str) and where.lower().startswith(("http://", "https://")):
        try:
            return http_source(where)
        except Malformed as error:
            raise ConfigError("published", error.reason) from error
    return directory_source(where)


def policy_for(policy: Policy, log: Log, others: Callable[[], Iterable[Log]]) -> Policy:
    """Return a policy with the log keys alone that are for one log, as `verify_signed_trail` chooses them.

    Args:
        policy: Whose signatures count.
        log: The log.
        others: Returns all logs of the trail; asked only if there is no key for this log alone.
    """
    own = _named_for(log, [entry.key.name for entry in policy.logs])
    if not own:
        own = _origins(policy, [log, *others()])[log.name]
    return policy._replace(logs=tuple([entry for entry in policy.logs if entry.key.name in own]))


def _read_known(policy: Policy, notes: Mapping[str, bytes]) -> list[tuple[Checkpoint, str]]:
    """Return checkpoints that were kept elsewhere, each with the words that say where.

    The log's own signature is what counts: it is evidence against the log even if witnesses had not cosigned yet.
    Raises `ConfigError` for one that no log of the policy has signed.
    """
    known = []
    for place, content in notes.items():
        try:
            checkpoint = policy._replace(quorum=None).verify(content).checkpoint
        except (Malformed, InvalidSignature) as error:
            raise ConfigError("known_checkpoints", f"{place}: {error}") from error
        known.append((checkpoint, f"the checkpoint kept in {place}"))
    return known


def _origins(policy: Policy, logs: Sequence[Log]) -> dict[str, tuple[str, ...]]:
    """Return under which names each log may sign; see `verify_signed_trail`."""
    known = tuple(dict.fromkeys([entry.key.name for entry in policy.logs]))
    named = {log.name: _named_for(log, known) for log in logs}
    taken = {origin for own in named.values() for origin in own}
    free = tuple([origin for origin in known if origin not in taken])
    return {name: own or free for name, own in named.items()}


def _named_for(log: Log, origins: Sequence[str]) -> tuple[str, ...]:
    """Return those origins that are named after a log; of a collected one, if any are, those that name its host."""
    names, collected = [log.name], log.collected
    if collected is not None:
        slot = f"{collected.service}/{collected.instance}"
        names = [f"{collected.host}/{slot}", slot]
    for name in names:
        if own := tuple([origin for origin in origins if f"/{origin}".endswith(f"/{name}")]):
            return own
    return ()


def _merged(
    report: VerifyReport,
    results: Mapping[str, SignedHeads],
    policy: Policy,
    known: Sequence[tuple[Checkpoint, str]],
    origins: Mapping[str, tuple[str, ...]],
) -> VerifyReport:
    """Return the report with what was observed of signatures."""
    findings, unreadable = list(report.findings), list(report.unreadable)
    notes = [note for note in report.notes if note.kind != "truncation_unseen" or not results[note.log].is_held]
    claimed: dict[str, str] = {}
    for name, result in results.items():
        if result.origin is not None and (other := claimed.setdefault(result.origin, name)) != name:
            result.observed.add(Observation.CHECKPOINT_SHARED, other=other, origin=result.origin)
        findings += result.observed.findings
        unreadable += result.observed.unreadable
        notes += result.observed.notes
    here = {origin for own in origins.values() for origin in own}
    for checkpoint, place in known:
        if checkpoint.origin not in here:
            elsewhere = Observations(log=checkpoint.origin)
            elsewhere.add(Observation.CHECKPOINT_OF_NO_LOG, place=place)
            findings += elsewhere.findings
    notes += _absent(policy, claimed)
    logs = [
        msgspec.structs.replace(log, findings=log.findings + results[log.log].observed.found) for log in report.logs
    ]
    return msgspec.structs.replace(
        report,
        valid=not findings and not unreadable,
        findings=tuple(findings),
        unreadable=tuple(unreadable),
        notes=tuple(notes),
        logs=tuple(logs),
    )


def _absent(policy: Policy, claimed: Mapping[str, str]) -> list[Note]:
    """Return a note for each log that the policy has a key for and that nothing here publishes a checkpoint of."""
    notes: list[Note] = []
    for origin in dict.fromkeys([entry.key.name for entry in policy.logs if entry.key.name not in claimed]):
        observed = Observations(log=origin)
        observed.add(Observation.LOG_ABSENT)
        notes += observed.notes
    return notes
