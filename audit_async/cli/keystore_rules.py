"""`audit-async keystore rules`: showing what erasures of a key store have to wait for, and changing it, on record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from audit_async.cli.arguments import Json
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output
from audit_async.cli.writing import OWN_SERVICE, require_owner
from audit_async.config import AuditConfig, Local, Privacy
from audit_async.config.erasure_rules import ErasureRules, delay_seconds
from audit_async.logger import AuditLogger

__all__ = ["Store", "rules", "rules_text"]

_T = TypeVar("_T")

Store = Annotated[
    Path,
    typer.Argument(
        metavar="STORE", envvar="AUDIT_KEY_STORE", show_default=False, readable=False, help="The key store's directory."
    ),
]


def rules(
    store: Store,
    *,
    master_key: Annotated[
        str, typer.Option("--master-key", metavar="SOURCE", envvar="AUDIT_MASTER_KEY", help="The store's master key.")
    ],
    trail: Annotated[
        Path | None,
        typer.Option("--trail", metavar="DIR", readable=False, help="The trail that records a change, in its own log."),
    ] = None,
    delay: Annotated[
        str | None,
        typer.Option("--delay", metavar="TIME", help="How long an erasure waits: whole days, or P7D, PT12H; 0: none."),
    ] = None,
    not_before_days: Annotated[
        int | None,
        typer.Option("--not-before-days", metavar="N", min=0, max=3650, help="No key younger is destroyed; 0: any."),
    ] = None,
    two_person: Annotated[
        bool | None, typer.Option("--two-person/--one-person", help="Whether a second person has to approve.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who changes them; recorded, sealed.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; recorded, sealed.")] = None,
    as_json: Json = False,
) -> None:
    """Show what erasures have to wait for, or change it for everybody who uses the key store.

    Settings of a service only make the rules stricter; this also makes them less strict, and is recorded before and
    after, by name. A service whose settings ask for more makes them stricter again when it starts next.
    """
    output = Output(as_json=as_json)
    is_change = delay is not None or not_before_days is not None or two_person is not None
    delay_s = None if delay is None else delay_seconds(delay)
    if delay is not None and delay_s is None:
        raise typer.BadParameter("--delay is whole days up to 366, or a duration such as P7D or PT12H")
    if is_change and (trail is None or not (by and by.strip()) or not (reason and reason.strip())):
        raise typer.BadParameter("a change is recorded: give --trail, --by and --reason")

    async def run() -> ExitStatus:
        if not is_change:
            _show(output, _read(store, master_key))
            return ExitStatus.OK
        assert trail is not None  # noqa: S101 - as checked above
        require_owner(trail)
        privacy = Privacy(key_store=str(store.absolute()), master_key=master_key)
        async with AuditLogger(AuditConfig(mode=Local(trail), service_id=OWN_SERVICE, privacy=privacy)) as audit:
            now = await audit.erasure_rules()
            wanted = ErasureRules(
                delay_s=_given(delay_s, now.delay_s),
                not_before_days=_given(not_before_days, now.not_before_days),
                two_person=_given(two_person, now.two_person),
            )
            await audit.change_erasure_rules(wanted, reason=reason or "", changed_by=by or "")
        _show(output, wanted)
        return ExitStatus.OK

    perform(output, run)


def _given(value: _T | None, otherwise: _T) -> _T:
    return otherwise if value is None else value


def _read(store: Path, master_key: str) -> ErasureRules:
    from audit_async.privacy.sqlite_key_store import open_key_store  # noqa: PLC0415 - needs an extra

    opened = open_key_store(store, master_key)
    try:
        return opened.requests.rules()
    finally:
        opened.close()


def _show(output: Output, found: ErasureRules) -> None:
    if output.as_json:
        output.document(found)
    else:
        output.line(Cell("erasures", "bold"), f"  {rules_text(found)}")


def rules_text(found: ErasureRules) -> str:
    """Return the rules in words."""
    parts = []
    if found.delay_s:
        days, rest_s = divmod(found.delay_s, 86_400)
        parts.append(f"wait {f'{found.delay_s / 3600:g} hours' if rest_s else f'{days} days'}")
    if found.not_before_days:
        parts.append(f"keep keys younger than {found.not_before_days} days")
    if found.two_person:
        parts.append("need a second person's approval")
    return ", ".join(parts) or "wait for nothing"
