"""Requests with POST and GET to one receiver, and what the status of an answer means for what was sent.

A redirect is not followed: the receiver that it names would get the token and the records.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

import aiohttp
import anyio.to_thread

from audit_async._version import __version__
from audit_async.delivery.deliver_settings import HttpSettings, OtlpSettings, require_http_url
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.delivery.tls_files import tls_context
from audit_async.errors import ConfigError
from audit_async.tlog.failures import KeyUnavailable
from audit_async.tlog.signing_keys import read_secret

__all__ = ["Answer", "HttpConnection", "compressed", "result_of"]

#: An answer that is longer is none of a receiver's.
_MOST_ANSWER_BYTES: Final = 16 << 20
_REFUSED: Final = frozenset({400, 413, 422})
_UNAUTHORIZED: Final = frozenset({401, 403, 407})
_RETRY: Final = frozenset({408, 425, 429})


class Answer(NamedTuple):
    """What a receiver answered."""

    status: int
    body: bytes
    retry_after_s: float | None


class HttpConnection:
    """The connections to one receiver; for one event loop of asyncio.

    Args:
        settings: The sink's.
    """

    def __init__(self, settings: HttpSettings | OtlpSettings) -> None:
        self._settings: Final = settings
        self._session: aiohttp.ClientSession | None = None
        self._opening: Final = asyncio.Lock()
        self._secrets: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<HttpConnection of {self._settings.name} {'open' if self._session is not None else 'closed'}>"

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Answer | SendResult:
        """Send a body; return the answer, or what follows from there being none."""
        return await self._request("POST", self._settings.url, body, headers)

    async def get(self, url: str) -> Answer | SendResult:
        """Ask for something; as `post`."""
        return await self._request("GET", url, None, {})

    async def secret(self, source: str) -> bytes:
        """Return a secret without white space around it, from memory after the first time; raises `KeyUnavailable`."""
        if source not in self._secrets:
            found = await anyio.to_thread.run_sync(read_secret, source.removeprefix("file:"))
            self._secrets[source] = found.strip()
        return self._secrets[source]

    def forget_secrets(self) -> None:
        """Read the secrets again when they are needed: the receiver does not take them, and they may be new by now."""
        self._secrets.clear()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer | SendResult:
        try:
            async with self._opening:
                self._session = self._session or await self._open()
            answer = await self._ask(method, await self._address(url), body, headers)
        except (KeyUnavailable, ConfigError) as error:
            return SendResult(outcome=Outcome.MISCONFIGURED, reason=str(error))
        except ssl.SSLError as error:
            return SendResult(
                outcome=Outcome.MISCONFIGURED, reason=f"TLS: {error.reason or 'the certificate is not valid'}"
            )
        except aiohttp.ClientConnectorCertificateError:
            return SendResult(
                outcome=Outcome.MISCONFIGURED,
                reason="the receiver's certificate is not valid for its name, or not signed by one in ca_file",
            )
        except (aiohttp.InvalidURL, ValueError):
            return SendResult(outcome=Outcome.MISCONFIGURED, reason="the url can't be used; check it")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            # The class only: the message of some names the URL.
            reason = f"the receiver does not answer: {type(error).__name__}"
            ended = isinstance(error, aiohttp.ServerDisconnectedError)
            reset = getattr(error, "errno", None) == errno.ECONNRESET
            if (ended or reset) and self._settings.url.startswith("https:"):
                reason += "; one that wants another client_cert ends connections like this"
            return SendResult(outcome=Outcome.RETRY, reason=reason)
        if answer.status in _UNAUTHORIZED:
            self.forget_secrets()
        return answer

    async def _open(self) -> aiohttp.ClientSession:
        context = await anyio.to_thread.run_sync(tls_context, self._settings)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=8),
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
            headers={"User-Agent": f"audit-async/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    async def _address(self, url: str) -> str:
        if not url.startswith(("env:", "credential:")):
            return url
        found = (await self.secret(url)).decode(errors="replace")
        require_http_url(found, f"sink.{self._settings.name}.url", allow_unencrypted=self._settings.allow_unencrypted)
        return found

    async def _ask(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        session = self._session
        assert session is not None  # noqa: S101 - the caller has opened it
        sent = dict(headers)
        if self._settings.token is not None:
            token = (await self.secret(self._settings.token)).decode("latin-1")
            if not token.isascii() or not token.isprintable():
                raise ConfigError(
                    f"sink.{self._settings.name}.token", "it holds what no header may hold; check its source"
                )
            sent[self._settings.header_name] = f"{self._settings.token_scheme} {token}".strip()
        async with session.request(method, url, data=body, headers=sent, allow_redirects=False) as response:
            content = b""
            while len(content) < _MOST_ANSWER_BYTES and (more := await response.content.readany()):
                content += more
            return Answer(response.status, content, _retry_after_s(response.headers.get("Retry-After")))


def result_of(answer: Answer) -> SendResult | None:
    """Return what an answer means by its status; None if the receiver has taken the request."""
    status = answer.status
    if 200 <= status < 300:
        return None
    if status in _UNAUTHORIZED:
        return SendResult(
            outcome=Outcome.UNAUTHORIZED,
            reason=f"the receiver answers {status}: it does not take the token or the certificate",
        )
    if status in _REFUSED:
        return SendResult(outcome=Outcome.REFUSED, reason=f"the receiver answers {status}", too_large=status == 413)
    if status in _RETRY or status >= 500:
        return SendResult(
            outcome=Outcome.RETRY, reason=f"the receiver answers {status}", retry_after_s=answer.retry_after_s
        )
    return SendResult(
        outcome=Outcome.MISCONFIGURED,
        reason=f"the receiver answers {status}: nothing takes records there; check the url",
    )


def compressed(body: bytes) -> bytes:
    """Return a body as gzip, at the level that costs least."""
    compressor = zlib.compressobj(1, wbits=31)
    return compressor.compress(body) + compressor.flush()


def _retry_after_s(value: str | None) -> float | None:
    """Return the seconds of a `Retry-After` (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after)."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter of a time zone with too many digits
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
