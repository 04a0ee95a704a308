"""Signing in and out: the only state that the viewer has of its own."""

from __future__ import annotations

import secrets
from html import escape
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from audit_async.events import ActorInfo, AuthFailure, AuthMethod, AuthSuccess
from audit_async.viewer.entrance import Entrance
from audit_async.viewer.oidc_sign_in import CALLBACK_PATH, OidcSignIn, SignInFailed
from audit_async.viewer.pages.rendering import render
from audit_async.viewer.people import SignedIn
from audit_async.viewer.request_checks import is_same_origin
from audit_async.viewer.request_limits import RateLimit
from audit_async.viewer.token_sign_in import TokenSignIn
from audit_async.viewer.view_log import ViewLog
from audit_async.viewer.viewing import form_of, link_to, root_of
from audit_async.viewer.web_sessions import COOKIE, drop_cookie, set_cookie

__all__ = ["SignInRoutes", "safe_next"]

_PATH: Final = "/sign-in"
_FLOW_COOKIE: Final = "audit_view_flow"


class SignInRoutes:
    """The routes of signing in and out."""

    def __init__(self, entrance: Entrance, view_log: ViewLog, attempts: RateLimit) -> None:
        self._entrance: Final = entrance
        self._view_log: Final = view_log
        self._attempts: Final = attempts

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(_PATH, self._show, methods=["GET"], name="sign_in"),
            Route(_PATH, self._sign_in, methods=["POST"], name="sign_in_form"),
            Route(f"{_PATH}/oidc", self._to_provider, methods=["GET"], name="sign_in_oidc"),
            Route(CALLBACK_PATH, self._from_provider, methods=["GET"], name="sign_in_callback"),
            Route("/sign-out", self._sign_out, methods=["POST"], name="sign_out"),
        ]

    async def _show(self, request: Request) -> Response:
        """Show the form; a link with a token, as the terminal shows it, signs in at once."""
        if token := request.query_params.get("token"):
            return await self._exchange(request, token, request.query_params.get("next", ""))
        if await self._entrance.person_of(request) is not None:
            return RedirectResponse(safe_next(request, request.query_params.get("next", "")), 303)
        return self._form(request, None, request.query_params.get("next", ""))

    def _form(self, request: Request, error: str | None, following: str, status: int = 200) -> Response:
        return render(
            request,
            "sign_in.html",
            status,
            error=error,
            methods=self._entrance.methods,
            next=following,
            csrf_token=self._entrance.csrf_token(request, None),
        )

    async def _sign_in(self, request: Request) -> Response:
        form = await form_of(request)
        if not is_same_origin(request, https=self._entrance.https):
            return self._form(request, "The form came from another site.", "", 403)
        return await self._exchange(request, form.get("token", ""), form.get("next", ""))

    async def _exchange(self, request: Request, token: str, following: str) -> Response:
        """Exchange a token for a session; the browser goes on to a URL without it."""
        sign_in = self._entrance.sign_in
        if not isinstance(sign_in, TokenSignIn):
            return self._form(request, "There is no sign-in by token here.", following, 403)
        if self._attempts.take(self._entrance.rate_key(request)):
            return self._form(request, "Too many attempts; wait a minute.", following, 429)
        who = sign_in.exchange(token.strip())
        if who is None:
            await self._record_failure(request, "wrong_token")
            error = "The token is not right, or was used already; the terminal shows the current one."
            return self._form(request, error, following, 403)
        response = RedirectResponse(safe_next(request, following), 303)
        return await self._begin(request, who, AuthMethod.BEARER_TOKEN, response)

    async def _begin(self, request: Request, who: SignedIn, method: AuthMethod, response: Response) -> Response:
        """Begin a session, after it is recorded."""
        actor = ActorInfo(user_id=who.name, ip=_address(request), auth_method=method)
        await self._view_log.record(AuthSuccess(actor=actor, method=method, path=_PATH))
        session = self._entrance.sessions.begin(who)
        set_cookie(response, request, COOKIE, session, secure=self._entrance.is_secure(request))
        return response

    async def _record_failure(self, request: Request, reason: str, name: str | None = None) -> None:
        await self._view_log.record(
            AuthFailure(attempted_user=name, reason=reason, ip=_address(request) or "unknown", path=_PATH)
        )

    # At a provider.

    async def _to_provider(self, request: Request) -> Response:
        """Send the browser to the provider, with a cookie by which it is known when it comes back."""
        sign_in, following = self._entrance.sign_in, request.query_params.get("next", "")
        if not isinstance(sign_in, OidcSignIn):
            return self._form(request, "There is no sign-in at a provider here.", following, 404)
        if self._attempts.take(self._entrance.rate_key(request)):
            return self._form(request, "Too many attempts; wait a minute.", following, 429)
        browser = secrets.token_urlsafe(32)
        try:
            location = await sign_in.begin(browser, safe_next(request, following))
        except SignInFailed as error:
            return self._form(request, str(error), following, 503)
        response = RedirectResponse(location, 303)
        # Not strict: the provider's page, another site, sends the browser back.
        secure = self._entrance.is_secure(request)
        set_cookie(response, request, _FLOW_COOKIE, browser, secure=secure, is_strict=False)
        return response

    async def _from_provider(self, request: Request) -> Response:
        """Take the browser back from the provider."""
        sign_in = self._entrance.sign_in
        if not isinstance(sign_in, OidcSignIn):
            return self._form(request, "There is no sign-in at a provider here.", "", 404)
        try:
            browser = request.cookies.get(_FLOW_COOKIE, "")
            who, following = await sign_in.finish(browser, dict(request.query_params))
        except SignInFailed as error:
            # Anybody can make one that fails, without the provider: so many are recorded, and no more.
            if self._attempts.take(self._entrance.rate_key(request)):
                return self._form(request, "Too many attempts; wait a minute.", "", 429)
            await self._record_failure(request, error.reason)
            return self._form(request, str(error), "", 403)
        if self._entrance.person_named(who) is None:
            await self._record_failure(request, "no_role", who.name)
            return self._form(request, "You have no role here; ask whoever keeps the roles of this viewer.", "", 403)
        response = await self._begin(request, who, AuthMethod.OIDC, _go_on_to(following))
        drop_cookie(response, request, _FLOW_COOKIE, secure=self._entrance.is_secure(request))
        return response

    # Out.

    async def _sign_out(self, request: Request) -> Response:
        person = await self._entrance.person_of(request)
        form = await form_of(request)
        is_own = self._entrance.is_csrf_token(request, person, form.get("csrf_token", ""))
        if not is_own or not is_same_origin(request, https=self._entrance.https):
            return self._form(request, "The form is out of date, or of another site.", "", 403)
        if not self._entrance.methods:  # the session is a proxy's or an application's, and goes on
            raise HTTPException(404, "Sign out where you have signed in.")
        self._entrance.sessions.end(request.cookies.get(COOKIE))
        response = RedirectResponse(link_to(root_of(request), _PATH), 303)
        drop_cookie(response, request, COOKIE, secure=self._entrance.is_secure(request))
        return response


def _go_on_to(location: str) -> Response:
    """Return a page that leads on by itself.

    A redirect would still be part of a navigation that another site began, and a strict cookie is not sent with that.
    """
    url = escape(location, quote=True)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Signed in</title>'
        f'<meta http-equiv="refresh" content="0;url={url}"><p>You are signed in. <a href="{url}">Go on</a></p></html>'
    )


def safe_next(request: Request, following: str) -> str:
    """Return where to go on after signing in: a path of this viewer, and nothing else."""
    root = root_of(request)
    is_path = following.startswith(f"{root}/") and not following.startswith("//") and "\\" not in following
    return following if is_path and following.isprintable() else link_to(root, "/")


def _address(request: Request) -> str | None:
    return request.client.host if request.client is not None else None
