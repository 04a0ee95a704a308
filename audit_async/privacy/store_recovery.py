"""A key store whose master key is lost, opened by the escrow key and put under another master key."""

from __future__ import annotations

import os

from audit_async.config.key_store_settings import MasterKeySource
from audit_async.config.transparency import SecretSource
from audit_async.privacy.main_file import PSEUDONYMS, MainFile, wrap_row
from audit_async.privacy.master_key import EscrowKey, load_master_key
from audit_async.privacy.store_directory import MAIN, StoreDirectory
from audit_async.privacy.store_failures import MasterKeyError


def recover_key_store(path: str | os.PathLike[str], escrow_key: SecretSource, master_key: MasterKeySource) -> int:
    """Put a key store under a new master key by means of its escrow key; the data keys stay as they are.

    One transaction: after a crash the store is as it was, or under the new key.

    Args:
        path: The store's directory.
        escrow_key: The source of the private half of the escrow key, as PEM.
        master_key: The source of the new master key.

    Returns:
        The number of days whose keys can be opened again.

    Raises:
        MasterKeyError: The store has no escrow, or this is not its escrow key, or the master key is none.
        KeyStoreError: The store can't be opened, or not be written.
    """
    salt = os.urandom(16)
    master, escrow = load_master_key(master_key, salt), EscrowKey(escrow_key)
    directory = StoreDirectory(path)
    main = MainFile(directory.file(MAIN, required=True))
    try:
        with directory.locked():
            recipient = main.escrow()
            if recipient is None:
                raise MasterKeyError(f"the key store {directory.path} was made without an escrow key")
            rows = []
            for day in (PSEUDONYMS, *main.days()):
                key = main.unwrap_by_escrow(day, escrow)
                if key is None or (day == PSEUDONYMS and not main.is_pseudonym_key(key)):
                    raise MasterKeyError(f"{escrow.name} does not open every key of the key store {directory.path}")
                rows.append(wrap_row(day, key, master, recipient))
            main.rewrap(rows, master.name, salt)
            return len(rows) - 1
    finally:
        main.file.close()
        directory.close()
