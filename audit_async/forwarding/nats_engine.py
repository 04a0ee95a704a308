"""Preparing a NATS JetStream engine, and giving rights to it.

Rights are accounts in the servers' configuration, so they are written to a file that the configuration includes, and
are in force once each server has read it again. If the servers are on this machine, they are asked to; otherwise what
is left to do is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from anyio import to_thread
from msgspec import DecodeError, Struct, json

from audit_async._durable import disk
from audit_async.errors import ConfigError
from audit_async.forwarding.engine_admin import CheckedSetting, ConfirmedSeq, Granted, Kind, Limits, Trimmed
from audit_async.forwarding.nats_accounts import API_PREFIX, Accounts, Member, new_key
from audit_async.forwarding.nats_checks import ServerAnswer, StreamDescription, check_servers, check_stream
from audit_async.forwarding.nats_connection import NatsServers, public_key_in, split_options
from audit_async.forwarding.nats_streams import Stream, streams_of
from audit_async.forwarding.sink_errors import SinkRefused, SinkUnavailable

__all__ = ["NatsEngine"]

_NO_STREAM: Final = 10059
_NEXT: Final = "next: bring {path} to each server, and: nats-server --signal reload"


class _ServerId(Struct, frozen=True):
    id: str
    name: str = ""


class _Pong(Struct, frozen=True):
    server: _ServerId


class NatsEngine:
    """The engine of one tenant on NATS servers, for its administrator.

    Args:
        url: `nats://HOST:PORT,HOST:PORT,HOST:PORT?nkey=FILE&accounts=FILE&system=FILE&ca=FILE`: `nkey` names the file
            with the administrator's seed and `accounts` that with the accounts, both of which `init` makes; `system`
            one with the seed of a user of the system account, which alone sees how the servers are configured;
            `replicas=1` is for a trial on one server.
        tenant: whose engine it is; each has accounts and streams of its own.
        timeout_s: seconds after which a call to the servers is given up.

    Raises:
        ConfigError: the URL is not usable. The message does not repeat it.
    """

    def __init__(self, url: str, *, tenant: str, timeout_s: float = 10.0) -> None:
        self._url, own = split_options(url, {"accounts", "system", "replicas", "nkey", "ca"})
        if "accounts" not in own or "nkey" not in own:
            raise ConfigError("engine", "name both files: nats://HOST:PORT?nkey=FILE&accounts=FILE")
        if own.get("replicas", "3") not in {"1", "3", "5"}:
            raise ConfigError("engine", "replicas is 3 or 5; 1 for a trial on one server")
        self._tenant: Final = tenant
        self._timeout_s: Final = timeout_s
        self._key_file: Final = Path(own["nkey"])
        self._system_file: Final = Path(own["system"]) if "system" in own else None
        self._ca: Final = own.get("ca")
        self._replicas: Final = int(own.get("replicas", "3"))
        self._accounts: Final = Accounts(Path(own["accounts"]), tenant)

    def __repr__(self) -> str:
        return f"<NatsEngine accounts={str(self._accounts.path)!r} tenant={self._tenant!r}>"

    async def init(self) -> list[str]:
        """Make the keys and the accounts; called again once the servers have these, make the streams or correct them.

        What is stored is kept, and a setting that is more than is needed stays.

        Raises:
            SinkRefused: the servers do not know the administrator, or a stream can't be corrected.
            SinkUnavailable: no answer.
        """
        if not self._accounts.path.exists():
            return await to_thread.run_sync(self._begin)
        done = []
        if not await to_thread.run_sync(self._accounts.load):
            done += await self._write_accounts("accounts: brought up to date")
        async with self._connected() as servers:
            for stream in streams_of(self._tenant, self._replicas):
                done += await self._put(servers, stream)
        return done

    async def check(self) -> list[CheckedSetting]:
        """Look at everything that a trail depends on, and return it; nothing is changed.

        Raises:
            SinkUnavailable: no answer.
            SinkRefused: the servers do not know the administrator.
        """
        found = [await self._check_accounts()]
        if self._system_file is None:
            found.append(
                CheckedSetting(
                    name="servers", verdict="wrong", found="unknown", wanted="sync_interval: always, TLS, accounts",
                    fix="name a key of the system account: system=FILE",
                )
            )  # fmt: skip
        else:
            found += check_servers(await self._server_answers(), self._replicas)
        async with self._connected() as servers:
            for stream in streams_of(self._tenant, self._replicas):
                found += check_stream(stream, await self._described(servers, stream.name), self._replicas)
        return found

    async def grant(self, name: str, *, kind: Kind, secret_file: Path, limits: Limits) -> Granted:
        """Give a host the right to write its own logs, or a collector the right to read and confirm those of all.

        Called again it makes a new key, and the one before is void once each server has read the accounts again.

        Args:
            name: the host, as its logs name it, or the collector.
            kind: which of the two.
            secret_file: a new file for the seed of its key.
            limits: those that are the default; the servers can't bound a host.

        Raises:
            ConfigError: the file is there already, other limits were asked for, or there are no accounts yet.
        """
        if limits != Limits():
            raise ConfigError(
                "limits", "NATS can't bound a host: max_msgs_per_subject bounds a log, max_bytes a tenant"
            )
        await to_thread.run_sync(self._accounts.load)
        nkey = await to_thread.run_sync(new_key, secret_file, "secret_file")

        def put() -> None:
            with self._accounts.changed():
                self._accounts.put(Member(kind=kind, name=name, nkey=nkey))

        try:
            await to_thread.run_sync(put)
        except BaseException:
            disk.unlink(str(secret_file), dir_fd=None)
            raise
        await self._reload()
        url = self._url_for(secret_file)
        return Granted(
            name=name, kind=kind, account=nkey, url=url, files=[str(secret_file)],
            next_step="" if await self._is_known(url) else _NEXT.format(path=self._accounts.path),
        )  # fmt: skip

    async def revoke(self, name: str, *, kind: Kind) -> list[str]:
        """Take a host's or collector's rights away; what it has stored stays.

        Servers that read the accounts again end its connections.

        Raises:
            ConfigError: it has no rights.
        """

        def remove() -> bool:
            with self._accounts.changed():
                return self._accounts.remove(kind, name)

        await to_thread.run_sync(self._accounts.load)
        if not await to_thread.run_sync(remove):
            raise ConfigError("name", f"{kind} {name!a} has no rights that could be taken away")
        return [f"{kind} {name}: removed from {self._accounts.path}", *await self._after_change()]

    async def trim(self, *, keep_days: int, confirmed: ConfirmedSeq, dry_run: bool = False) -> list[Trimmed]:
        """Refuse: the servers drop what is older than the stream's `max_age`.

        Raises:
            ConfigError: always.
        """
        del keep_days, confirmed, dry_run
        raise ConfigError("engine", "NATS drops what is older than the stream's max_age; there is nothing to trim")

    async def aclose(self) -> None:
        """Nothing is kept open between the calls."""

    def _begin(self) -> list[str]:
        """Make the keys that are missing, and the accounts."""
        done = []
        keys = [("admin", self._key_file, "nkey")]
        if self._system_file is not None and not self._system_file.exists():
            # A system account that is there already is somebody else's to configure.
            keys.append(("system", self._system_file, "system"))
        with self._accounts.changed():
            for kind, path, field in keys:
                if path.exists():
                    nkey = public_key_in(path, field)
                else:
                    nkey = new_key(path, field)
                    done.append(f"key of the {kind}: {path}")
                self._accounts.put(Member(kind=kind, name=kind, nkey=nkey))  # type: ignore[arg-type]  # both are kinds
        done.append(f"accounts: {self._accounts.path}")
        done.append(
            f'next: accounts {{ include "{self._accounts.path.name}" }} in the configuration of each server, '
            "start or reload them, and again: audit-async engine init"
        )
        return done

    async def _put(self, servers: NatsServers, stream: Stream) -> list[str]:
        """Make a stream, or correct its settings."""
        there = await self._described(servers, stream.name)
        if there is None:
            answer = await servers.request(f"$JS.API.STREAM.CREATE.{stream.name}", json.encode(stream.config()))
            servers.check(answer)
            return [f"stream {stream.name}: made"]
        wrong = {
            name: setting.put
            for name, setting in stream.settings.items()
            if not setting.fits(there.config.get(name))
        }  # fmt: skip
        if not wrong:
            return [f"stream {stream.name}: as it has to be"]
        config = {name: value for name, value in (there.config | wrong).items() if value is not None}
        answer = await servers.request(f"$JS.API.STREAM.UPDATE.{stream.name}", json.encode(config))
        error = servers.error_in(answer)
        if error is not None:
            raise SinkRefused(
                f"{servers.shown}: stream {stream.name} can't be corrected ({', '.join(wrong)}): {error.description}; "
                "a stream that was made otherwise has to be made again"
            )
        return [f"stream {stream.name}: corrected {', '.join(wrong)}"]

    async def _described(self, servers: NatsServers, name: str) -> StreamDescription | None:
        answer = await servers.request(f"$JS.API.STREAM.INFO.{name}")
        error = servers.error_in(answer)
        if error is not None and error.err_code == _NO_STREAM:
            return None
        servers.check(answer)
        return json.decode(answer.data, type=StreamDescription)

    async def _check_accounts(self) -> CheckedSetting:
        as_written = await to_thread.run_sync(self._accounts.load)
        return CheckedSetting(
            name="accounts", verdict="ok" if as_written else "wrong",
            found="as written" if as_written else f"{self._accounts.path} was changed, or is of another release",
            wanted="as this release writes it", fix="" if as_written else "audit-async engine init",
        )  # fmt: skip

    async def _write_accounts(self, said: str) -> list[str]:
        def write() -> None:
            with self._accounts.changed():
                pass

        await to_thread.run_sync(write)
        return [said, *await self._after_change()]

    async def _after_change(self) -> list[str]:
        if await self._reload():
            return [f"servers: asked to read {self._accounts.path} again; if they are elsewhere, bring it there first"]
        return [_NEXT.format(path=self._accounts.path)]

    async def _reload(self) -> int:
        """Ask all servers to read their configuration again; return how many have."""
        if self._system_file is None or not self._system_file.exists():
            return 0
        reloaded = 0
        with contextlib.suppress(SinkUnavailable, SinkRefused):
            async with self._connected(self._system_file) as servers:
                for answer in await servers.ask_all("$SYS.REQ.SERVER.PING.VARZ"):
                    pong = json.decode(answer, type=_Pong)
                    await servers.request(f"$SYS.REQ.SERVER.{pong.server.id}.RELOAD")
                    reloaded += 1
        return reloaded

    async def _server_answers(self) -> list[ServerAnswer]:
        async with self._connected(self._system_file) as servers:
            answers = await servers.ask_all("$SYS.REQ.SERVER.PING.VARZ")
        try:
            return [json.decode(answer, type=ServerAnswer) for answer in answers]
        except DecodeError as error:
            raise SinkUnavailable(f"{servers.shown}: a server's answer can't be read: {error}") from None

    async def _is_known(self, url: str) -> bool:
        """Return whether each server lets a new key in."""
        url, _ = split_options(url, {"api"})
        places, _, options = url.removeprefix("nats://").partition("?")
        for place in places.split(","):
            servers = NatsServers(f"nats://{place}?{options}", timeout_s=self._timeout_s)
            try:
                await servers.max_payload()
            except (SinkRefused, SinkUnavailable):
                return False
            finally:
                await servers.aclose()
        return True

    def _url_for(self, secret_file: Path) -> str:
        options = [f"nkey={quote(str(secret_file))}"]
        if self._ca is not None:
            options.append(f"ca={quote(self._ca)}")
        return f"{self._url}?{'&'.join(options)}&api={API_PREFIX}"

    @contextlib.asynccontextmanager
    async def _connected(self, key_file: Path | None = None) -> AsyncIterator[NatsServers]:
        options = [f"nkey={quote(str(key_file or self._key_file))}"]
        if self._ca is not None:
            options.append(f"ca={quote(self._ca)}")
        servers = NatsServers(f"{self._url}?{'&'.join(options)}", timeout_s=self._timeout_s)
        try:
            yield servers
        finally:
            await servers.aclose()
