"""The key store of a log that is being opened: the parts that seal, and the parts that store keys, made together."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from audit_async._trail.log_files import Log
from audit_async._writer.encoder import Encoder
from audit_async._writer.erasure_recovery import Recovered, recover_erasures
from audit_async._writer.key_commits import KeyCommits
from audit_async.config import Privacy
from audit_async.config.key_store_settings import ExternalMasterKey
from audit_async.errors import ConfigError
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


#: What an own key store has to have; a protocol that is not checked at run time has no list of it before Python 3.13.
_OF_A_STORE: Final = frozenset(name for name in vars(KeyStore) if not name.startswith("_"))


def open_keys(settings: Privacy, base_dir: Path, log_name: str, log_id: str, encoder: Encoder) -> OpenedKeys:
    """Open the key store and register the log; from then on the encoder seals. Blocks; for the disk thread.

    Raises:
        AuditError: What `open_key_store` raises, which says what to do; `ConfigError` for an own store that lacks
            something of `KeyStore`.
    """
    given = settings.key_store
    if isinstance(given, str):
        assert isinstance(settings.master_key, str | ExternalMasterKey)  # noqa: S101 - the settings were checked
        store: KeyStore = open_key_store(given, settings.master_key, normalize=settings.normalize, trail=base_dir)
    else:
        if missing := sorted(name for name in _OF_A_STORE if not hasattr(given, name)):
            raise ConfigError("privacy.key_store", f"a {type(given).__name__} is no KeyStore: it has no {missing[0]}")
        store = given  # type: ignore[assignment]  # it has all of it
    try:
        session = store.open_session(log_name)
        sealer = Sealer(settings, store, log_id, epoch=store.epoch(), changed=encoder.forget_context_texts)
    except BaseException:
        if store is not given:
            store.close()
        raise
    encoder.seal_with(sealer)
    return OpenedKeys(store, KeyCommits(store, session, sealer, log_id=log_id, owns_store=store is not given), sealer)
