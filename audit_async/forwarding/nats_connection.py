"""Connecting to NATS servers, and their answers as errors of a sink."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode

import anyio
import nats
import nats.errors
import nkeys
from msgspec import DecodeError, Struct, json
from nats.aio.client import Client
from nats.aio.msg import Msg

from audit_async.config.transparency import is_secret_itself
from audit_async.errors import ConfigError
from audit_async.forwarding.sink_errors import (
    RecordTooLarge,
    SinkError,
    SinkFull,
    SinkRefused,
    SinkUnavailable,
)

__all__ = [
    "ApiError",
    "NatsServers",
    "NoRight",
    "WrongSequence",
    "inbox_of",
    "public_key_in",
    "public_key_of",
    "split_options",
]

_LOOPBACK: Final = {"127.0.0.1", "localhost", "[::1]"}
_SECRETS: Final = frozenset({"nkey", "creds"})
_FILES: Final = _SECRETS | {"ca"}
_FORM: Final = "write nats://HOST:PORT[,HOST:PORT…][?nkey=FILE|creds=FILE][&ca=FILE][&api=PREFIX]"
_SEED: Final = re.compile(r"SU[A-Z2-7]{56}")
_PLACE: Final = re.compile(r"(?:[^@/:#\[\]\s]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
#: A question that a server has taken along when it was lost is asked again after so long.
_ATTEMPT_S: Final = 2.0
#: Answers of several servers have all come if there was none for so long.
_LAST_ANSWER_S: Final = 0.5

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_WRONG_SEQUENCE: Final = frozenset({10071, 10164})
_FULL: Final = frozenset({10047, 10002})
_NOT_STORED: Final = 10077  # for whatever reason; the description says which
_NO_ROOM: Final = ("maximum", "no space", "insufficient", "resource limits")
_TOO_LARGE: Final = frozenset({10054})
# No leader, no quorum, a server that has just started and waits for the others.
_PASSING: Final = frozenset({10004, 10005, 10008, 10009, 10023})


class WrongSequence(SinkError):
    """The subject's last message is not the one that the publication was to follow."""


class NoRight(SinkRefused):
    """This account may not use the subject."""


class ApiError(Struct, frozen=True):
    """What JetStream says went wrong."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(Struct, frozen=True):
    error: ApiError | None = None


class _Message(NamedTuple):
    """What is sent."""

    subject: str
    payload: bytes
    headers: Mapping[str, str] | None


class NatsServers:
    """The servers that a URL names, and one connection to one of them, made when it is needed.

    Args:
        url: the servers and the files with what this client authenticates itself by.
        timeout_s: seconds that a connection or an answer may take.
        least_payload: bytes that a message must be allowed to have; 0 if it does not matter.

    Raises:
        ConfigError: the URL is not usable. The message does not repeat it.
    """

    def __init__(self, url: str, *, timeout_s: float, least_payload: int = 0) -> None:
        self._places = _places(url)  # the one that failed last is at the end
        #: The servers, without anything secret.
        self.shown: Final = "nats://" + ",".join(self._places)
        rest, own = split_options(url, {"api"})
        self._files: Final = _files(rest)
        #: What subjects of the API begin with, in this client's account.
        self.api: Final = own.get("api", "$JS.API")
        self._timeout_s: Final = timeout_s
        self._least_payload: Final = least_payload
        self._connecting: Final = anyio.Lock()
        self._client: Client | None = None
        self._denials: Final[dict[str, anyio.Event]] = {}
        #: Rises with each connection: what was learned over an earlier one may no longer hold.
        self.generation = 0
        self.closed = False

    async def max_payload(self) -> int:
        """Return how many bytes the server takes as one message, headers included."""
        return (await self._connected()).max_payload

    async def ask_all(self, subject: str) -> list[bytes]:
        """Ask all servers, and return what each has answered.

        Raises:
            SinkUnavailable: no connection, or no server has answered in time.
            NoRight: this account may not use the subject.
        """
        first = await self.request(subject)
        client = await self._connected()
        answers: list[bytes] = []
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        try:
            await client.publish(subject, b"", reply=inbox)
            with contextlib.suppress(nats.errors.TimeoutError):
                while True:
                    answers.append((await subscription.next_msg(timeout=_LAST_ANSWER_S)).data)
        except (nats.errors.Error, OSError) as error:
            await self._drop(client)
            raise SinkUnavailable(f"{self.shown}: {_said(error)}") from None
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
        return answers or [first.data]

    async def ask(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> Msg:
        """Send a message that changes nothing, and return its answer; again if a server that had it was lost.

        Raises:
            SinkUnavailable: no connection, or no answer in time.
            NoRight: this account may not use the subject.
        """
        return await self._request(_Message(subject, payload, headers), min(_ATTEMPT_S, self._timeout_s))

    async def request(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> Msg:
        """Send a message once, and return its answer.

        Raises:
            SinkUnavailable: no connection, or no answer in time; it may have been done.
            NoRight: this account may not use the subject.
        """
        return await self._request(_Message(subject, payload, headers), self._timeout_s)

    async def _request(self, message: _Message, attempt_s: float) -> Msg:
        client = await self._connected()
        deadline = anyio.current_time() + self._timeout_s
        try:
            while True:
                try:
                    return await self._first(client, message, attempt_s)
                except nats.errors.TimeoutError:
                    if not client.is_connected or anyio.current_time() + attempt_s > deadline:
                        raise
        except nats.errors.NoRespondersError:
            # Maybe for this server alone: one that was started again may not know yet where the leader is.
            await self._leave(client)
            raise SinkUnavailable(
                f"{self.shown}: no server answers for the stream: it has no leader, or it was not made"
            ) from None
        except nats.errors.MaxPayloadError:
            raise RecordTooLarge(f"{self.shown}: a message has at most {client.max_payload:,} bytes") from None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            await self._leave(client)
            raise SinkUnavailable(f"{self.shown}: no answer within {self._timeout_s:g} s: {_said(error)}") from None

    async def _first(self, client: Client, message: _Message, timeout_s: float) -> Msg:
        """Return the answer, or raise as soon as the server has said that this account may not ask."""
        subject = message.subject
        denied = self._denials.setdefault(subject.lower(), anyio.Event())
        answers: list[Msg] = []
        failures: list[Exception] = []
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                try:
                    headers = dict(message.headers) if message.headers else None
                    answers.append(await client.request(subject, message.payload, timeout=timeout_s, headers=headers))
                except Exception as error:  # noqa: BLE001 - raised below, outside of the task group
                    failures.append(error)
                group.cancel_scope.cancel()

            group.start_soon(ask)
            await denied.wait()
            group.cancel_scope.cancel()
        if answers:
            return answers[0]
        if failures:
            raise failures[0]
        self._denials.pop(subject.lower(), None)
        raise NoRight(f"{self.shown}: this account has no right to {subject}; grant it, or use the host's own key")

    def error_in(self, answer: Msg) -> ApiError | None:
        """Return the error that an answer of JetStream states, None if it states none."""
        try:
            return json.decode(answer.data, type=_Answer).error
        except DecodeError:
            raise SinkUnavailable(f"{self.shown}: the answer is not JetStream's") from None

    def check(self, answer: Msg) -> None:
        """Raise the error that an answer of JetStream states.

        Raises:
            WrongSequence: the condition did not hold; nothing was stored.
            SinkFull: there is no room.
            RecordTooLarge: the stream takes no message of that size.
            SinkUnavailable: no leader or no quorum.
            SinkRefused: anything else, such as a stream that is not there.
        """
        error = self.error_in(answer)
        if error is None:
            return
        kind: type[SinkError] = SinkRefused
        if error.err_code in _WRONG_SEQUENCE:
            kind = WrongSequence
        elif error.err_code in _FULL or (error.err_code == _NOT_STORED and _is_full(error.description)):
            kind = SinkFull
        elif error.err_code in _TOO_LARGE:
            kind = RecordTooLarge
        elif error.err_code in _PASSING or error.err_code == _NOT_STORED or error.code == 503:
            kind = SinkUnavailable
        raise kind(f"{self.shown}: {error.description} ({error.err_code})")

    async def aclose(self) -> None:
        """Close the connection."""
        self.closed = True
        if self._client is not None:
            await self._drop(self._client)

    async def _connected(self) -> Client:
        async with self._connecting:
            if self.closed:
                raise SinkUnavailable(f"{self.shown}: the sink is closed")
            if self._client is not None and self._client.is_connected:
                return self._client
            client = await self._connect()
            if client.max_payload < self._least_payload:
                await self._drop(client)
                raise SinkRefused(
                    f"{self.shown}: the servers' max_payload is {client.max_payload:,} bytes, less than the "
                    f"{self._least_payload:,} of a batch; raise it in their configuration"
                )
            self._client = client
            self.generation += 1
            return self._client

    async def _connect(self) -> Client:
        reason: Exception | None = None
        for place in tuple(self._places):
            client = Client()
            try:
                with anyio.fail_after(self._timeout_s):
                    await client.connect(
                        f"nats://{place}", error_cb=self._on_error, allow_reconnect=False,
                        connect_timeout=max(1, int(self._timeout_s)), name="audit-async", **self._credentials(place),
                    )  # fmt: skip
            except (nats.errors.Error, TimeoutError, OSError) as error:
                reason = error
                self._try_last(place)
                await self._drop(client)
            else:
                return client
        said = _said(reason)
        if "authorization violation" in said.lower():
            raise SinkRefused(f"{self.shown}: the servers do not know this key; grant it, or name the right file")
        raise SinkUnavailable(f"{self.shown}: {said}")

    def _try_last(self, place: str) -> None:
        """Try other servers before one that has failed: it may take connections and not answer."""
        if place in self._places:
            self._places = [*(other for other in self._places if other != place), place]

    def _credentials(self, place: str) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if "nkey" in self._files:
            given["nkeys_seed"] = self._files["nkey"]
            given["inbox_prefix"] = inbox_of(public_key_in(Path(self._files["nkey"]), "nkey"))
        if "creds" in self._files:
            given["user_credentials"] = self._files["creds"]
        if place.rpartition(":")[0] not in _LOOPBACK or "ca" in self._files:
            given["tls"] = ssl.create_default_context(cafile=self._files.get("ca"))
        return given

    async def _on_error(self, error: Exception) -> None:
        said = str(error).lower()
        if "permissions violation for publish to" in said:
            denied = self._denials.get(said.partition('publish to "')[2].partition('"')[0])
            if denied is not None:
                denied.set()

    async def _leave(self, client: Client) -> None:
        """Close a connection to a server that is of no use now, and try the others first."""
        if client.connected_url is not None:
            self._try_last(client.connected_url.netloc)
        await self._drop(client)

    async def _drop(self, client: Client) -> None:
        if self._client is client:
            self._client = None
        with contextlib.suppress(Exception), anyio.move_on_after(2, shield=True):
            await client.close()


def _places(url: str) -> list[str]:
    scheme, _, rest = url.partition("://")
    hosts = rest.partition("?")[0].rstrip("/")
    places = [place if place.rpartition(":")[2].isdigit() else f"{place}:4222" for place in hosts.split(",") if place]
    if scheme != "nats" or not places or not all(_PLACE.fullmatch(place) for place in places):
        raise ConfigError("engine", f"{_FORM}; no secret belongs in it")
    return places


def inbox_of(public_key: str) -> str:
    """Return what subjects of a user's answers begin with: nobody else has a right to them."""
    return f"_INBOX_{public_key}"


def public_key_in(path: Path, field: str) -> str:
    """Return the public key of the seed in a file.

    Raises:
        ConfigError: there is no seed in it.
    """
    try:
        found = _SEED.fullmatch(path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        found = None
    if found is None:
        raise ConfigError(field, f"{path} is no file with the seed of a user's NKey, and nothing else")
    return public_key_of(found[0].encode())


def public_key_of(seed: bytes) -> str:
    """Return the public key of a seed."""
    key = nkeys.from_seed(bytearray(seed))
    public: str = key.public_key.decode()
    key.wipe()
    return public


def split_options(url: str, names: set[str]) -> tuple[str, dict[str, str]]:
    """Return a URL without the options of those names, and these."""
    place, _, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in options if name not in names], safe="/")
    return f"{place}?{rest}" if rest else place, {name: value for name, value in options if name in names}


def _files(url: str) -> dict[str, str]:
    files = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    if unknown := set(files) - _FILES:
        raise ConfigError("engine", f"there is no option {min(unknown)!a}; {_FORM}")
    for name, path in files.items():
        if is_secret_itself(path):
            raise ConfigError("engine", f"{name} holds the secret itself; write it to a file, and name that")
        if not Path(path).is_file():
            raise ConfigError("engine", f"{name}={path!a}: there is no such file")
        if name in _SECRETS and Path(path).stat().st_mode & 0o007:
            raise ConfigError("engine", f"{name}={path!a}: every user of this machine can read it; chmod o= it")
    return files


def _is_full(description: str) -> bool:
    return any(word in description.lower() for word in _NO_ROOM)


def _said(error: Exception | None) -> str:
    return str(error) or type(error).__name__
