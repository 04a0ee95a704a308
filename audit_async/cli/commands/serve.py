"""`audit-async serve`: the trail in the browser, for people who have no terminal."""

from __future__ import annotations

import getpass
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import anyio
import typer
import uvicorn

from audit_async.cli.arguments import Directory, IdentityFiles
from audit_async.cli.key_options import KeyOptions
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import load_config
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Output
from audit_async.cli.trusted import Trust
from audit_async.config import RetentionPolicy
from audit_async.reader import AuditReader, Identities, TrailUnreadable
from audit_async.viewer import EmbedLinks, OidcSignIn, Person, ProxySignIn, Roles, TokenSignIn, read_embed_key, viewer
from audit_async.viewer.request_checks import LOOPBACK_HOSTS
from audit_async.viewer.view_log import view_log_config

if TYPE_CHECKING:
    from audit_async.viewer.entrance import SignIn
    from audit_async.viewer.web_app import Viewer

__all__ = ["register"]

_END_WITHIN_S: Final = 5
_INDEX_EVERY_S: Final = 300
#: Connections at one time; a browser holds a few. More are answered with 503.
_MOST_CONNECTIONS: Final = 400


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "serve",
        epilog="Example: audit-async serve ./audit. Behind a proxy that signs people in: audit-async serve ./audit "
        "--proxy-header X-Forwarded-User --proxy 127.0.0.1 --roles roles.toml --public-url https://audit.example.org",
        short_help="Show the trail in a browser: search, records, proof; read-only, and every look is recorded.",
    )(serve)


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where the viewer is reached."""

    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on; others than loopback need TLS.")
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="PORT", help="The port; 0 takes a free one.")
    ] = 8484
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", readable=False, help="The certificate, in PEM.")
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", readable=False, help="Its private key, in PEM.")
    ] = None
    public_url: Annotated[
        str | None,
        typer.Option("--public-url", metavar="URL", help="The URL that browsers use, if a proxy is between."),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Serve this name of the host, too. May be repeated."),
    ] = None

    def require_valid(self, *, behind_proxy: bool) -> None:
        """Raise `typer.BadParameter` for what would carry records over a network in the clear."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise typer.BadParameter("--tls-cert and --tls-key belong together")
        if not self.is_loopback and self.tls_cert is None and not behind_proxy:
            raise typer.BadParameter(
                f"--host {self.host[:80]} is not this machine alone: records and cookies would cross the network in "
                "the clear. Give --tls-cert and --tls-key, or let a proxy do TLS and sign-in, and name it: "
                "--proxy-header and --proxy"
            )

    @property
    def is_loopback(self) -> bool:
        """True if nothing but this machine reaches it."""
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names that are served, besides that of the public URL."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return (*LOOPBACK_HOSTS, name, *(self.allow_host or ()))

    def listen(self) -> socket.socket:
        """Return a socket that listens; raises `Refused`."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=128)
        except OSError as error:
            raise Refused(f"{self.host}:{self.port} can't be listened on: {error.strerror}; choose a --port") from error

    def url(self, listening: socket.socket) -> str:
        """Return the URL of the first page."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls_cert is not None else ''}://{name}:{listening.getsockname()[1]}"


@dataclass(frozen=True, kw_only=True)
class SigningIn:
    """Who is let in."""

    as_name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Who signs in with the token that is shown; by default this user."),
    ] = None
    roles: Annotated[
        Path | None,
        typer.Option(
            "--roles",
            metavar="FILE",
            readable=False,
            help="Who has which role, in TOML; for --proxy-header and --oidc-issuer.",
        ),
    ] = None
    proxy_header: Annotated[
        str | None,
        typer.Option("--proxy-header", metavar="HEADER", help="The header in which a trusted proxy names the person."),
    ] = None
    proxy_groups_header: Annotated[
        str | None,
        typer.Option("--proxy-groups-header", metavar="HEADER", help="And the one with the person's groups."),
    ] = None
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--proxy", metavar="ADDRESS", help="The address or network of the proxy; no other's header counts."
        ),
    ] = None

    oidc_issuer: Annotated[
        str | None,
        typer.Option("--oidc-issuer", metavar="URL", help="The OpenID Connect provider at which people sign in."),
    ] = None
    oidc_client_id: Annotated[
        str | None,
        typer.Option(
            "--oidc-client-id",
            metavar="ID",
            help="What the viewer is called there; its redirect URI is PUBLIC_URL/sign-in/oidc/callback.",
        ),
    ] = None
    oidc_client_secret: Annotated[
        str | None,
        typer.Option(
            "--oidc-client-secret",
            metavar="SOURCE",
            help="Its secret, if it has one: a file, credential:NAME or env:VARIABLE.",
        ),
    ] = None
    oidc_name_claim: Annotated[
        str,
        typer.Option("--oidc-name-claim", metavar="CLAIM", help="The claim with the person's name, as --roles has it."),
    ] = "email"

    def require_valid(self, public_url: str | None) -> None:
        """Raise `typer.BadParameter` unless the options fit each other."""
        if self.proxy_header is None and (self.proxy or self.proxy_groups_header):
            raise typer.BadParameter("--proxy and --proxy-groups-header need --proxy-header")
        if self.oidc_issuer is None and (self.oidc_client_id or self.oidc_client_secret):
            raise typer.BadParameter("--oidc-client-id and --oidc-client-secret need --oidc-issuer")
        if self.proxy_header is None and self.oidc_issuer is None:
            if self.roles is not None:
                raise typer.BadParameter("--roles needs --proxy-header or --oidc-issuer: a token is one auditor's")
            return
        if self.proxy_header is not None and self.oidc_issuer is not None:
            raise typer.BadParameter("people sign in at a proxy or at a provider: --proxy-header or --oidc-issuer")
        if self.proxy_header is not None and not self.proxy:
            raise typer.BadParameter("--proxy-header needs --proxy: the header of anybody else must not count")
        if self.oidc_issuer is not None and (self.oidc_client_id is None or public_url is None):
            raise typer.BadParameter("--oidc-issuer needs --oidc-client-id and --public-url")
        if self.roles is None:
            raise typer.BadParameter("--proxy-header and --oidc-issuer need --roles: who may see what")
        if self.as_name is not None:
            raise typer.BadParameter("--as names who has the token, and there is none with another sign-in")

    def sign_in(self, show: Callable[[str], None], public_url: str | None) -> SignIn:
        """Return the way to sign in; raises `ConfigError`, `KeyUnavailable`."""
        if self.oidc_issuer is not None:
            from audit_async.tlog.signing_keys import read_secret  # noqa: PLC0415 - only if there is one

            secret = read_secret(self.oidc_client_secret).decode().strip() if self.oidc_client_secret else None
            return OidcSignIn(
                self.oidc_issuer,
                self.oidc_client_id or "",
                client_secret=secret,
                public_url=public_url or "",
                name_claim=self.oidc_name_claim,
            )
        if self.proxy_header is not None:
            return ProxySignIn(self.proxy_header, peers=self.proxy or (), groups_header=self.proxy_groups_header)
        name = self.as_name if self.as_name is not None else getpass.getuser()
        return TokenSignIn(Person(name=name, role="auditor"), show)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Which links show a tenant's records in a frame."""

    embed_key: Annotated[
        str | None,
        typer.Option(
            "--embed-key",
            metavar="SOURCE",
            help="The key of embed links, at least 32 random bytes: a file, credential:NAME or env:VARIABLE.",
        ),
    ] = None
    embed_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--embed-origin", metavar="ORIGIN", help="A site that may frame them, https://app.example.com. Repeatable."
        ),
    ] = None
    tenant_label: Annotated[
        str, typer.Option("--tenant-label", metavar="NAME", help="The name in a record's context that says the tenant.")
    ] = "tenant"

    def links(self) -> EmbedLinks | None:
        """Return which links are taken, None for none. Raises `typer.BadParameter`, `ConfigError`."""
        if (self.embed_key is None) != (not self.embed_origin):
            raise typer.BadParameter("--embed-key and --embed-origin belong together")
        return EmbedLinks(read_embed_key(self.embed_key), origins=self.embed_origin or ()) if self.embed_key else None


@dataclass(frozen=True, kw_only=True)
class Showing:
    """What is shown besides the records."""

    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            help="The services' configuration, whose retention policy says what is due.",
        ),
    ] = None
    index: Annotated[
        bool, typer.Option("--index", help="Index sealed segments at the start, and new ones every 5 minutes.")
    ] = False

    def retention(self) -> RetentionPolicy | None:
        """Return the services' policy, None if it is not known; raises as `load_config` does."""
        return load_config(self.config_file).retention if self.config_file is not None else None


@with_option_groups
def serve(
    directory: Directory,
    *,
    listening: Listening,
    signing_in: SigningIn,
    embedding: Embedding,
    access_log: Annotated[
        Path | None,
        typer.Option(
            "--access-log",
            metavar="DIR",
            readable=False,
            help="The base directory of the log audit-view, which records who has looked; the trail's own by default.",
        ),
    ] = None,
    showing: Showing,
    keys: KeyOptions,
    trust: Trust,
    identity: IdentityFiles = None,
) -> None:
    """Show the trail in a browser. There is no route that writes, and what is shown is recorded before it is shown.

    Without --proxy-header and --oidc-issuer the link that is printed signs one browser in, as auditor; it is good once,
    and the next one is printed when it was used. Ends at Ctrl-C or SIGTERM, after the answers that are under way.
    """
    output = Output(as_json=False)
    signing_in.require_valid(listening.public_url)
    listening.require_valid(behind_proxy=signing_in.proxy_header is not None)

    async def run() -> ExitStatus:
        reader = AuditReader(directory)
        if not await anyio.to_thread.run_sync(reader.logs):
            raise TrailUnreadable(f"{directory} holds no log")
        await anyio.to_thread.run_sync(view_log_config, directory, access_log)  # what is wrong with it is said now
        with listening.listen() as listener, keys.opened(directory) as key_store:
            show = partial(_show_link, output, listening.url(listener))
            app = viewer(
                directory,
                sign_in=signing_in.sign_in(show, listening.public_url),
                roles=Roles.from_file(signing_in.roles) if signing_in.roles is not None else None,
                embed=embedding.links(),
                access_log=access_log,
                hosts=listening.hosts,
                public_url=listening.public_url,
                tenant_label=embedding.tenant_label,
                key_store=key_store,
                identities=Identities.from_files(*identity) if identity else None,
                policy=trust.policy() if trust.is_given else None,
                retention=showing.retention(),
            )
            async with app:  # opens the log of who looks: what is wrong with it is said in a sentence
                output.message(f"audit-async: serving {directory} at {listening.url(listener)}", "dim")
                output.flush()
                async with _indexing(reader, wanted=showing.index):
                    await _serve(app, listener, listening)
        return ExitStatus.OK

    perform(output, run)


def _show_link(output: Output, url: str, token: str) -> None:
    output.whole(f"{url}/sign-in?token={token}")
    output.flush()


async def _serve(app: Viewer, listener: socket.socket, listening: Listening) -> None:
    """Serve until a signal ends it; answers that are under way are finished."""
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # what a proxy says is for `ProxySignIn`, which knows whom to believe
            server_header=False,
            ws="none",
            lifespan="on",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=_END_WITHIN_S,
            ssl_certfile=listening.tls_cert,
            ssl_keyfile=listening.tls_key,
        )
    )

    async def end_at_a_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                server.should_exit = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_at_a_signal)
        await server.serve(sockets=[listener])
        tasks.cancel_scope.cancel()


class _Server(uvicorn.Server):
    """Leaves signals to the command: uvicorn raises them again at its end, which would be the exit status."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _indexing(reader: AuditReader, *, wanted: bool) -> AsyncGenerator[None, None]:
    """Index sealed segments while the block runs, if that is wanted."""

    async def run() -> None:
        while True:
            async for _ in reader.build_index(processes=1):
                pass
            await anyio.sleep(_INDEX_EVERY_S)

    async with anyio.create_task_group() as tasks:
        if wanted:
            tasks.start_soon(run)
        yield
        tasks.cancel_scope.cancel()
