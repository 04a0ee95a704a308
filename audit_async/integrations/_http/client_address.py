"""Whose request it is: the peer's address, or what proxies of one's own say in a header.

Everybody can write such a header. So it is read only if the peer is a proxy that is trusted, and from the right end,
which that proxy wrote: the first address that is not a trusted proxy's is the client's, and what is to the left of it
is the client's own claim, which is worth nothing. There is one header, by configuration: a proxy that writes
`X-Forwarded-For` passes a `Forwarded` on as the client sent it.

The header is split once and its last entries are read once each: the work is linear in its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal

from audit_async.errors import ConfigError

__all__ = ["ForwardedHeader", "TrustedProxies"]

ForwardedHeader = Literal["x-forwarded-for", "forwarded"]

#: A proxy chain has a handful of members; a header with more entries is not read to its end.
_MAX_HOPS: Final = 32


class TrustedProxies:
    """Finds the address of a client that comes through proxies.

    Args:
        proxies: Addresses or networks, IPv4 or IPv6, and `unix` for peers on a UNIX socket, which have no address.
        header: The header that the proxies write.

    Raises:
        ConfigError: A value is anything else.
    """

    def __init__(self, proxies: Iterable[str] = (), *, header: ForwardedHeader = "x-forwarded-for") -> None:
        if isinstance(proxies, str) or not isinstance(proxies, Iterable):
            raise ConfigError("trusted_proxies", 'must be several texts; write ("10.0.0.0/8",)')
        if header not in ("x-forwarded-for", "forwarded"):
            raise ConfigError("forwarded_header", "must be x-forwarded-for or forwarded: what your proxy writes")
        self._header: Final = header.encode()
        self._networks: Final[list[IPv4Network | IPv6Network]] = []
        self._trusts_unix = False
        for proxy in proxies:
            if proxy == "unix":
                self._trusts_unix = True
                continue
            try:
                self._networks.append(ip_network(f"{proxy}", strict=False))  # an int would be a packed address
            except ValueError:
                raise ConfigError(
                    "trusted_proxies", f"{proxy!r} is no address and no network; write 10.0.0.0/8, ::1 or unix"
                ) from None
        #: Without a proxy that is trusted the client is the peer, whatever it says.
        self.trusts_none: Final = not self._networks and not self._trusts_unix
        # Peers repeat, and reading an address costs 2 us; bounded, since a client chooses what a header says.
        self._trusts: Final[Callable[[str], bool]] = lru_cache(1024)(self._is_trusted)

    def client_of(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the client's address; None if the peer has none and no trusted proxy names one.

        Args:
            peer: The address of the connection's other end, None on a UNIX socket.
            headers: The request's headers.
        """
        if self.trusts_none or not (self._trusts_unix if peer is None else self._trusts(peer)):
            return peer
        hops = self._hops(headers)
        client = peer
        for hop in reversed(hops):
            address = _address_in(hop)
            if address is None:  # `unknown`, a made-up name, or garbage: what is to the left of it can't be believed
                return client
            client = address
            if not self._trusts(address):
                return client
        return client

    def _hops(self, headers: Iterable[tuple[bytes, bytes]]) -> Sequence[str]:
        """Return the last entries of the header, the nearest hop last; several headers are one, in their order."""
        values = [value.decode("latin-1") for name, value in headers if name.lower() == self._header]
        entries = ",".join(values).split(",")[-_MAX_HOPS:] if values else []
        if self._header == b"forwarded":
            return [_for_in(entry) for entry in entries]
        return [entry.strip() for entry in entries]

    def _is_trusted(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def _for_in(entry: str) -> str:
    """Return the `for` of one element of a `Forwarded` header (RFC 7239); empty if it has none."""
    for pair in entry.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value.strip().removeprefix('"').removesuffix('"')
    return ""


def _address_in(hop: str) -> str | None:
    """Return the address in an entry, in its usual form, without port, brackets and zone; None if there is none."""
    if hop.startswith("["):
        host, bracket, port = hop[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif hop.count(":") == 1:
        host, _, number = hop.partition(":")
        if not _is_port(f":{number}"):
            return None
    else:
        host = hop
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
    return str(address)


def _is_port(text: str) -> bool:
    number = text[1:]
    return text[:1] == ":" and number.isascii() and number.isdigit() and len(number) <= 5
