"""What a crash can lose, by the flush mode."""

from __future__ import annotations

from audit_async.config import Batched, FlushMode, Hybrid

__all__ = ["at_risk"]


def at_risk(mode: FlushMode) -> str:
    """Return a description of what a crash can lose in a flush mode."""
    if isinstance(mode, Batched):
        return (
            f"a killed process: what was still in memory; a power cut: up to {mode.size} records or {mode.interval:g} s"
        )
    if isinstance(mode, Hybrid):
        critical = ", critical events about one sync's time" if mode.critical_immediate else ""
        return (
            f"a killed process: what was still in memory; a power cut: up to {mode.batch_size} records or "
            f"{mode.batch_interval:g} s{critical}"
        )
    waiting = f" and {mode.max_delay:g} s of waiting for company" if mode.max_delay else ""
    return f"what was emitted and not acknowledged yet: about one sync's time{waiting}"
