"""Verifying that the keys of sealed members are there: losing a key store erases everybody, and no record says so.

No key is opened and no master key is needed: whether a store knows an id is in its files in the clear.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from audit_async._query.key_check import MissingKeys, find_missing_keys
from audit_async._trail.log_files import Log
from audit_async._verify.findings import Observation, Observations
from audit_async._verify.verify_report import VerifyReport
from audit_async.privacy.known_ids import KnownIds

__all__ = ["with_key_findings"]


def with_key_findings(report: VerifyReport, logs: Sequence[Log], path: str | os.PathLike[str]) -> VerifyReport:
    """Return a report with what a key store lacks of the keys that these logs name; blocks, reads the logs once more.

    Holds some 200,000 key ids in memory, whatever the number of keys.

    Args:
        report: What was found otherwise.
        logs: The logs.
        path: The key store's directory.

    Raises:
        KeyStoreError: The store can't be opened, or not be read.
    """
    known = KnownIds(path)
    try:
        observed = [_observed(find_missing_keys(log, known), os.fspath(path)) for log in logs]
    finally:
        known.close()
    found = {observations.log: observations.found for observations in observed}
    findings = [finding for observations in observed for finding in observations.findings]
    return msgspec.structs.replace(
        report,
        valid=report.valid and not findings,
        findings=(*report.findings, *findings),
        notes=(*report.notes, *(note for observations in observed for note in observations.notes)),
        logs=tuple(msgspec.structs.replace(log, findings=log.findings + found.get(log.log, 0)) for log in report.logs),
    )


def _observed(missing: MissingKeys, store: str) -> Observations:
    observations = Observations(log=missing.log)
    if missing.other_store is not None:
        observations.add(Observation.KEY_STORE_OTHER, other=missing.other_store, store=store)
    if missing.is_outdated:
        observations.add(
            Observation.KEY_STORE_OLDER, stated=missing.stated_epoch, known=missing.store_epoch, store=store
        )
    if missing.records:
        observations.add(
            Observation.KEY_MISSING, seq=missing.first_seq, keys=missing.keys, records=missing.records, store=store
        )
    if missing.unread_segments:
        observations.add(
            Observation.KEYS_NOT_LOOKED_AT, segments=len(missing.unread_segments), name=missing.unread_segments[0]
        )
    return observations
