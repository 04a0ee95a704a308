"""A viewer that is served on loopback from a thread, and Chromium, for tests and screenshots."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from starlette.requests import Request

from audit_async.tlog.policy import Policy
from audit_async.viewer.people import Person
from audit_async.viewer.request_limits import ViewLimits
from audit_async.viewer.token_sign_in import TokenSignIn
from audit_async.viewer.web_app import viewer
from tests.processes import PATIENCE_S

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


def missing() -> str:
    """Return what this machine lacks for these tests; empty if nothing."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)} (Debian: chromium, chromium-driver)" if lacking else ""


@contextmanager
def served(base_dir: Path, who: Person | TokenSignIn, policy: Policy | None = None) -> Iterator[str]:
    """Serve the viewer of a trail, to this person or to whoever signs in; the URL of its root."""

    def sign_in(_: Request) -> Person | None:
        return who if isinstance(who, Person) else None

    app = viewer(
        base_dir,
        sign_in=sign_in if isinstance(who, Person) else who,
        policy=policy,
        limits=ViewLimits(requests_per_s=1000),
    )
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        end = time.monotonic() + PATIENCE_S
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listening.close()


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Start Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(PATIENCE_S)
        driver.set_script_timeout(PATIENCE_S)
        yield driver
    finally:
        driver.quit()
