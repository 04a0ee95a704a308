"""When records become durable, and so what a crash or a power cut can lose."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from audit_async.config.setting import Flag, Seconds, Settings, whole_number

_Delay = Annotated[float, Meta(ge=0.0, le=60.0, description="seconds from 0 to 60")]
_Records = Annotated[int, whole_number(1, 1_000_000, "records")]


class Immediate(Settings, frozen=True, kw_only=True, tag_field="type", tag="immediate"):
    """Sync as soon as anything is waiting; what arrives during a sync shares the next one.

    A crash or power cut loses what was emitted and not yet acknowledged: about one sync's time, and `max_delay` longer
    if that is set. Nothing waits that long that somebody waits for: an awaited receipt, a critical event, `flush`,
    `emit_durable`, the end of the log and a signal end the delay at once.

    Args:
        max_delay: How many seconds a record may wait in memory for others that share its write and its sync. 0 is best
            if every record is awaited; otherwise it may spare commits, if a sync is much shorter than the
            delay: measure it with `python -m bench web`.
    """

    _path: ClassVar[str] = "flush_mode."

    max_delay: _Delay = 0.0

    def __str__(self) -> str:
        return f"immediate(max_delay={self.max_delay})" if self.max_delay else "immediate"


class Batched(Settings, frozen=True, kw_only=True, tag_field="type", tag="batched"):
    """Hand records to the operating system at once; sync after `size` records or `interval` seconds.

    The timer fires also when nothing more arrives. A killed process loses what was still in memory; a power
    cut loses up to `size` records or `interval` seconds, critical events among them.

    Args:
        size: After how many records to sync.
        interval: After how many seconds to sync.
    """

    _path: ClassVar[str] = "flush_mode."

    size: _Records = 100
    interval: Seconds = 1.0

    def __str__(self) -> str:
        return f"batched(size={self.size}, interval={self.interval})"


class Hybrid(Settings, frozen=True, kw_only=True, tag_field="type", tag="hybrid"):
    """Like `Batched`, and a critical event makes everything up to it durable at once.

    A power cut loses up to `batch_size` records or `batch_interval` seconds, none of them critical. With
    `critical_immediate=False` it is `Batched`.

    Args:
        batch_size: After how many records to sync.
        batch_interval: After how many seconds to sync.
        critical_immediate: Whether a critical event is made durable at once.
    """

    _path: ClassVar[str] = "flush_mode."

    batch_size: _Records = 100
    batch_interval: Seconds = 1.0
    critical_immediate: Flag = True

    def __str__(self) -> str:
        members = f"batch_size={self.batch_size}, batch_interval={self.batch_interval}"
        return f"hybrid({members}, critical_immediate={str(self.critical_immediate).lower()})"


#: When records become durable.
FlushMode = Immediate | Batched | Hybrid
