"""One browser, one trail and one server for all tests of the pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from audit_async.viewer.people import Person
from tests.cli.made_trails import make_trail
from tests.viewer.browser.hostile_texts import HOSTILE_TEXTS
from tests.viewer.browser.looking import Looking, watched
from tests.viewer.browser.served import chromium, missing, served
from tests.viewer.browser.shown_trail import make_shown_trail

AUDITOR = Person(name="dana", role="auditor")


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium, or a reason to skip."""
    if lacking := missing():
        pytest.skip(lacking)
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield watched(browser)


@pytest.fixture(scope="session")
def shown(driver: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Looking]]:
    """A trail with something for each page, and who looks at it: an auditor."""
    base_dir = tmp_path_factory.mktemp("shown") / "audit"
    base_dir.mkdir()
    policy = make_shown_trail(base_dir, number=260)
    with served(base_dir, AUDITOR, policy) as root:
        yield base_dir, Looking(driver, root)


@pytest.fixture
def looking(shown: tuple[Path, Looking]) -> Looking:
    """The browser at its usual width, and nothing in its console."""
    _, looking = shown
    looking.resize(1440)
    looking.complaints()
    return looking


@pytest.fixture
def base_dir(shown: tuple[Path, Looking]) -> Path:
    """Where the trail is."""
    return shown[0]


@pytest.fixture(scope="session")
def hostile(driver: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looking]:
    """A trail as another program might have written it: hostile texts are in all that a record and a path can hold."""
    base_dir = tmp_path_factory.mktemp("hostile") / HOSTILE_DIRECTORY
    base_dir.mkdir()
    make_trail(base_dir, [_event(at, text) for at, text in enumerate(HOSTILE_TEXTS)])
    with served(base_dir, AUDITOR) as root:
        looking = Looking(driver, root)
        looking.resize(1440)
        looking.complaints()
        yield looking


#: The directory of the trail may be called so; services and instances may not, and no such log is listed.
HOSTILE_DIRECTORY = '"><img src=x onerror=window.hit=1>\u202e&amp;'


def _event(at: int, text: str) -> bytes:
    everything = list(HOSTILE_TEXTS) if at == 0 else [text]
    event = {
        "event_type": f"x.{text}"[:200],
        "actor": {"user_id": text, "ip": text, "role": text, text: text},
        "resource": {"resource_type": text, "resource_id": text},
        "path": text,
        "outcome": text,
        "changes": {text: {"before": text, "after": everything}},
        "details": {text: [text, {text: text}], "all": everything},
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
