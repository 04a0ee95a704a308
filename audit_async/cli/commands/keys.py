"""`audit-async keys`: making a log's signing key, and showing what it is verified with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from anyio import to_thread

from audit_async.cli.arguments import Json
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Output
from audit_async.config.transparency import is_origin
from audit_async.tlog.signing_keys import cosigner_key, load_signer, new_key, read_secret, write_key

__all__ = ["register"]

PassphraseFrom = Annotated[
    str | None,
    typer.Option(
        "--passphrase-from",
        metavar="SOURCE",
        help="Where the key's passphrase comes from: a file, credential:NAME or env:VARIABLE.",
    ),
]

_ORIGIN_HELP = "The log's name in its checkpoints, as its configuration has it: HOST/SERVICE/INSTANCE by default."


class KeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """A key, as far as everybody may see it."""

    key: str
    vkey: str | None


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Make the key that a log signs with; show its verifier key.")
    app.add_typer(group, name="keys")
    group.command(
        "new",
        epilog="Example: audit-async keys new --out key.pem --origin host.example/orders/00",
        short_help="Make a signing key, in a new file that only its owner can read.",
    )(new)
    group.command(
        "show",
        epilog="Example: audit-async keys show key.pem --origin host.example/orders/00",
        short_help="Print the verifier key of a signing key.",
    )(show)


def new(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new file; never one that is there.")],
    *,
    origin: Annotated[str | None, typer.Option("--origin", metavar="NAME", help=_ORIGIN_HELP)] = None,
    passphrase_from: PassphraseFrom = None,
    as_json: Json = False,
) -> None:
    """Make an Ed25519 signing key (PKCS #8 PEM, mode 0600), and print its verifier key if the origin is given.

    Hand the verifier key to those who verify, by another way than the log. Anyone with the key file and the
    passphrase can sign in the log's name.
    """
    _require_origin(origin)
    output = Output(as_json=as_json)

    def make() -> KeyShown:
        passphrase = None
        if passphrase_from is not None:
            passphrase = read_secret(passphrase_from).rstrip(b"\r\n")  # as it is read when the key is loaded
            if not passphrase:
                raise Refused(f"{passphrase_from} holds no passphrase; without one leave --passphrase-from out")
        write_key(out, new_key(passphrase))
        return _shown(str(out), origin, passphrase_from)

    async def run() -> ExitStatus:
        shown = await to_thread.run_sync(make)
        if as_json:
            output.document(shown)
            return ExitStatus.OK
        output.line(Cell("made", "green"), f"  {shown.key}")
        if shown.vkey is not None:
            output.whole(shown.vkey)
        else:
            output.line("Its verifier key: audit-async keys show FILE --origin NAME")
        return ExitStatus.OK

    perform(output, run)


def show(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", show_default=False, help="The signing key: a file, credential:NAME or env:VARIABLE."
        ),
    ],
    *,
    origin: Annotated[str, typer.Option("--origin", metavar="NAME", help=_ORIGIN_HELP)],
    cosigner: Annotated[
        bool, typer.Option("--cosigner", help="As a collector cosigns with it: the key of a witness in a policy.")
    ] = False,
    passphrase_from: PassphraseFrom = None,
    as_json: Json = False,
) -> None:
    """Print the verifier key (a C2SP vkey) of a signing key: what verify, monitor and verify-proof take as --vkey."""
    _require_origin(origin)
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        shown = await to_thread.run_sync(partial(_shown, key, origin, passphrase_from, cosigner=cosigner))
        if as_json:
            output.document(shown)
        else:
            output.whole(shown.vkey or "")
        return ExitStatus.OK

    perform(output, run)


def _shown(key: str, origin: str | None, passphrase_from: str | None, *, cosigner: bool = False) -> KeyShown:
    if origin is None:
        return KeyShown(key=key, vkey=None)
    verifier = load_signer(key, origin=origin, passphrase=passphrase_from).key
    return KeyShown(key=key, vkey=str(cosigner_key(verifier) if cosigner else verifier))


def _require_origin(origin: str | None) -> None:
    if origin is not None and not is_origin(origin):
        raise typer.BadParameter(
            f"--origin: {origin[:80]!a} can't be a log's name; give one word without plus and control characters, such "
            "as host.example/orders/00"
        )
