"""The page of alerts is what the packaged rules are."""

from __future__ import annotations

from site_build.alert_page import PAGE, page


def test_the_page_is_up_to_date() -> None:
    """`python -m site_build.alert_page` makes it again."""
    assert PAGE.read_text(encoding="utf-8") == page()
