"""How long a segment grows, and how long it is kept."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from audit_async.config.archive_recipients import parse_recipients
from audit_async.config.setting import KIB, MIB, TIB, Flag, Settings, byte_size, whole_number
from audit_async.errors import ConfigError

_Days = Annotated[int, whole_number(1, 36_500, "days")]


class RotationPolicy(Settings, frozen=True, kw_only=True):
    """When a segment is sealed and the next one begun, always between two records.

    Args:
        daily: At the first record of a new UTC day.
        max_bytes: Before the record that would make the segment larger; a single record larger than that gets a segment
            of its own.
        index_sealed: Within seconds after a segment was sealed, a process of low priority makes its index, so that
            queries find records fast.

    Raises:
        ConfigError: If a value is not allowed.
    """

    _path: ClassVar[str] = "rotation."

    daily: Flag = True
    max_bytes: Annotated[int, byte_size(KIB, TIB)] = 100 * MIB
    index_sealed: Flag = False


class RetentionPolicy(Settings, frozen=True, kw_only=True):
    """What happens to sealed segments with age, in days since a segment's last record.

    Args:
        min_retention_days: The promise to auditors: nothing younger is ever deleted, and a policy that would do so is
            refused.
        archive_after_days: Past it a segment is compressed; with 0 as soon as it is sealed.
        delete_after_days: Past it a segment is deleted.
        automatic: An open log applies the policy by itself, once a day; otherwise only `AuditLogger.apply_retention`
            does.
        archive_recipients: Public keys of [age](https://age-encryption.org): each archive is encrypted to all of them,
            so that whoever steals the disk can't read it and neither can this host; what was archived before is
            encrypted by the next run. Needs the extra `age`. Keep the private keys elsewhere, more than one, and in a
            safe place: without any of them the archived records are lost.
        hold_unshipped: Nothing is deleted, and no archive is encrypted, before it is known to be in `min_copies`
            places; whatever else the policy says, and also if the disk runs full. Needs a forwarder that knows the
            collectors' keys, or a bucket that segments are pushed to: without either nothing is ever deleted.
        min_copies: In how many places besides this host a record has to be, with `hold_unshipped`: those that
            collectors have confirmed, and each bucket that `audit-async bucket push` has stored it in.

    Raises:
        ConfigError: If a value is not allowed, or the policy would delete what it promises to keep.
    """

    _path: ClassVar[str] = "retention."

    min_retention_days: _Days = 2555
    archive_after_days: Annotated[int, whole_number(0, 36_500, "days")] = 90
    delete_after_days: _Days = 2555
    automatic: Flag = True
    archive_recipients: Annotated[
        tuple[str, ...], Meta(description='a list of age recipients: "age1...", "ssh-ed25519 ..." or "ssh-rsa ..."')
    ] = ()
    hold_unshipped: Flag = False
    min_copies: Annotated[int, whole_number(1, 99, "copies")] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_recipients(self.archive_recipients)
        if self.delete_after_days < self.min_retention_days:
            raise ConfigError(
                "retention.delete_after_days",
                f"{self.delete_after_days} days would delete what retention.min_retention_days keeps for "
                f"{self.min_retention_days}; delete later or lower the minimum",
            )
        if self.archive_after_days > self.delete_after_days:
            raise ConfigError(
                "retention.archive_after_days",
                f"{self.archive_after_days} days is never reached, because retention.delete_after_days is "
                f"{self.delete_after_days}; give at most that",
            )
