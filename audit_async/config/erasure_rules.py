"""What an erasure has to wait for: the rules of a key store, which settings ask for and the store keeps."""

from __future__ import annotations

import re
from typing import Final

import msgspec

__all__ = ["ErasureRules", "delay_seconds"]

_DAY_S: Final = 86_400
_LONGEST_DELAY_S: Final = 366 * _DAY_S
#: ISO 8601 durations (https://www.rfc-editor.org/rfc/rfc3339#appendix-A) that have one length: no months, no years.
_DURATION: Final = re.compile(
    r"P(?!\Z)(?:(?P<weeks>\d{1,3})W|(?:(?P<days>\d{1,4})D)?"
    r"(?:T(?!\Z)(?:(?P<hours>\d{1,4})H)?(?:(?P<minutes>\d{1,5})M)?(?:(?P<seconds>\d{1,7})S)?)?)",
    re.ASCII,
)
_UNITS_S: Final = {"weeks": 7 * _DAY_S, "days": _DAY_S, "hours": 3600, "minutes": 60, "seconds": 1}


class ErasureRules(msgspec.Struct, frozen=True, kw_only=True):
    """What every erasure of a key store has to wait for.

    Args:
        delay_s: Seconds between the request of an erasure and its earliest execution.
        not_before_days: No key is destroyed before it is this many days old.
        two_person: A request is executed only after somebody other than the one who asked has approved it.
    """

    delay_s: int = 0
    not_before_days: int = 0
    two_person: bool = False

    @property
    def need_request(self) -> bool:
        """True if no erasure may be done in one call."""
        return self.delay_s > 0 or self.two_person

    def tightened(self, other: ErasureRules) -> ErasureRules:
        """Return the stricter of both, rule by rule."""
        return ErasureRules(
            delay_s=max(self.delay_s, other.delay_s),
            not_before_days=max(self.not_before_days, other.not_before_days),
            two_person=self.two_person or other.two_person,
        )


def delay_seconds(given: object) -> int | None:
    """Return the seconds of a delay: whole days, as a number or as digits, or a text such as `P7D` or `PT12H`.

    Returns:
        None if it is none of these, or longer than 366 days.
    """
    if isinstance(given, str):
        if given.isascii() and given.isdigit() and len(given) < 5:
            given = int(given)
        elif match := _DURATION.fullmatch(given):
            total_s = sum(_UNITS_S[unit] * int(number) for unit, number in match.groupdict(default="0").items())
            return total_s if total_s <= _LONGEST_DELAY_S else None
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given * _DAY_S <= _LONGEST_DELAY_S:
        return given * _DAY_S
    return None
