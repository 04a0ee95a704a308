"""The options that say where the keys of sealed members are, for commands that show them in the clear."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit_async.cli.run import Refused
from audit_async.cli.terminal import count_of
from audit_async.config import Privacy

if TYPE_CHECKING:
    from audit_async.privacy.sqlite_key_store import SqliteKeyStore  # needs an extra
    from audit_async.privacy.subjects import Subject

__all__ = ["KeyOptions", "KeyStoreAt", "MasterKey", "SubjectOptions", "could_not_search"]

KeyStoreAt = Annotated[
    Path | None,
    typer.Option(
        "--key-store",
        metavar="DIR",
        envvar="AUDIT_KEY_STORE",
        readable=False,
        help="The key store of the trail: sealed members are shown in the clear.",
    ),
]
MasterKey = Annotated[
    str | None,
    typer.Option(
        "--master-key",
        metavar="SOURCE",
        envvar="AUDIT_MASTER_KEY",
        help="The key of the key store: file:PATH, env:NAME, credential:NAME, each also after passphrase:.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class SubjectOptions:
    """One person."""

    subject: Annotated[
        str, typer.Option("--subject", metavar="ID", help="The person's id, as events have it; as a user by default.")
    ]
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="Which ids it is one of: user, customer, or your own.")
    ] = "user"
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="NAME", help="The tenant whose ids these are, if ids differ by tenant.")
    ] = ""

    def chosen(self) -> Subject:
        """Return the person; raises `typer.BadParameter` for an empty id or kind."""
        if not self.subject.strip() or not self.kind.strip():
            raise typer.BadParameter("--subject and --kind must not be empty")
        from audit_async.privacy.subjects import Subject  # noqa: PLC0415 - needed by few commands

        return Subject(self.tenant, self.kind, self.subject)


def could_not_search(records: int) -> str:
    """Return what to say of records that may be wanted or not."""
    return (
        f"{count_of(records, 'record')} could not be searched, because what was asked for is sealed in them; give "
        "the key store that has their keys, with --key-store and --master-key"
    )


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """A key store, or none."""

    key_store: KeyStoreAt = None
    master_key: MasterKey = None

    def privacy(self) -> Privacy | None:
        """Return the settings of a log that seals with this store; None if there is none.

        Raises `typer.BadParameter` for a store without a master key.
        """
        if self.key_store is None:
            return None
        return Privacy(key_store=str(self.key_store.absolute()), master_key=self._required_master_key())

    def _required_master_key(self) -> str:
        if self.master_key is None:
            raise typer.BadParameter("--key-store needs --master-key, the source of the key that the store is under")
        return self.master_key

    @contextmanager
    def opened(self, trail: Path) -> Iterator[SqliteKeyStore | None]:
        """Open the key store of a trail; None if no options say where one is.

        Raises `typer.BadParameter` for a store without a master key, `Refused` without the extra, `KeyStoreError`.
        """
        if self.key_store is None:
            yield None
            return
        master_key = self._required_master_key()
        try:
            from audit_async.privacy.sqlite_key_store import open_key_store  # noqa: PLC0415 - needs an extra
        except ModuleNotFoundError as error:
            raise Refused("--key-store needs cryptography; run: pip install 'audit-async[privacy]'") from error
        store = open_key_store(self.key_store, master_key, trail=trail)
        try:
            yield store
        finally:
            store.close()
