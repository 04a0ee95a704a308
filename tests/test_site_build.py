"""The check of the built site finds what the site's generator lets pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from site_build.check_site import broken_links, missing_names, pages_of, public_names
from tests.test_house import PUBLIC


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    """Pages, places within a page, and references to objects; other sites are not asked."""
    (tmp_path / "guide").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="guide/">1</a><a href="guide/#there">2</a><a href="https://example.com/">3</a><p id="top"></p>'
        '<a href="#top">4</a><a href="gone/">5</a><a href="guide/#gone">6</a>'
        '<autoref identifier="audit_async.Gone">7</autoref><img src="gone.svg">'
    )
    (tmp_path / "guide" / "index.html").write_text('<h2 id="there">x</h2><a href="..">up</a><a href="../#gone">8</a>')
    assert list(broken_links(tmp_path, pages_of(tmp_path))) == [
        "/guide/: ../#gone names no place of that page",
        "/: gone/ leads nowhere",
        "/: guide/#gone names no place of that page",
        "/: nothing is called audit_async.Gone",
        "/: gone.svg leads nowhere",
    ]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_read_from_the_source(module: str) -> None:
    """Each public module writes out what it offers, so that it can be read without importing it."""
    assert public_names(module)


def test_a_public_name_without_a_place_is_found(tmp_path: Path) -> None:
    """The page of a module has to have each name of its `__all__`."""
    for module in PUBLIC:
        (tmp_path / "api" / module).mkdir(parents=True)
        places = "".join(f'<h2 id="{module}.{name}"></h2>' for name in public_names(module))
        (tmp_path / "api" / module / "index.html").write_text(places.replace(' id="audit_async.errors.BufferFull"', ""))
    assert list(missing_names(pages_of(tmp_path))) == ["audit_async.errors.BufferFull is not on its page"]
