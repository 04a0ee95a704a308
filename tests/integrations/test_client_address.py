"""Whose address is recorded: the peer's, unless the peer is a trusted proxy, and then never what a client claims."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async import ConfigError
from audit_async.integrations._http.client_address import ForwardedHeader, TrustedProxies

PROXIES = ("10.0.0.0/8", "2001:db8:aaaa::/48", "127.0.0.1")


def client(
    peer: str | None, *values: str, proxies: Sequence[str] = PROXIES, header: ForwardedHeader = "x-forwarded-for"
) -> str | None:
    """Return the client's address for a request with these values of the header."""
    headers = [(b"host", b"x"), *((header.encode(), value.encode("latin-1")) for value in values)]
    return TrustedProxies(proxies, header=header).client_of(peer, headers)


def test_without_trusted_proxies_the_header_is_not_read() -> None:
    """By default the client is the peer, whatever it says."""
    assert client("198.51.100.7", "203.0.113.9", proxies=()) == "198.51.100.7"


def test_a_peer_that_is_no_proxy_is_not_believed() -> None:
    """A client that comes by itself can't choose its address."""
    assert client("198.51.100.7", "203.0.113.9") == "198.51.100.7"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["1.2.3.4, 203.0.113.9"], "203.0.113.9"),
        (["1.2.3.4", "203.0.113.9, 10.1.1.1"], "203.0.113.9"),
        (["203.0.113.9,10.1.1.1 ,\t10.2.2.2"], "203.0.113.9"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["2001:db8::1"], "2001:db8::1"),
        (["2001:DB8:0::0001"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, ::ffff:10.1.1.1"], "203.0.113.9"),
        (["203.0.113.9, 2001:db8:aaaa::5"], "203.0.113.9"),
        (["10.7.7.7"], "10.7.7.7"),
        (["10.7.7.7, 10.8.8.8"], "10.7.7.7"),
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["203.0.113.9, "], "10.0.0.1"),
        (["203.0.113.9, unknown"], "10.0.0.1"),
        (["203.0.113.9, not an address, 10.1.1.1"], "10.1.1.1"),
        (["203.0.113.9:99999999"], "10.0.0.1"),
        (["[2001:db8::1"], "10.0.0.1"),
        (["[2001:db8::1]x"], "10.0.0.1"),
        (["fe80::1%eth0"], "10.0.0.1"),
        (["203.0.113.9\x00"], "10.0.0.1"),
        (["010.0.0.1"], "10.0.0.1"),
        (["x, " * 10_000 + "203.0.113.9"], "203.0.113.9"),
    ],
)
def test_the_first_address_from_the_right_that_is_no_proxy_is_the_clients(values: list[str], expected: str) -> None:
    """Behind a trusted proxy the header is read from the right, and garbage ends what can be believed."""
    assert client("10.0.0.1", *values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["for=203.0.113.9"], "203.0.113.9"),
        (['For="203.0.113.9:4711";proto=https;by=10.0.0.1'], "203.0.113.9"),
        (['for="[2001:db8::1]:4711"'], "2001:db8::1"),
        (["for=1.2.3.4, for=203.0.113.9;proto=http, proto=https;for=10.1.1.1"], "203.0.113.9"),
        (["for=203.0.113.9, for=_hidden"], "10.0.0.1"),
        (["for=203.0.113.9, for=unknown"], "10.0.0.1"),
        (["for=203.0.113.9, proto=https"], "10.0.0.1"),
        (['for="1.2.3.4, for=203.0.113.9'], "203.0.113.9"),
    ],
)
def test_forwarded_is_read_by_rfc_7239(values: list[str], expected: str) -> None:
    """The standard's header is read as the other one, with its quotes, parameters and hidden names."""
    assert client("10.0.0.1", *values, header="forwarded") == expected


def test_a_proxy_on_a_dual_stack_socket_is_known() -> None:
    """A server that listens on IPv6 for both sees IPv4 peers as mapped addresses; the proxy is the same."""
    assert client("::ffff:10.0.0.1", "203.0.113.9") == "203.0.113.9"
    assert client("::ffff:198.51.100.7", "203.0.113.9") == "::ffff:198.51.100.7"


def test_only_the_configured_header_is_read() -> None:
    """A header that the proxy does not write is the client's own, also behind a trusted proxy."""
    headers = [(b"forwarded", b"for=1.2.3.4"), (b"x-forwarded-for", b"203.0.113.9")]
    assert TrustedProxies(PROXIES).client_of("10.0.0.1", headers) == "203.0.113.9"
    assert TrustedProxies(PROXIES, header="forwarded").client_of("10.0.0.1", headers) == "1.2.3.4"


def test_a_unix_socket_is_trusted_only_by_name() -> None:
    """A peer on a UNIX socket has no address; it is a proxy where the configuration says so."""
    assert client(None, "203.0.113.9") is None
    assert client(None, "203.0.113.9", proxies=("unix",)) == "203.0.113.9"
    assert client(None, "203.0.113.9, 10.1.1.1", proxies=("unix", "10.0.0.0/8")) == "203.0.113.9"
    assert client(None, proxies=("unix",)) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_stands_left_of_the_client_changes_nothing(claimed: str, more: str) -> None:
    """Whatever a client puts into the header before it reaches the proxies, the result is its real address."""
    values = f"{claimed},{more}, 203.0.113.9, 10.1.1.1".encode("utf-8", "surrogatepass").decode("latin-1")
    assert client("10.0.0.1", values) == "203.0.113.9"
    quoted = f"for={claimed};{more}, for=203.0.113.9, for=10.1.1.1".encode("utf-8", "surrogatepass").decode("latin-1")
    assert client("10.0.0.1", quoted, header="forwarded") == "203.0.113.9"


@pytest.mark.parametrize("proxies", ["10.0.0.0/8", ["10.0.0.0/33"], ["proxy.example"], [""]])
def test_a_wrong_proxy_says_so(proxies: Sequence[str]) -> None:
    """What is no address and no network raises ConfigError at the start, not at the first request."""
    with pytest.raises(ConfigError, match="trusted_proxies"):
        TrustedProxies(proxies)
    with pytest.raises(ConfigError, match="forwarded_header"):
        TrustedProxies(header="x-real-ip")  # type: ignore[arg-type]  # a wrong value on purpose
