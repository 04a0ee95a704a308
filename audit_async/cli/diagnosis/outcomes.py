"""What `doctor` finds: one verdict a check."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from audit_async._trail.log_files import TrailUnreadable, why_unreadable
from audit_async.errors import AuditError

__all__ = ["Check", "attempt", "fail", "ok", "refused", "warn"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one thing."""

    subject: str  #: `host`, `configuration`, or the name of a log
    name: str
    status: Literal["ok", "warn", "fail"]
    text: str  #: what was found, and what to do about it
    unreadable: bool = False  #: it fails because something can't be read, so nothing was found out


def ok(subject: str, name: str, text: str) -> Check:
    """Return that all is well."""
    return Check(subject=subject, name=name, status="ok", text=text)


def warn(subject: str, name: str, text: str) -> Check:
    """Return that somebody should look at it; no evidence is in danger."""
    return Check(subject=subject, name=name, status="warn", text=text)


def fail(subject: str, name: str, text: str) -> Check:
    """Return that it is wrong."""
    return Check(subject=subject, name=name, status="fail", text=text)


def refused(subject: str, name: str, error: AuditError | OSError) -> Check:
    """Return the failing check for an error, which says whether something is wrong or just can't be read."""
    if isinstance(error, OSError):
        path = f"{os.fsdecode(error.filename)} " if isinstance(error.filename, str | bytes) else ""
        text = f"{path}can't be read: {why_unreadable(error)}"
        return Check(subject=subject, name=name, status="fail", text=text, unreadable=True)
    unreadable = isinstance(error, TrailUnreadable)
    return Check(subject=subject, name=name, status="fail", text=str(error), unreadable=unreadable)


def attempt(subject: str, name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    """Return what a look finds; a failing check after it if something can't be read or is damaged."""
    checks: list[Check] = []
    try:
        checks.extend(look())
    except (AuditError, OSError) as error:
        checks.append(refused(subject, name, error))
    return checks
