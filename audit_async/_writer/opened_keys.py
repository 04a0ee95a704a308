"""The key store of a log that is being opened: the parts that seal, and the parts that store keys, made together."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from audit_async._trail.log_files import Log
from audit_async._writer.encoder import Encoder
from audit_async._writer.erasure_recovery import Recovered, recover_erasures
from audit_async._writer.key_commits import KeyCommits
from audit_async.config import Privacy
from audit_async.config.key_store_settings import ExternalMasterKey
from audit_async.privacy.key_store import Changes, KeyStore
from audit_async.privacy.sealer import Sealer
from audit_async.privacy.sqlite_key_store import open_key_store


class OpenedKeys(NamedTuple):
    """What an open log has of its key store."""

    store: KeyStore
    commits: KeyCommits
    sealer: Sealer

    def recover_erasures(self, log: Log, hold_ids: list[str]) -> tuple[Recovered, Changes]:
        """Destroy again what a restored key store has forgotten; return the rest that is to be done, and its state."""
        recovered = recover_erasures(log, self.store, hold_ids, log.directory.parent.parent)
        return recovered, self.look()

    def look(self) -> Changes:
        """Take notice of erasures; return what the key store says of them."""
        self.commits.look()
        return self.store.changes_since(self.sealer.epoch)


def open_keys(settings: Privacy, base_dir: Path, log_name: str, log_id: str, encoder: Encoder) -> OpenedKeys:
    """Open the key store and register the log; from then on the encoder seals. Blocks; for the disk thread.

    Raises:
        AuditError: What `open_key_store` raises, which says what to do.
    """
    given = settings.key_store
    if isinstance(given, str):
        assert isinstance(settings.master_key, str | ExternalMasterKey)  # noqa: S101 - the settings were checked
        store: KeyStore = open_key_store(given, settings.master_key, normalize=settings.normalize, trail=base_dir)
    else:
        store = given  # type: ignore[assignment]  # the settings have looked at its methods
    try:
        session = store.open_session(log_name)
        sealer = Sealer(settings, store, log_id, epoch=store.epoch(), changed=encoder.forget_context_texts)
    except BaseException:
        if store is not given:
            store.close()
        raise
    encoder.seal_with(sealer)
    return OpenedKeys(store, KeyCommits(store, session, sealer, log_id=log_id, owns_store=store is not given), sealer)
