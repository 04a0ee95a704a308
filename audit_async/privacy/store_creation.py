"""Making a key store: once, by a person or a deployment, never by a service that finds none."""

from __future__ import annotations

import os
from typing import Final, get_args

from audit_async.config.key_store_settings import MasterKeySource, Normalization
from audit_async.errors import ConfigError
from audit_async.privacy.main_file import create_main_file
from audit_async.privacy.master_key import load_master_key
from audit_async.privacy.store_directory import MAIN, create_directory, remove
from audit_async.privacy.store_failures import KeyStoreRefused

_SALT_BYTES: Final = 16
_HALF: Final = f"{MAIN}.new"


def create_key_store(
    path: str | os.PathLike[str],
    master_key: MasterKeySource,
    *,
    normalize: Normalization = "NFC",
    escrow: bytes | None = None,
    trail: str | os.PathLike[str] | None = None,
) -> None:
    """Make a key store in a directory; durable on return, and after a crash there is a whole one or none.

    Args:
        path: The directory; made if it is not there, in one that is.
        master_key: The source of its master key.
        normalize: How the ids of persons are normalised, for as long as there is the store.
        escrow: An RSA public key (PEM) whose owner can open the keys of the days if the master key is lost.
        trail: The base directory of the trail, which must not hold the store.

    Raises:
        ConfigError: `normalize` or the source of the master key is none.
        KeyStoreRefused: There is a store already, or the place can't be trusted with keys.
        MasterKeyError: The master key is not there, or is none.
        KeyStoreUnavailable: The store can't be written.
    """
    if normalize not in get_args(Normalization):
        raise ConfigError("privacy.normalize", f"one of {', '.join(get_args(Normalization))}")
    directory = create_directory(path, trail=trail)
    try:
        with directory.locked():
            if directory.file(MAIN).exists() or directory.months():
                raise KeyStoreRefused(
                    f"{directory.path} has files of a key store already, which are never overwritten; choose another "
                    "directory, or restore the store from its backup if some of them are missing"
                )
            salt = os.urandom(_SALT_BYTES)
            master = load_master_key(master_key, salt)
            remove(directory.path / _HALF)  # of a creation that was interrupted
            directory.create(_HALF)
            create_main_file(directory.path / _HALF, master, salt, normalize=normalize, escrow=escrow)
            directory.publish(_HALF, MAIN)
    finally:
        directory.close()
