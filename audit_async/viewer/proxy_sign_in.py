"""Signing in at a reverse proxy, which names the person in a header."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from starlette.requests import Request

from audit_async.errors import ConfigError
from audit_async.viewer.people import SignedIn, require_plain

__all__ = ["ProxySignIn"]

_HEADER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", re.ASCII)


class ProxySignIn:
    """A header that a trusted proxy sets, and that counts from its addresses alone.

    The proxy must remove both headers from what comes from outside.

    Args:
        header: The header with the person's name, such as `X-Forwarded-User`.
        peers: The addresses or networks of the proxy; anybody else's header is ignored.
        groups_header: A header with the person's groups, separated by commas.

    Raises:
        ConfigError: A header or an address is none, or there are no addresses.
    """

    def __init__(self, header: str, *, peers: Sequence[str], groups_header: str | None = None) -> None:
        for field, name in (("header", header), ("groups_header", groups_header)):
            if name is not None and not _HEADER.fullmatch(name):
                raise ConfigError(field, f"{name[:64]!a} is no name of a header, such as X-Forwarded-User")
        self._header: Final = header
        self._groups_header: Final = groups_header
        self._peers: Final = tuple(map(_network, peers))
        if not self._peers:
            raise ConfigError("peers", "give the addresses of the proxy; from any other the header could be anybody's")

    def __repr__(self) -> str:
        return f"<ProxySignIn {self._header} from {', '.join(map(str, self._peers))}>"

    def signed_in(self, request: Request) -> SignedIn | None:
        """Return who the proxy says it is, None if it says nothing or it is not the proxy that asks."""
        if request.client is None or not self._is_proxy(request.client.host):
            return None
        names = request.headers.getlist(self._header)
        if len(names) != 1:  # two of them: one may be the client's own
            return None
        try:
            require_plain("header", names[0])
        except ConfigError:
            return None
        groups = request.headers.getlist(self._groups_header) if self._groups_header is not None else []
        listed = groups[0].split(",") if len(groups) == 1 else ()
        return SignedIn(names[0], tuple(name for one in listed if (name := one.strip())))

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._peers)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        raise ConfigError("peers", f"{text[:64]!a} is no address and no network such as 10.0.0.0/24") from None
