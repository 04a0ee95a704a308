"""`audit-async keystore`: making the key store of a trail's sealed members, and looking after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from anyio import to_thread

from audit_async._query.key_check import KeyCheck, check_keys
from audit_async.cli.arguments import Json
from audit_async.cli.key_options import KeyOptions
from audit_async.cli.keystore_rules import Store, rules, rules_text
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Column, Meter, Output, byte_size, count_of
from audit_async.config.key_store_settings import Normalization, split_master_key_source
from audit_async.config.transparency import secret_kind
from audit_async.privacy.master_key import new_master_key
from audit_async.privacy.sqlite_key_store import open_key_store
from audit_async.privacy.store_copy import copy_key_store
from audit_async.privacy.store_creation import create_key_store
from audit_async.privacy.store_failures import MasterKeyError
from audit_async.privacy.store_recovery import recover_key_store
from audit_async.privacy.store_status import KeyStoreStatus, key_store_status
from audit_async.tlog.signing_keys import write_key

__all__ = ["register"]

_SOURCES = "file:PATH, env:NAME, credential:NAME, each also after passphrase:"

MasterKeyOption = Annotated[
    str,
    typer.Option(
        "--master-key", metavar="SOURCE", envvar="AUDIT_MASTER_KEY", help=f"The store's master key: {_SOURCES}."
    ),
]
NewMasterKey = Annotated[
    str, typer.Option("--new-master-key", metavar="SOURCE", help=f"The master key from now on: {_SOURCES}.")
]
MakeKey = Annotated[
    bool, typer.Option("--make-key", help="Make the master key first, in a new file that only its owner can read.")
]


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """How many days' keys are under which master key."""

    store: str
    master_key: str
    days: int


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied."""

    store: str
    files: int
    bytes: int
    epoch: int


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """How a store is, and whether the master key that was given opens it; None if none was given."""

    status: KeyStoreStatus
    opens: bool | None


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Make and look after the key store: the keys of personal members that can be erased.",
    )
    app.add_typer(group, name="keystore")
    group.command(
        "init",
        epilog="Example: audit-async keystore init /var/lib/orders-keys --master-key file:/etc/orders/master.key "
        "--make-key",
        short_help="Make a key store, outside of the trail.",
    )(init)
    group.command(
        "status",
        epilog="Example: audit-async keystore status /var/lib/orders-keys",
        short_help="Show how a key store is: days, holds, erasures, who uses it.",
    )(status)
    group.command(
        "check",
        epilog="Example: audit-async keystore check ./audit --key-store /var/lib/orders-keys --master-key file:m.key",
        short_help="Check that every sealed member of a trail has its key.",
    )(check)
    group.command(
        "rotate-master",
        epilog="Example: audit-async keystore rotate-master /var/lib/orders-keys --master-key file:old.key "
        "--new-master-key file:new.key --make-key",
        short_help="Put a key store under another master key.",
    )(rotate_master)
    group.command(
        "rules",
        epilog="Example: audit-async keystore rules /var/lib/orders-keys --master-key file:/etc/orders/master.key "
        "--trail ./audit --delay P7D --two-person --by 'B. Board' --reason 'policy 7'",
        short_help="Show or change what erasures have to wait for.",
    )(rules)
    group.command(
        "backup",
        epilog="Example: audit-async keystore backup /var/lib/orders-keys /mnt/other-place/orders-keys",
        short_help="Copy a key store that is in use; after the trail's backup, and to another place.",
    )(backup)
    group.command(
        "recover",
        epilog="Example: audit-async keystore recover /var/lib/orders-keys --escrow-key escrow.pem "
        "--new-master-key file:new.key --make-key",
        short_help="Open a key store whose master key is lost by its escrow key.",
    )(recover)


def init(
    store: Store,
    *,
    master_key: MasterKeyOption,
    make_key: MakeKey = False,
    normalize: Annotated[
        Normalization,
        typer.Option("--normalize", help="How ids of persons are normalised, for as long as there is the store."),
    ] = "NFC",
    escrow: Annotated[
        Path | None,
        typer.Option(
            "--escrow", metavar="FILE", readable=False, help="An RSA public key that can open the store as well."
        ),
    ] = None,
    trail: Annotated[
        Path | None,
        typer.Option("--trail", metavar="DIR", readable=False, help="The trail, which the store must not be inside."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key store. Who loses it, or its master key, has erased everybody: keep copies of both, apart.

    With --escrow, the owner of that key's private half can open the store as well, if the master key is lost.
    """
    output = Output(as_json=as_json)
    new_file = _file_to_make(make_key, master_key)

    def make() -> Opened:
        _make_key(new_file)
        pem = None if escrow is None else escrow.read_bytes()
        create_key_store(store, master_key, normalize=normalize, escrow=pem, trail=trail)
        return Opened(store=str(store), master_key=master_key, days=0)

    async def run() -> ExitStatus:
        made = await to_thread.run_sync(make)
        if as_json:
            output.document(made)
        else:
            output.line(Cell("made", "green"), f"  {made.store}, under {made.master_key}")
        return ExitStatus.OK

    perform(output, run)


def status(
    store: Store,
    *,
    master_key: Annotated[
        str | None,
        typer.Option(
            "--master-key", metavar="SOURCE", envvar="AUDIT_MASTER_KEY", help="Also try whether this key opens it."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how a key store is. No key is needed; if one is given, the store's canary shows whether it is the right one.

    A wrong key, a missing store or a damaged one ends with status 3.
    """
    output = Output(as_json=as_json)

    def look() -> Shown:
        found = key_store_status(store)
        if master_key is not None:
            open_key_store(store, master_key).close()
        return Shown(status=found, opens=None if master_key is None else True)

    async def run() -> ExitStatus:
        shown = await to_thread.run_sync(look)
        if as_json:
            output.document(shown)
        else:
            _show(output, shown)
        return ExitStatus.OK

    perform(output, run)


@with_option_groups
def check(at: ReadableLogs, keys: KeyOptions, *, as_json: Json = False) -> None:
    """Try to open every sealed member of a trail: with a copy of the key store before it is needed, for example.

    A key that is missing, and was not destroyed, is a finding (status 1): the key store is older than the trail, it is
    damaged, or it is another's. So is a member that its key does not open in its place. Nothing is shown in the clear.
    """
    output = Output(as_json=as_json)
    if keys.key_store is None:
        raise typer.BadParameter("give the key store to be checked: --key-store and --master-key")

    def run_checks(meter: Meter) -> list[KeyCheck]:
        with keys.opened(at.directory) as store:
            return [] if store is None else [check_keys(log, store, meter.show) for log in at.reader().logs()]

    async def run() -> ExitStatus:
        with output.counter("opening") as meter:
            checks = await to_thread.run_sync(run_checks, meter)
        return _report_checks(output, checks)

    perform(output, run)


def rotate_master(
    store: Store,
    *,
    master_key: MasterKeyOption,
    new_master_key: NewMasterKey,
    make_key: MakeKey = False,
    as_json: Json = False,
) -> None:
    """Wrap the keys of all days by another master key, while services run; nothing is sealed again.

    Give the services the new key before the next UTC day begins: they read their source again then. Copies of the store
    from before still open by the old key: destroy it once those copies have expired. If it ends with an error, give the
    same command again (without --make-key once the file is there): it finishes what was begun.
    """
    output = Output(as_json=as_json)
    new_file = _file_to_make(make_key, new_master_key)

    def rotate() -> Opened:
        try:
            opened = open_key_store(store, master_key)
        except MasterKeyError:
            if not _opens(store, new_master_key):
                raise
            return _rotated_before(store, new_master_key)
        try:
            _make_key(new_file)
            return Opened(store=str(store), master_key=new_master_key, days=opened.rotate_master_key(new_master_key))
        finally:
            opened.close()

    perform(output, lambda: _report_opened(output, rotate))


def backup(
    store: Store,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", show_default=False, readable=False, help="A new directory.")
    ],
    *,
    as_json: Json = False,
) -> None:
    """Copy a key store while services use it; the copy needs the same master key, and this command none.

    Make it after the backup of the trail, so that every record in that has its key in this, and keep the two apart. A
    copy holds the keys of those who are erased later: delete copies after as many days as you may keep what is erased.
    """
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        copied = await to_thread.run_sync(copy_key_store, store, target)
        if as_json:
            output.document(Copied(store=str(target), files=copied.files, bytes=copied.size_bytes, epoch=copied.epoch))
        else:
            output.line(
                Cell("copied", "green"),
                f"  {count_of(copied.files, 'file')}, {byte_size(copied.size_bytes)} to {target}",
            )
        return ExitStatus.OK

    perform(output, run)


def recover(
    store: Store,
    *,
    escrow_key: Annotated[
        str,
        typer.Option(
            "--escrow-key", metavar="SOURCE", help="The escrow key's private half, as PEM: a file or env:NAME."
        ),
    ],
    new_master_key: NewMasterKey,
    make_key: MakeKey = False,
    as_json: Json = False,
) -> None:
    """Put a key store under a new master key by means of its escrow key, if the master key is lost."""
    output = Output(as_json=as_json)
    new_file = _file_to_make(make_key, new_master_key)

    def recover_it() -> Opened:
        _make_key(new_file)
        days = recover_key_store(store, escrow_key, new_master_key)
        return Opened(store=str(store), master_key=new_master_key, days=days)

    perform(output, lambda: _report_opened(output, recover_it))


def _opens(store: Path, master_key: str) -> bool:
    try:
        open_key_store(store, master_key).close()
    except MasterKeyError:
        return False
    return True


def _rotated_before(store: Path, master_key: str) -> Opened:
    """Return the result of a rotation that took place and did not say so: opening the store has finished it."""
    return Opened(store=str(store), master_key=master_key, days=key_store_status(store).days)


def _report_checks(output: Output, checks: list[KeyCheck]) -> ExitStatus:
    if output.as_json:
        output.document({"logs": checks})
    else:
        columns = [
            Column("log"),
            *(Column(title, right=True) for title in ("records", "open", "erased", "missing", "forged")),
        ]
        rows = [
            [one.log, *(f"{count:,}" for count in (one.records, one.open, one.erased, one.missing, one.forged))]
            for one in checks
        ]
        output.table(columns, rows)
    for one in checks:
        if one.examples:
            seqs = ", ".join(map(str, one.examples))
            output.message(f"audit-async: {one.log}: sealed members do not open, first in the records {seqs}", "red")
        if one.damaged:
            output.message(f"audit-async: {one.log}: a part could not be read; verify the trail", "red")
    wrong = any(one.missing or one.forged or one.damaged for one in checks)
    return ExitStatus.FINDINGS if wrong else ExitStatus.OK


async def _report_opened(output: Output, work: Callable[[], Opened]) -> ExitStatus:
    done = await to_thread.run_sync(work)
    if output.as_json:
        output.document(done)
    else:
        output.line(Cell("done", "green"), f"  the keys of {count_of(done.days, 'day')} are under {done.master_key}")
    return ExitStatus.OK


def _file_to_make(wanted: bool, source: str) -> str | None:
    """Return the file that the master key is made in; None if none is wanted. Raises `typer.BadParameter`."""
    if not wanted:
        return None
    place, is_passphrase = split_master_key_source(source)
    kind, path = secret_kind(place)
    if kind != "file" or is_passphrase:
        raise typer.BadParameter("--make-key makes a file: give the master key as file:PATH")
    return path


def _make_key(path: str | None) -> None:
    if path is not None:
        write_key(path, new_master_key())


def _show(output: Output, shown: Shown) -> None:
    found = shown.status
    days = f"{found.first_day} to {found.last_day}" if found.days else "none yet"
    rows = [
        ("store", f"{found.path} (id {found.store_id})"),
        ("master key", found.master_key + (", which opens it" if shown.opens else "")),
        ("escrow", "yes" if found.has_escrow else "no: if the master key is lost, everybody is erased"),
        ("days with keys", f"{found.days:,} ({days})"),
        ("forgotten", f"before {found.forgotten_before}" if found.forgotten_before else "nothing"),
        ("files", f"{count_of(found.months, 'month')}, {byte_size(found.size_bytes)}"),
        ("erasures", f"{found.epoch:,} begun, {len(found.unfinished_erasures):,} of them not ended"),
        ("rules", f"erasures {rules_text(found.rules)}"),
        ("requests", f"{count_of(found.waiting_erasures, 'erasure')} waiting; see erase --waiting"),
        ("backup", f"{found.backed_up_at:%Y-%m-%d %H:%M} UTC" if found.backed_up_at else "never by keystore backup"),
        ("holds", ", ".join(f"{hold} of log {log}" for log, hold in found.holds) or "none"),
        ("in use by", ", ".join(found.sessions) or "no log"),
        ("ids", f"normalised: {found.normalize}"),
    ]
    output.pairs(rows)
