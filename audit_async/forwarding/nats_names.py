"""The names that a tenant's logs have in NATS: streams, subjects, and which log a subject is."""

from __future__ import annotations

from urllib.parse import unquote

from audit_async.errors import ConfigError
from audit_async.forwarding.identities import LogIdentity, escaped

__all__ = [
    "confirmation_subject",
    "confirmations_of",
    "description_subject",
    "descriptions_of",
    "log_of",
    "stream_of",
    "subject_of",
]


def subject_of(log: LogIdentity) -> str:
    """Return the subject of a log's messages."""
    return f"audit.{log.subject()}"


def confirmation_subject(log: LogIdentity) -> str:
    """Return the subject of a log's newest confirmation."""
    return f"audit_confirmed.{log.subject()}"


def description_subject(log: LogIdentity) -> str:
    """Return the subject of a log's description."""
    return f"audit_described.{log.subject()}"


def stream_of(tenant: str) -> str:
    """Return the name of the stream with a tenant's records."""
    return f"audit_{escaped(tenant)}"


def confirmations_of(tenant: str) -> str:
    """Return the name of the stream with the collector's confirmations."""
    return f"audit_confirmed_{escaped(tenant)}"


def descriptions_of(tenant: str) -> str:
    """Return the name of the stream with what describes each log."""
    return f"audit_described_{escaped(tenant)}"


def log_of(subject: str) -> LogIdentity | None:
    """Return the log of a subject, None if it is not one that a log can have."""
    tokens = subject.split(".")
    if len(tokens) != 6:
        return None
    tenant, service, host, instance, log_id = map(unquote, tokens[1:])
    try:
        log = LogIdentity(tenant=tenant, service=service, host=host, instance=instance, log_id=log_id)
    except ConfigError:
        return None
    return log if subject_of(log) == subject else None
