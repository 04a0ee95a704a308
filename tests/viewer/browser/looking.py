"""A browser that looks at one viewer, and notices what a page must not do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.remote.webelement import WebElement

from tests.processes import PATIENCE_S

#: In every document before its own scripts: what the policy forbids is kept, and so is what a dialog would say.
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation",
  (e) => window.violations.push(e.violatedDirective + " " + e.blockedURI));
window.alert = window.confirm = window.prompt = () => { window.hit = "dialog"; };
"""


class Looking:
    """Pages below one root, as a person sees them."""

    def __init__(self, driver: webdriver.Chrome, root: str) -> None:
        self.driver = driver
        self.root = root

    def open(self, path: str) -> None:
        """Load a page, and wait for what it loads afterwards."""
        self.driver.get(self.root + path)
        self.settle()

    def follow(self, act: Callable[[], object]) -> None:
        """Do what leads to another page, and wait until that has loaded all that it wants; this one has it already."""
        self.driver.execute_script("window.isLeft = true")
        act()
        self.wait("return window.isLeft === undefined")
        self.settle()

    def settle(self) -> None:
        """Wait until the page has loaded all that it wants."""
        self.wait("return document.readyState === 'complete' && document.querySelector('.htmx-request') === null"
                  " && document.querySelector('.side > p.dim') === null")  # fmt: skip

    def wait(self, script: str) -> Any:
        """Return what a script returns as soon as that is something."""
        end = time.monotonic() + PATIENCE_S
        while not (found := self.driver.execute_script(script)):
            assert time.monotonic() < end, f"{script}\n{self.text()[:500]}"
            time.sleep(0.03)
        return found

    def one(self, selector: str) -> WebElement:
        """Return the element."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements."""
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """Return what the elements say, in one call: each question to a browser takes some milliseconds."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText.trim())"
        return list(self.driver.execute_script(script, selector))

    def text(self) -> str:
        """Return what the page says."""
        return self.one("body").text

    @property
    def path(self) -> str:
        """The page's address below the root."""
        return self.driver.current_url.removeprefix(self.root)

    def resize(self, width: int, height: int = 900) -> None:
        """Make the window so large."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    @contextmanager
    def without_scripts(self) -> Iterator[None]:
        """Run no script of any page."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    def complaints(self) -> list[str]:
        """Return what the browser's console and the policy have to say of the pages since the last call."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium has no types for it
        said = [entry["message"] for entry in entries if entry["level"] in {"SEVERE", "WARNING"}]
        return said + list(self.driver.execute_script("return window.violations || []"))

    def barriers(self) -> list[str]:
        """Return what axe-core finds of serious or critical barriers for people with disabilities, by its rules."""
        self.driver.execute_script(_axe())
        found = self.driver.execute_async_script(
            "const done = arguments[0];"
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'best-practice']})"
            ".then((r) => done(r.violations), (e) => done([{impact: 'critical', id: String(e), nodes: []}]))"
        )
        return [
            f"{one['id']}: {node['target']} {node.get('failureSummary', '')}"
            for one in found
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"] or [{"target": ""}]
        ]


def watched(driver: webdriver.Chrome) -> webdriver.Chrome:
    """Watch every document that the browser will load."""
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH})
    return driver


@cache
def _axe() -> str:
    return (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


def quoted(text: str) -> str:
    """Return a text as part of an address."""
    return quote(text, safe="")
