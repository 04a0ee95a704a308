"""What `doctor` finds: one verdict a check."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Check", "fail", "ok", "warn"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one thing."""

    subject: str  #: `host`, `configuration`, or the name of a log
    name: str
    status: Literal["ok", "warn", "fail"]
    text: str  #: what was found, and what to do about it


def ok(subject: str, name: str, text: str) -> Check:
    """Return that all is well."""
    return Check(subject=subject, name=name, status="ok", text=text)


def warn(subject: str, name: str, text: str) -> Check:
    """Return that somebody should look at it; no evidence is in danger."""
    return Check(subject=subject, name=name, status="warn", text=text)


def fail(subject: str, name: str, text: str) -> Check:
    """Return that it is wrong."""
    return Check(subject=subject, name=name, status="fail", text=text)
