"""A small OpenID Connect provider on the loopback device: it signs in whoever asks, and checks what providers check."""

from __future__ import annotations

import hmac
import json
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

CLIENT = "audit-viewer"
SECRET = "s3cret/with:signs"


class Provider:
    """One provider; a test changes what it says."""

    def __init__(self) -> None:
        self.issuer = ""
        self.key = ECKey.generate_key("P-256", {"kid": "1", "use": "sig", "alg": "ES256"})
        self.claims: dict[str, Any] = {}  #: instead of what it would say
        self.discovery: dict[str, Any] = {}  #: instead of what it would say of itself
        self.sign_with = self.key
        self.signs_with_public_key = False
        self.codes: dict[str, dict[str, str]] = {}
        self.refused: list[str] = []

    def authorize(self, asked: dict[str, str]) -> str:
        """Sign the person in at once; return where the browser is sent."""
        code = f"code-{len(self.codes)}-{time.monotonic_ns()}"
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.issuer})}"

    def token(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """Return the tokens for a code, once, to the client alone, with the verifier of its challenge."""
        asked = self.codes.pop(form.get("code", ""), None)
        challenge = urlsafe_b64encode(sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=").decode()
        expected = "audit-viewer:s3cret%2Fwith%3Asigns"
        checks = {
            "code": asked is not None,
            "pkce": asked is not None
            and asked["code_challenge"] == challenge
            and asked["code_challenge_method"] == "S256",
            "redirect_uri": asked is not None and asked["redirect_uri"] == form.get("redirect_uri"),
            "client": b64decode(authorization.removeprefix("Basic ")).decode() == expected,
        }
        self.refused += [name for name, holds in checks.items() if not holds]
        if asked is None or not all(checks.values()):
            return None
        now = int(time.time())
        said = {
            "iss": self.issuer, "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 60, "nonce": asked["nonce"],
            "email": "olga@example.org", "email_verified": True, "groups": ["staff"],
        }  # fmt: skip
        claims = {name: value for name, value in (said | self.claims).items() if value is not None}
        if self.signs_with_public_key:
            signed = signed_with_secret(claims, self.key.as_pem(private=False))
        else:
            signed = jwt.encode({"alg": "ES256", "kid": "1"}, claims, self.sign_with, algorithms=["ES256"])
        return {"access_token": "a", "token_type": "Bearer", "id_token": signed}


@contextmanager
def running_provider() -> Iterator[Provider]:
    """Run a provider until the block ends."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/.well-known/openid-configuration":
                names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
                urls = {name: f"{provider.issuer}/{at}" for name, at in names.items()}
                self._json({"issuer": provider.issuer} | urls | provider.discovery)
            elif parts.path == "/keys":
                self._json({"keys": [provider.key.as_dict(private=False)]})
            else:
                self.send_response(302)
                self.send_header("Location", provider.authorize(dict(parse_qsl(parts.query))))
                self.send_header("Content-Length", "0")
                self.end_headers()

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"])).decode()
            answer = provider.token(dict(parse_qsl(content)), self.headers.get("Authorization", ""))
            self._json(answer if answer is not None else {"error": "invalid_grant"}, 200 if answer else 400)

        def _json(self, value: object, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.issuer = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)  # how often it looks whether to end
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()


def signed_with_secret(claims: dict[str, Any], secret: bytes) -> str:
    """Return a token as whoever takes a provider's public key for a secret makes it; joserfc refuses to."""
    parts = [
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256", "kid": "1"}, claims)
    ]
    mac = hmac.digest(secret, b".".join(parts), "sha256")
    return b".".join([*parts, urlsafe_b64encode(mac).rstrip(b"=")]).decode()
