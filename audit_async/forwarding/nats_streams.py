"""The streams of a tenant: how each setting has to be, and why.

https://docs.nats.io/nats-concepts/jetstream/streams#configuration
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from msgspec import Struct

from audit_async.forwarding.batches import MAX_BATCH_BYTES
from audit_async.forwarding.identities import escaped
from audit_async.forwarding.nats_names import confirmations_of, descriptions_of, stream_of
from audit_async.forwarding.nats_sink import HEADER_BYTES
from audit_async.forwarding.sink import MAX_DESCRIPTION_BYTES

__all__ = ["Setting", "Stream", "streams_of"]

_DAY_NS: Final = 86_400 * 10**9
_LEAST_AGE_NS: Final = 30 * _DAY_NS
#: Two batches a second for the least age: a bound for a host that floods, not for one that is busy.
_MESSAGES_PER_LOG: Final = 5_000_000
_LEAST_MESSAGES_PER_LOG: Final = 100_000
_UNLIMITED: Final = -1


class Setting(NamedTuple):
    """One setting of a stream."""

    put: object  #: what `init` sets
    wanted: str
    why: str
    fits: Callable[[object], bool]


class Stream(Struct, frozen=True):
    """A stream as it has to be."""

    name: str
    settings: Mapping[str, Setting]

    def config(self) -> dict[str, object]:
        """Return the configuration of a new one."""
        new = {name: setting.put for name, setting in self.settings.items() if setting.put is not None}
        return {"name": self.name, **new}


def streams_of(tenant: str, replicas: int) -> list[Stream]:
    """Return the streams of a tenant: records, confirmations, descriptions."""
    name = escaped(tenant)
    once = "a second one would take the place of the first"
    return [
        Stream(
            stream_of(tenant),
            _common(f"audit.{name}.>", replicas)
            | {
                "discard_new_per_subject": _is(True, "a log that is full would lose its oldest records"),
                "max_msgs_per_subject": Setting(
                    _MESSAGES_PER_LOG, f"{_LEAST_MESSAGES_PER_LOG:,} or more", "it bounds what one log can take",
                    lambda value: isinstance(value, int) and value >= _LEAST_MESSAGES_PER_LOG,
                ),
                "max_age": Setting(
                    _LEAST_AGE_NS, "30 days or more",
                    "records would be gone before a collector has them; without it the stream fills up",
                    lambda value: isinstance(value, int) and value >= _LEAST_AGE_NS,
                ),
                "max_msg_size": _at_least(MAX_BATCH_BYTES + HEADER_BYTES, "a batch has no room"),
            },
        ),
        Stream(
            confirmations_of(tenant),
            _common(f"audit_confirmed.{name}.>", replicas)
            | {
                "discard_new_per_subject": _is(False, "the newest confirmation has to replace the one before"),
                "max_msgs_per_subject": _is(1, "the newest confirmation has to replace the one before"),
                "max_age": _is(0, "a log that is idle would lose its confirmation"),
                "max_msg_size": _at_least(HEADER_BYTES, "a confirmation has no room"),
            },
        ),
        Stream(
            descriptions_of(tenant),
            _common(f"audit_described.{name}.>", replicas)
            | {
                "discard_new_per_subject": _is(True, once),
                "max_msgs_per_subject": _is(1, once),
                "max_age": _is(0, "a collector that begins again could not make the log's directory"),
                "max_msg_size": Setting(
                    MAX_DESCRIPTION_BYTES + HEADER_BYTES, f"{MAX_DESCRIPTION_BYTES + HEADER_BYTES:,}",
                    "a host could fill it with few messages",
                    lambda value: value == MAX_DESCRIPTION_BYTES + HEADER_BYTES,
                ),
            },
        ),
    ]  # fmt: skip


def _common(subject: str, replicas: int) -> dict[str, Setting]:
    """Return what all three have in common."""
    copied = "records would also be where others may read them"
    others = "others than the tenant's logs would be in it"
    shortened = "a host could shorten its own log"
    return {
        "subjects": _is([subject], "records of others would be in it, or some of the tenant's in none"),
        "storage": _is("file", "a restart loses all"),
        "num_replicas": Setting(
            replicas, f"{replicas} or more", "a server that is lost takes records with it",
            lambda value: isinstance(value, int) and value >= replicas,
        ),
        "retention": _is("limits", "what was read would be gone"),
        "compression": _is("none", "acknowledged records were lost with it when a quorum was killed"),
        "persist_mode": Setting(
            None, "default", "acknowledged before it is stored", lambda value: value in {None, "", "default"}
        ),
        "no_ack": _is(False, "nothing is acknowledged"),
        "discard": _is("new", "a stream that is full would lose its oldest records"),
        "max_msgs": _is(_UNLIMITED, "one log would fill it for all"),
        "allow_direct": _is(True, "heads can't be asked for by subject"),
        "deny_delete": _is(True, "single records could be deleted"),
        "deny_purge": _is(True, "all records could be deleted at once"),
        "allow_rollup_hdrs": _is(False, "one message could take the place of all before it"),
        "allow_msg_ttl": _is(False, shortened),
        "allow_msg_counter": _is(False, "messages would be counters"),
        "allow_msg_schedules": _is(False, "messages would be stored that no host has sent"),
        "sealed": _is(False, "nothing can be stored"),
        "mirror": _is(None, others),
        "sources": _is(None, others),
        "republish": _is(None, copied),
        "subject_transform": _is(None, "the subjects would not be those of the logs"),
    }  # fmt: skip


def _is(value: object, why: str) -> Setting:
    # What is off or absent, the server leaves out of its answer.
    off = value is None or value is False
    return Setting(value, _shown(value), why, lambda found: found == value or (off and not found))


def _at_least(size: int, why: str) -> Setting:
    return Setting(
        _UNLIMITED, f"unlimited, or {size:,} or more", why,
        lambda value: isinstance(value, int) and (value == _UNLIMITED or value >= size),
    )  # fmt: skip


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unlimited" if value == _UNLIMITED else "none" if value is None else str(value)
