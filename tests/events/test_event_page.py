"""The page of all events is what the classes say."""

from __future__ import annotations

from site_build.event_page import PAGE, page


def test_the_page_is_up_to_date() -> None:
    """`python -m site_build.event_page` makes it again."""
    assert PAGE.read_text(encoding="utf-8") == page()
