"""What can go wrong with a key store; one class a cause.

No message holds a key, a passphrase, a pseudonym or the name of a person.
"""

from __future__ import annotations

from audit_async.errors import AuditError


class KeyStoreError(AuditError):
    """The base of the errors of a key store."""


class KeyStoreUnavailable(KeyStoreError, OSError):
    """The key store can't be read or written now: no space, an I/O error, a lock that is held for too long, no KMS.

    Like a full disk: nothing that was acknowledged is lost, and the same call may be made again. `errno` says which.
    """


class KeyStoreMissing(KeyStoreError):
    """There is no key store at this place. One is never made silently: a store that is lost has to be noticed."""


class KeyStoreDamaged(KeyStoreError):
    """A file of the key store does not hold what it must; restore the store from its backup."""


class KeyStoreOutdated(KeyStoreError):
    """The key store is from a backup, and has keys again that were destroyed since; the message says what to do."""


class KeyStoreRefused(KeyStoreError):
    """The place of a key store can't be trusted with keys: its owner, its mode, a link, or inside the trail."""


class KeyStoreForked(KeyStoreError):
    """A key store that was opened before a fork was used in the child; open it again there."""


class MasterKeyError(KeyStoreError):
    """The master key is not there, is no key, or is another than the key store's; the message names its source."""


class ErasureRefused(KeyStoreError):
    """Keys must not be destroyed: a legal hold is in force, or nobody in particular would be erased.

    Args:
        message: What was refused and why.
        holds: The holds, each as the log's id and the hold's id.
    """

    def __init__(self, message: str, *, holds: tuple[tuple[str, str], ...] = ()) -> None:
        self.holds = holds
        super().__init__(message)
