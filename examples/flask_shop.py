"""Flask: a shop whose requests are in the trail, and whose domain code is given neither logger nor user.

    gunicorn --worker-class gthread --threads 8 --workers 2 examples.flask_shop:app

Two lines adopt it: the configuration and `setup_audit`. The trail is below `AUDIT_DIR`, `./audit` if that is not set;
each worker process writes a log of its own, drained and closed at SIGTERM.
"""

import os
from typing import Any

from flask import Flask, Response, abort, g, request

from audit_async import ActorInfo, AuditConfig, Local, audited, current_actor, get_audit
from audit_async.events import ResourceInfo, ResourceRead
from audit_async.integrations.flask import Policy, Rule, setup_audit
from audit_async.integrations.health import readiness

app = Flask(__name__)
config = AuditConfig(mode=Local(os.environ.get("AUDIT_DIR", "./audit")), service_id="shop")
setup_audit(app, config, policy=Policy([Rule("/ready", level="none")]))

STOCK = {"apple": 3, "pear": 0}


@audited("shop.sold", failure="shop.sale_refused", arguments=("article", "number"))
def sell(article: str, number: int) -> int:
    """Take articles out of the stock; domain code, which knows nothing of requests."""
    if STOCK[article] < number:
        raise ValueError("out of stock")
    STOCK[article] -= number
    return STOCK[article]


@app.before_request
def log_in() -> None:
    """Let users in by their API key; `flask.g.user` is whom the records name."""
    keys = dict(pair.split(":", 1) for pair in os.environ.get("SHOP_KEYS", "").split(",") if pair)
    g.user = keys.get(request.headers.get("X-API-Key", ""))
    if g.user is None and request.path != "/ready":
        abort(401)  # recorded as auth.failure


@app.get("/articles/<article>")
def look(article: str) -> dict[str, Any]:
    """Say how many there are; who looked is recorded besides the request, in the same trail."""
    if article not in STOCK:
        abort(404)
    actor = current_actor() or ActorInfo(user_id="unknown")
    get_audit().emit(ResourceRead(actor=actor, resource=ResourceInfo(resource_type="article", resource_id=article)))
    return {"article": article, "number": STOCK[article]}


@app.post("/articles/<article>/sale")
def buy(article: str) -> tuple[dict[str, Any], int]:
    """Sell some."""
    try:
        return {"left": sell(article, int(request.args.get("number", "1")))}, 200
    except ValueError:
        return {"error": "out of stock"}, 409


@app.get("/ready")
def ready() -> Response:
    """Say to load balancers whether the log takes events, and they become durable."""
    is_ready, answer = readiness(get_audit())
    return Response(f'{{"audit":"{answer["status"]}"}}', 200 if is_ready else 503, content_type="application/json")
