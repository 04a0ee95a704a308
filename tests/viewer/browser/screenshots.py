"""Make the screenshots of the documentation: `python -m tests.viewer.browser.screenshots docs/assets`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver

from audit_async.viewer.people import Person
from tests.processes import PATIENCE_S
from tests.viewer.browser.served import chromium, served
from tests.viewer.browser.shown_trail import make_shown_trail

PAGES = {
    "viewer-records": "/records",
    "viewer-record": "/logs/accounts/00/records/3",
    "viewer-trail": "/trail?actor=mallory",
    "viewer-logs": "/logs",
    "viewer-log": "/logs/accounts/00",
    "viewer-holds": "/holds",
    "viewer-verification": "/verification",
    "viewer-live": "/records/live",
    "viewer-help": "/help",
}


def main(target: Path, only: list[str]) -> None:
    """Write a PNG of each page, in both schemes and for a phone, or of those that are named."""
    with tempfile.TemporaryDirectory() as place:
        base_dir = Path(place) / "audit"
        base_dir.mkdir()
        policy = make_shown_trail(base_dir)
        person = Person(name="dana", role="auditor")
        with served(base_dir, person, policy) as root, chromium(Path(place) / "profile") as driver:
            driver.get(f"{root}/verification")
            driver.find_element("css selector", "main form button").click()
            _wait(driver, "return document.querySelector('.verdict') !== null")
            for name, path in PAGES.items():
                for suffix, width, height, theme in (
                    ("", 1280, 800, "light"),
                    ("-dark", 1280, 800, "dark"),
                    ("-phone", 390, 844, "light"),
                ):
                    if only and f"{name}{suffix}" not in only:
                        continue
                    _resize(driver, width, height)
                    driver.get(root + path)
                    driver.execute_script(f"localStorage.setItem('audit-view.theme', '{theme}')")
                    driver.get(root + path)
                    _wait(driver, "return document.querySelector('.side > p.dim') === null")
                    driver.save_screenshot(str(target / f"{name}{suffix}.png"))


def _resize(driver: webdriver.Chrome, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def _wait(driver: webdriver.Chrome, script: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not driver.execute_script(script):
        assert time.monotonic() < end, script
        time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
