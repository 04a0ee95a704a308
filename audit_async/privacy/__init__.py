"""Personal data that can be erased: keys outside the trail, and members sealed under them.

A trail can't be edited, so a person is erased by destroying the keys that his personal members are sealed under. This
room keeps those keys. It writes no record: what is sealed, and the records of an erasure, are the writer's.

Everything that applications need is imported from this package; its modules are implementation details:

| module | subject |
| --- | --- |
| `subjects` | who a key belongs to, and the pseudonym that the store knows him by |
| `data_keys` | keys and their ids |
| `key_store` | what a key store does for a log |
| `personal_plan` | which members of an event are sealed, and whose they are |
| `sealer` | sealing them, with a fresh key for whoever is new |
| `sealed_text` | the format of a sealed member |
| `opening_sealed` | opening the sealed members of records, and saying why one stays closed |
| `master_key` | where the master key comes from, and what it wraps |
| `sqlite_key_store` | the key store of one host |
| `main_file`, `month_file`, `sqlite_file` | its files: the keys of the days, the keys of the members, SQLite |
| `store_directory`, `process_sessions` | its directory and locks; who uses it at the moment |
| `store_creation`, `store_copy` | making one; copying one that is in use |
| `store_status`, `store_recovery` | how one is; opening one whose master key is lost |
| `erasure_requests`, `sqlite_requests`, `request_table` | erasures that wait, and the rules for them |
| `store_failures` | the errors |

It needs `cryptography`, which the extra `privacy` installs: `pip install 'audit-async[privacy]'`.
"""

from typing import TYPE_CHECKING, Final

from audit_async._first_use import Needed, imported_at_first_use

if TYPE_CHECKING:
    from audit_async.config import Privacy
    from audit_async.config.erasure_rules import ErasureRules
    from audit_async.config.key_store_settings import ExternalMasterKey, MasterKeySource, Normalization, WrapFunction
    from audit_async.events import Personal
    from audit_async.privacy.data_keys import KeyMaker, NewKey, key_id_bytes, key_id_text
    from audit_async.privacy.erasure_requests import BegunRequest, ErasureRequest, ErasureRequests, Unconfirmed
    from audit_async.privacy.key_store import Changes, Destroyed, Erasure, Forgotten, HeldBy, KeySession, KeyStore
    from audit_async.privacy.master_key import new_master_key
    from audit_async.privacy.sqlite_key_store import SqliteKeyStore, SqliteSession, open_key_store
    from audit_async.privacy.store_copy import StoreCopy, copy_key_store
    from audit_async.privacy.store_creation import create_key_store
    from audit_async.privacy.store_failures import (
        ErasureRefused,
        KeyStoreDamaged,
        KeyStoreError,
        KeyStoreForked,
        KeyStoreMissing,
        KeyStoreOutdated,
        KeyStoreRefused,
        KeyStoreUnavailable,
        MasterKeyError,
    )
    from audit_async.privacy.store_recovery import recover_key_store
    from audit_async.privacy.store_status import KeyStoreStatus, key_store_status
    from audit_async.privacy.subjects import UNATTRIBUTED, Subject

__all__ = [
    "UNATTRIBUTED",
    "BegunRequest",
    "Changes",
    "Destroyed",
    "Erasure",
    "ErasureRefused",
    "ErasureRequest",
    "ErasureRequests",
    "ErasureRules",
    "ExternalMasterKey",
    "Forgotten",
    "HeldBy",
    "KeyMaker",
    "KeySession",
    "KeyStore",
    "KeyStoreDamaged",
    "KeyStoreError",
    "KeyStoreForked",
    "KeyStoreMissing",
    "KeyStoreOutdated",
    "KeyStoreRefused",
    "KeyStoreStatus",
    "KeyStoreUnavailable",
    "MasterKeyError",
    "MasterKeySource",
    "NewKey",
    "Normalization",
    "Personal",
    "Privacy",
    "SqliteKeyStore",
    "SqliteSession",
    "StoreCopy",
    "Subject",
    "Unconfirmed",
    "WrapFunction",
    "copy_key_store",
    "create_key_store",
    "key_id_bytes",
    "key_id_text",
    "key_store_status",
    "new_master_key",
    "open_key_store",
    "recover_key_store",
]

# Imported at first use: a configuration that names `Privacy` does not wait for `cryptography`.
_HOMES: Final = {
    "audit_async.config": ("Privacy",),
    "audit_async.config.erasure_rules": ("ErasureRules",),
    "audit_async.config.key_store_settings": (
        "ExternalMasterKey",
        "MasterKeySource",
        "Normalization",
        "WrapFunction",
    ),
    "audit_async.events": ("Personal",),
    "audit_async.privacy.data_keys": ("KeyMaker", "NewKey", "key_id_bytes", "key_id_text"),
    "audit_async.privacy.erasure_requests": ("BegunRequest", "ErasureRequest", "ErasureRequests", "Unconfirmed"),
    "audit_async.privacy.key_store": (
        "Changes",
        "Destroyed",
        "Erasure",
        "Forgotten",
        "HeldBy",
        "KeySession",
        "KeyStore",
    ),
    "audit_async.privacy.master_key": ("new_master_key",),
    "audit_async.privacy.sqlite_key_store": ("SqliteKeyStore", "SqliteSession", "open_key_store"),
    "audit_async.privacy.store_copy": ("StoreCopy", "copy_key_store"),
    "audit_async.privacy.store_creation": ("create_key_store",),
    "audit_async.privacy.store_recovery": ("recover_key_store",),
    "audit_async.privacy.store_status": ("KeyStoreStatus", "key_store_status"),
    "audit_async.privacy.store_failures": (
        "ErasureRefused",
        "KeyStoreDamaged",
        "KeyStoreError",
        "KeyStoreForked",
        "KeyStoreMissing",
        "KeyStoreOutdated",
        "KeyStoreRefused",
        "KeyStoreUnavailable",
        "MasterKeyError",
    ),
    "audit_async.privacy.subjects": ("UNATTRIBUTED", "Subject"),
}

if not TYPE_CHECKING:  # or a type checker would believe in every name
    __getattr__, __dir__ = imported_at_first_use(__name__, _HOMES, Needed("cryptography", "privacy"))
