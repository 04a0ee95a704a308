"""Signing in and out: the only state that the viewer has of its own."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from audit_async.events import ActorInfo, AuthFailure, AuthMethod, AuthSuccess
from audit_async.viewer.entrance import Entrance
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
        return await self.begin(request, who, AuthMethod.BEARER_TOKEN, safe_next(request, following))

    async def begin(self, request: Request, who: SignedIn, method: AuthMethod, location: str) -> Response:
        """Begin a session, after it is recorded."""
        actor = ActorInfo(user_id=who.name, ip=_address(request), auth_method=method)
        await self._view_log.record(AuthSuccess(actor=actor, method=method, path=_PATH))
        response = RedirectResponse(location, 303)
        set_cookie(
            response, request, COOKIE, self._entrance.sessions.begin(who), secure=self._entrance.is_secure(request)
        )
        return response

    async def _record_failure(self, request: Request, reason: str) -> None:
        await self._view_log.record(AuthFailure(reason=reason, ip=_address(request) or "unknown", path=_PATH))

    async def _sign_out(self, request: Request) -> Response:
        person = await self._entrance.person_of(request)
        form = await form_of(request)
        is_own = self._entrance.is_csrf_token(request, person, form.get("csrf_token", ""))
        if not is_own or not is_same_origin(request, https=self._entrance.https):
            return self._form(request, "The form is out of date, or of another site.", "", 403)
        self._entrance.sessions.end(request.cookies.get(COOKIE))
        response = RedirectResponse(link_to(root_of(request), _PATH), 303)
        drop_cookie(response, request, COOKIE, secure=self._entrance.is_secure(request))
        return response


def safe_next(request: Request, following: str) -> str:
    """Return where to go on after signing in: a path of this viewer, and nothing else."""
    root = root_of(request)
    is_path = following.startswith(f"{root}/") and not following.startswith("//") and "\\" not in following
    return following if is_path and following.isprintable() else link_to(root, "/")


def _address(request: Request) -> str | None:
    return request.client.host if request.client is not None else None
