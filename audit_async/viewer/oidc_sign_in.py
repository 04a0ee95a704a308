"""Signing in at an OpenID Connect provider: the authorization code flow with PKCE, state and nonce.

https://openid.net/specs/openid-connect-core-1_0.html, RFC 7636 (PKCE), RFC 9207 (issuer in the answer), RFC 9700.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64encode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from ipaddress import ip_address
from time import monotonic
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import anyio
import anyio.to_thread
import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from audit_async.config.wording import shown_url
from audit_async.errors import AuditError, ConfigError
from audit_async.tlog.failures import Malformed, SourceFailed
from audit_async.tlog.http_client import Endpoint, request
from audit_async.viewer.people import SignedIn, require_plain

__all__ = ["CALLBACK_PATH", "OidcSignIn", "SignInFailed"]

_T = TypeVar("_T")

CALLBACK_PATH: Final = "/sign-in/oidc/callback"

#: Asymmetric alone: with HS256 the public key of the provider would be taken for a secret.
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_TIMEOUT_S: Final = 10.0
_MOST_BYTES: Final = 256 << 10
_KEYS_FOR_S: Final = 3600.0
_KEYS_AGAIN_S: Final = 30.0
_FLOW_S: Final = 600.0
_MOST_FLOWS: Final = 2000
_LEEWAY_S: Final = 60


class SignInFailed(AuditError):
    """The provider did not say who somebody is, or what it said is not to be believed. `reason` is a word for it."""

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


class _Flow(msgspec.Struct, frozen=True):
    """A browser that was sent to the provider and is expected back."""

    browser: str  #: digest of its cookie
    nonce: str
    verifier: str
    following: str
    begun_s: float


class _Provider(msgspec.Struct, frozen=True):
    """What the provider says of itself (OpenID Connect Discovery); members that are not used are passed over."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str


class OidcSignIn:
    """An OpenID Connect provider at which people sign in.

    Args:
        issuer: The provider's issuer URL.
        client_id: What the viewer is called there. `PUBLIC_URL/sign-in/oidc/callback` is its redirect URI.
        client_secret: Its secret, if the provider has given it one.
        public_url: The URL under which browsers reach the viewer.
        name_claim: The claim with the person's name, as the roles have it. An `email` must be verified.
        groups_claim: The claim with the person's groups.
        scope: What is asked for.

    Raises:
        ConfigError: A URL is none, or is not https and not of this machine.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        *,
        public_url: str,
        client_secret: str | None = None,
        name_claim: str = "email",
        groups_claim: str = "groups",
        scope: str = "openid email profile",
        now: Callable[[], float] = monotonic,
    ) -> None:
        _require_safe("oidc issuer", issuer)
        try:
            Endpoint.parse(issuer)
        except Malformed as error:
            raise ConfigError("oidc issuer", str(error)) from None
        _require_safe("public_url", public_url)
        self.issuer: Final = issuer
        self.redirect_uri: Final = f"{public_url.rstrip('/')}{CALLBACK_PATH}"
        self._client_id: Final = client_id
        self._client_secret: Final = client_secret
        self._name_claim: Final = name_claim
        self._groups_claim: Final = groups_claim
        self._scope: Final = scope
        self._now: Final = now
        self._flows: Final[OrderedDict[bytes, _Flow]] = OrderedDict()
        self._provider: _Provider | None = None
        self._keys = KeySet([])
        self._keys_read_s = float("-inf")

    def __repr__(self) -> str:
        return f"<OidcSignIn {self.issuer}>"  # never the secret

    async def begin(self, browser: str, following: str) -> str:
        """Return the URL at the provider to which a browser is sent; `browser` is a random number in its cookie.

        Raises:
            SignInFailed: The provider can't be reached.
        """
        provider = await self._discovered()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        self._flows[_digest(state)] = _Flow(_digest(browser).hex(), nonce, verifier, following, self._now())
        while len(self._flows) > _MOST_FLOWS:
            self._flows.popitem(last=False)
        challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self._scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        separator = "&" if "?" in provider.authorization_endpoint else "?"
        return f"{provider.authorization_endpoint}{separator}{urlencode(asked)}"

    async def finish(self, browser: str, answer: Mapping[str, str]) -> tuple[SignedIn, str]:
        """Return who it is that comes back from the provider, and the page to go on to.

        Raises:
            SignInFailed: The answer is not to be believed, or the provider refuses.
        """
        flow = self._flows.pop(_digest(answer.get("state", "")), None)
        if flow is None or self._now() - flow.begun_s > _FLOW_S:
            raise SignInFailed("unknown_state", "This sign-in was not begun here, or too long ago; begin again.")
        if not hmac.compare_digest(flow.browser, _digest(browser).hex()):
            raise SignInFailed("another_browser", "This sign-in was begun in another browser; begin again.")
        provider = await self._discovered()
        named = answer.get("iss")
        if (named is None and provider.authorization_response_iss_parameter_supported) or named not in {
            None,
            self.issuer,
        }:
            raise SignInFailed("another_issuer", "The answer is of another provider than the one that was asked.")
        if "code" not in answer:
            raise SignInFailed("refused_by_provider", "The provider did not sign you in.")
        tokens = await self._exchange(provider, answer["code"], flow)
        claims = await self._checked(provider, tokens.id_token, flow.nonce)
        return self._signed_in(claims), flow.following

    # What the provider is asked.

    async def _discovered(self) -> _Provider:
        if self._provider is None:
            endpoint = Endpoint.parse(self.issuer)
            content = await _asked(endpoint, ".well-known/openid-configuration")
            provider = _decoded(content, _Provider)
            if provider.issuer != self.issuer:
                raise SignInFailed("another_issuer", "The provider calls itself otherwise than it was configured.")
            try:
                for url in (provider.authorization_endpoint, provider.token_endpoint, provider.jwks_uri):
                    _require_safe("the provider's URL", url)
            except ConfigError as error:
                raise SignInFailed("unsafe_provider", str(error)) from None
            self._provider = provider
        return self._provider

    async def _exchange(self, provider: _Provider, code: str, flow: _Flow) -> _Tokens:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "client_id": self._client_id,
            "code_verifier": flow.verifier,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if self._client_secret is not None:
            pair = f"{quote(self._client_id, safe='')}:{quote(self._client_secret, safe='')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        content = await _asked(*_split(provider.token_endpoint), body=urlencode(form).encode(), headers=headers)
        return _decoded(content, _Tokens)

    async def _read_keys(self, provider: _Provider) -> None:
        content = await _asked(*_split(provider.jwks_uri))
        try:
            self._keys = KeySet.import_key_set(msgspec.json.decode(content))
        except (JoseError, msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
            raise SignInFailed("bad_keys", "The keys of the provider can't be read.") from error
        self._keys_read_s = self._now()

    # What it says.

    async def _checked(self, provider: _Provider, id_token: str, nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token that is the provider's, for this viewer and sign-in, and not expired."""
        age_s = self._now() - self._keys_read_s
        if age_s > _KEYS_FOR_S:
            await self._read_keys(provider)
        try:
            claims = self._verified(id_token)
        except SignInFailed:
            if age_s < _KEYS_AGAIN_S or self._now() - self._keys_read_s < _KEYS_AGAIN_S:
                raise
            await self._read_keys(provider)  # the provider may have new ones
            claims = self._verified(id_token)
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience
        if not isinstance(audiences, list) or self._client_id not in audiences:
            raise SignInFailed("another_audience", "The provider's answer is for another application.")
        if claims.get("azp", self._client_id) != self._client_id or (len(audiences) > 1 and "azp" not in claims):
            raise SignInFailed("another_audience", "The provider's answer is for another application.")
        if claims.get("iss") != self.issuer:
            raise SignInFailed("another_issuer", "The answer is of another provider than the one that was asked.")
        said = claims.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
            raise SignInFailed("wrong_nonce", "The provider's answer is to another sign-in.")
        return claims

    def _verified(self, id_token: str) -> dict[str, Any]:
        """Return the claims of a token whose signature and times are right."""
        registry = jwt.JWTClaimsRegistry(leeway=_LEEWAY_S, exp={"essential": True}, iat={"essential": True})
        try:
            token = jwt.decode(id_token, self._keys, algorithms=list(_ALGORITHMS))
            registry.validate(token.claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise SignInFailed("bad_token", "The provider's answer is expired, or not signed with its keys.") from error
        return dict(token.claims)

    def _signed_in(self, claims: Mapping[str, Any]) -> SignedIn:
        name, groups = claims.get(self._name_claim), claims.get(self._groups_claim, ())
        try:
            require_plain(self._name_claim, name)
        except ConfigError:
            raise SignInFailed("no_name", f"The provider gives no {self._name_claim} for you.") from None
        if self._name_claim == "email" and claims.get("email_verified") is not True:
            raise SignInFailed("unverified_email", "The provider has not verified your e-mail address.")
        listed = groups if isinstance(groups, list) else ()
        return SignedIn(str(name), tuple(group for group in listed if isinstance(group, str)))


async def _asked(
    endpoint: Endpoint, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    ask = partial(request, endpoint, path, body=body, headers=headers, timeout_s=_TIMEOUT_S, max_bytes=_MOST_BYTES)
    try:
        answer = await anyio.to_thread.run_sync(ask)
    except (SourceFailed, Malformed) as error:
        raise SignInFailed("provider_unreachable", "The provider can't be reached now; try again later.") from error
    if answer.status != 200:
        raise SignInFailed("refused_by_provider", f"The provider refused, with status {answer.status}.")
    return answer.body


def _decoded(content: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SignInFailed("bad_answer", "The provider's answer can't be read.") from error


def _split(url: str) -> tuple[Endpoint, str]:
    """Return the server of a URL, and the path on it."""
    parts = urlsplit(url)
    path = parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint.parse(f"{parts.scheme}://{parts.netloc}"), path


def _require_safe(field: str, url: str) -> None:
    """Raise `ConfigError` unless a URL is https, or http on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme == "https" and host and "@" not in parts.netloc:
        return
    if parts.scheme == "http" and _is_loopback(host):
        return
    raise ConfigError(field, f"{shown_url(url)} must begin with https:// and hold no user or password")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
