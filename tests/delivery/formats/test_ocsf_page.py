"""The page of OCSF is what the code does."""

from __future__ import annotations

from site_build.ocsf_page import PAGE, page


def test_the_page_is_up_to_date() -> None:
    """`python -m site_build.ocsf_page` makes it again."""
    assert PAGE.read_text(encoding="utf-8") == page()
