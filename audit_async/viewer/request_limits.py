"""Bounds on what the web may ask for: searches at a time, seconds of one search, requests of one address."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from time import monotonic
from typing import Final

import anyio
import msgspec

from audit_async.errors import AuditError, ConfigError

__all__ = ["Bounds", "RateLimit", "SearchSlots", "SearchTookTooLong", "TooManySearches", "ViewLimits"]


class TooManySearches(AuditError):
    """Too much is being searched for at this moment, by everybody or by this person."""


class SearchTookTooLong(AuditError):
    """A search was ended because it took too long."""


class ViewLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the web may cost.

    Args:
        search_s: Seconds of one search.
        download_s: Seconds of one download.
        searches: Searches at one time, of all persons; others wait.
        searches_of_one: Searches, downloads and live pages at one time of one person.
        waiting_s: How long a search waits for others to end.
        downloads: Downloads at one time.
        streams: Live pages at one time.
        page_records: Records on one page, at most.
        requests_per_s: Requests of one address in a second, on average.
        sign_ins_per_min: Attempts to sign in from one address in a minute.

    Raises:
        ConfigError: One of them is not above zero.
    """

    search_s: float = 60.0  # 4.6 GB, ten million records without an index, if the disk gives 80 MB/s
    download_s: float = 600.0
    searches: int = 8
    searches_of_one: int = 6
    waiting_s: float = 10.0
    downloads: int = 4
    streams: int = 100
    page_records: int = 200
    requests_per_s: float = 30.0
    sign_ins_per_min: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not (value > 0 or (name == "waiting_s" and value == 0)) or value == float("inf"):
                raise ConfigError(name, f"must be above zero, and not {value!a}")


class SearchSlots:
    """Who may search now: so many at a time, and so many of one person."""

    def __init__(self, total: int, of_one: int, waiting_s: float) -> None:
        self._free = anyio.Semaphore(total)
        self._of_one: Final = of_one
        self._waiting_s: Final = waiting_s
        self._by_person: Final[Counter[str]] = Counter()  # only persons who search now

    @property
    def is_awaited(self) -> bool:
        """True if somebody waits for a place at this moment; from any thread."""
        return self._free.statistics().tasks_waiting > 0

    @asynccontextmanager
    async def one(self, person: str) -> AsyncGenerator[None, None]:
        """Hold a place while the block runs.

        Raises:
            TooManySearches: The person holds too many, or none became free in time.
        """
        if self._by_person[person] >= self._of_one:
            raise TooManySearches(f"{self._of_one} searches of yours are running; wait until one has ended")
        self._by_person[person] += 1
        try:
            await self._acquire()
            try:
                yield
            finally:
                self._free.release()
        finally:
            self._by_person[person] -= 1
            if not self._by_person[person]:
                del self._by_person[person]

    async def _acquire(self) -> None:
        try:
            self._free.acquire_nowait()  # first, since no time at all would be too short for the other
        except anyio.WouldBlock:
            try:
                with anyio.fail_after(self._waiting_s):
                    await self._free.acquire()
            except TimeoutError:
                raise TooManySearches("the viewer is busy with other searches; try again in a moment") from None


class Bounds:
    """The places that one viewer has, for each kind of work."""

    def __init__(self, limits: ViewLimits) -> None:
        self.limits: Final = limits
        self.searches: Final = SearchSlots(limits.searches, limits.searches_of_one, limits.waiting_s)
        self.streams: Final = SearchSlots(limits.streams, limits.searches_of_one, 0)
        self.downloads: Final = SearchSlots(limits.downloads, limits.searches_of_one, limits.waiting_s)


class RateLimit:
    """A token bucket for each address, in bounded memory: of the addresses that came last.

    https://en.wikipedia.org/wiki/Token_bucket
    """

    def __init__(self, per_s: float, burst: int, *, most: int = 10_000, now: Callable[[], float] = monotonic) -> None:
        self._per_s: Final = per_s
        self._burst: Final = burst
        self._most: Final = most
        self._now: Final = now
        self._buckets: Final[OrderedDict[str, tuple[float, float]]] = OrderedDict()  # tokens, and when that was

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, address: str) -> float:
        """Take one request of an address; return 0, or how many seconds it has to wait before it is served."""
        now, address = self._now(), _who_asks(address)
        tokens, since = self._buckets.pop(address, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_s)
        wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._per_s
        self._buckets[address] = (tokens - 1 if not wait_s else tokens, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return wait_s


def _who_asks(address: str) -> str:
    """Return whose requests are counted together: of IPv6 a /64, since one machine has all addresses of one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address  # a person's name
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
