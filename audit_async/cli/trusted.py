"""Whom a command trusts: the policy or the verifier keys that it was given, and where a log is published.

Loads nothing of the extra `tlog` before it is needed: `verify` works without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit_async.cli.run import Refused
from audit_async.errors import ConfigError

if TYPE_CHECKING:
    from audit_async.tlog.policy import Policy

__all__ = ["NEEDS_TLOG", "Published", "Trust"]

NEEDS_TLOG = "signatures need the extra tlog; install it with: pip install 'audit-async[cli,tlog]'"

Published = Annotated[
    str | None,
    typer.Option(
        "--published",
        metavar="DIR|URL",
        help="Where the log publishes its checkpoint and tiles; tlog/ in the log's directory by default.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The options that say whose signatures count."""

    policy_file: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            metavar="FILE",
            readable=False,
            help="A policy (c2sp.org/tlog-policy): the logs' verifier keys, and which witnesses must have cosigned.",
        ),
    ] = None
    vkey: Annotated[
        list[str] | None,
        typer.Option(
            "--vkey",
            metavar="VKEY",
            help="The log's verifier key, as `audit-async keys show` prints it. May be repeated.",
        ),
    ] = None

    @property
    def is_given(self) -> bool:
        """True if signatures are to be checked."""
        return bool(self.vkey) or self.policy_file is not None

    def require(self) -> None:
        """Raise `typer.BadParameter` unless the options say whom to trust, in one way."""
        _require_trust(self.vkey, self.policy_file)

    def policy(self) -> Policy:
        """Return the policy that the options say.

        Raises:
            ConfigError: The policy or a key is wrong.
            Refused: The extra `tlog` is not installed.
            OSError: The policy's file can't be read.
        """
        return _read_policy(self.vkey, self.policy_file)


def _require_trust(vkeys: Sequence[str] | None, policy_file: Path | None) -> None:
    if not vkeys and policy_file is None:
        raise typer.BadParameter(
            "say whose signature counts: --vkey VKEY or --policy FILE, from elsewhere than the log"
        )
    if vkeys and policy_file is not None:
        raise typer.BadParameter("--vkey and --policy both say whose signature counts; give one of them")


def _read_policy(vkeys: Sequence[str] | None, policy_file: Path | None) -> Policy:
    try:
        import audit_async.tlog.signature_check  # noqa: PLC0415, F401 - an extra
    except ImportError as error:
        raise Refused(NEEDS_TLOG) from error
    from audit_async.tlog.failures import Malformed  # noqa: PLC0415 - only commands that verify signatures
    from audit_async.tlog.notes import VerifierKey  # noqa: PLC0415
    from audit_async.tlog.policy import Policy  # noqa: PLC0415

    if policy_file is not None:
        try:
            return Policy.parse(policy_file.read_bytes())
        except Malformed as error:
            raise ConfigError("--policy", f"{policy_file}: {error.reason}") from error
    keys = []
    for vkey in vkeys or ():
        try:
            key = VerifierKey.parse(vkey.strip())
        except Malformed as error:
            raise ConfigError("--vkey", error.reason) from error
        if key.type.is_cosignature:
            raise ConfigError(
                "--vkey", "is a witness's key, and a log has another kind; witnesses belong in a --policy"
            )
        keys.append(key)
    return Policy.of(keys)
