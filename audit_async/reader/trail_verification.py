"""Which verification is wanted: by the chain alone or together with signatures, of everything or of what is new."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import anyio.to_thread

from audit_async._query.audit_query import InvalidQuery
from audit_async._trail.log_files import Log
from audit_async._verify.state_file import KeptState
from audit_async._verify.verification import verify_trail
from audit_async._verify.verify_report import Progress, VerifyReport
from audit_async._verify.verify_scope import Everything, Scope
from audit_async.errors import ConfigError
from audit_async.status import Position

if TYPE_CHECKING:
    from audit_async.tlog.policy import Policy  # needs an extra


class Wanted(NamedTuple):
    """What to verify, and against what; see `AuditReader.verify`."""

    scope: Scope | None
    expected_heads: Mapping[str, Position]
    policy: Policy | None
    known_checkpoints: Mapping[str, bytes]
    published: str | os.PathLike[str] | None
    has_state: bool
    full: bool
    full_every: timedelta
    skip_encrypted: bool
    processes: int | None
    has_keys: bool

    def require_consistent(self) -> None:
        """Raise `InvalidQuery` if the arguments contradict each other."""
        if not self.has_state and self.full:
            raise InvalidQuery("full", "belongs to a state; without one everything is read")
        if self.has_state and self.scope not in {None, Everything()}:
            raise InvalidQuery("state", "is of whole logs; it goes with no scope")
        if self.has_keys and self.scope not in {None, Everything()}:
            raise InvalidQuery("verify_keys", "is of whole logs; it goes with no scope")
        if self.policy is None and (self.known_checkpoints or self.published is not None):
            raise InvalidQuery("policy", "is missing; say whose signature counts")


async def add_key_findings(
    report: VerifyReport, logs: Sequence[Log], key_store: str | os.PathLike[str]
) -> VerifyReport:
    """Return a report with what the key store lacks; raises `ConfigError` without the extra that it needs."""
    try:
        from audit_async._verify.key_findings import with_key_findings  # noqa: PLC0415 - needs the extra privacy
    except ModuleNotFoundError as error:
        raise ConfigError("verify_keys", "needs cryptography: pip install 'audit-async[privacy]'") from error
    return await anyio.to_thread.run_sync(with_key_findings, report, logs, key_store)


async def verify_logs(
    logs: Sequence[Log], wanted: Wanted, kept: KeptState | None, progress: Callable[[Progress], None] | None
) -> VerifyReport:
    """Verify logs, and keep what was verified in `kept`."""
    verified = None
    if kept is not None:
        verified = await anyio.to_thread.run_sync(kept.read, wanted.full, wanted.full_every)
    if wanted.policy is None:
        report = await verify_trail(
            logs,
            wanted.scope,
            expected_heads=wanted.expected_heads,
            verified=verified,
            skip_encrypted=wanted.skip_encrypted,
            processes=wanted.processes,
            progress=progress,
        )
    else:
        from audit_async._verify.signed_trail import verify_signed_trail  # noqa: PLC0415 - needs the extra tlog

        report = await verify_signed_trail(
            logs,
            wanted.policy,
            wanted.scope,
            known_checkpoints=wanted.known_checkpoints,
            published=wanted.published,
            expected_heads=wanted.expected_heads,
            verified=verified,
            skip_encrypted=wanted.skip_encrypted,
            processes=wanted.processes,
            progress=progress,
        )
    if kept is not None and verified is not None:
        await anyio.to_thread.run_sync(kept.write, verified, report)
    return report
