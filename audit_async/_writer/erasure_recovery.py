"""Completing at an opening what an erasure has left undone, or what a key store from a backup has forgotten."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable
from datetime import date
from typing import Final, NamedTuple

from audit_async._trail.log_files import Log
from audit_async._writer.chain_erasures import recorded_erasures, stated_epoch
from audit_async.events import AuditEvent, AuditKeyStoreRestored, AuditSubjectErased
from audit_async.privacy.data_keys import key_id_bytes
from audit_async.privacy.key_store import KeyStore
from audit_async.privacy.store_failures import ErasureRefused

_log: Final = logging.getLogger("audit_async")


class Completed(NamedTuple):
    """What an opening has done for erasures."""

    events: list[AuditEvent]  #: to be recorded
    postponed: set[str]  #: erasures that a legal hold has stopped half-way


def complete_erasures(log: Log, keys: KeyStore, holds: Iterable[str]) -> Completed:
    """Do what an interrupted erasure, or a restored key store, has left undone.

    Before the log is open; blocks. The erasures are ended by `end_erasures` once the records are durable.

    Args:
        log: The log, locked.
        keys: Its key store.
        holds: The ids of the legal holds in force; copied into the key store first.
    """
    for hold_id in holds:
        keys.set_hold(log.log_id, hold_id)
    events: list[AuditEvent] = []
    postponed: set[str] = set()
    unfinished = [erasure_id for erasure_id in keys.unfinished_erasures() if erasure_id.startswith(log.log_id[:16])]
    expected_epoch, epoch = stated_epoch(log), keys.epoch()
    if not unfinished and expected_epoch <= epoch:
        return Completed(events, postponed)
    recorded = recorded_erasures(log)
    for erasure_id, erasure in recorded.by_id.items():
        is_open = not erasure.has_ended
        if erasure_id not in unfinished and not is_open and erasure.epoch <= epoch:
            continue
        key_ids = list(map(key_id_bytes, erasure.key_ids))
        try:
            # What had ended was allowed then; a hold that has come since keeps what was only begun.
            destroyed = keys.destroy(key_ids, erasure_id=erasure_id, force=erasure.forced or not is_open)
        except ErasureRefused as refused:
            _log.warning(
                "audit log %s: the erasure %s was begun, and is not completed: %s", log.name, erasure_id, refused
            )
            postponed.add(erasure_id)
            continue
        if is_open:
            events.append(
                AuditSubjectErased(
                    erasure_id=erasure_id,
                    epoch=erasure.epoch,
                    keys=destroyed,
                    resumed=True,
                    incomplete=not erasure.is_whole or None,
                )
            )
    if expected_epoch > epoch:
        late = [key_id for key_id, since in recorded.refused.items() if since > epoch]
        keys.destroy(map(key_id_bytes, late), erasure_id="", force=True)
        if recorded.forgotten_before:
            keys.forget(date.fromisoformat(recorded.forgotten_before), force=True)
        keys.catch_up(expected_epoch)
        again = sum(len(erasure.key_ids) for erasure in recorded.by_id.values() if erasure.epoch > epoch)
        events.insert(
            0,
            AuditKeyStoreRestored(
                key_store=keys.store_id, epoch=epoch, expected_epoch=expected_epoch, keys=again + len(late)
            ),
        )
    return Completed(events, postponed)


def end_erasures(log_id: str, keys: KeyStore, postponed: Container[str]) -> None:
    """End this log's erasures in the key store: each is complete, or was never recorded and has destroyed nothing."""
    for erasure_id in keys.unfinished_erasures():
        if erasure_id.startswith(log_id[:16]) and erasure_id not in postponed:
            keys.end_erasure(erasure_id)
