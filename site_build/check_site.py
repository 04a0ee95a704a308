"""Check a built site: `python -m site_build.check_site site`, the last step of `make docs`.

The generator reports links in Markdown that lead nowhere. It does not report a link that its own pages have, a
reference to an object that was not found, or a public name that has no place in the reference: these are found here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

PROJECT = Path(__file__).parents[1]


class Page(HTMLParser):
    """A page's anchors, and the addresses that it links to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids and links; a reference that could not be resolved is left as the tag `autoref`."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in {"href", "src"} and value:
                self.links.append(value)
            elif tag == "autoref" and name == "identifier":
                self.links.append(f"unresolved:{value}")


def pages_of(site: Path) -> dict[str, Page]:
    """Return the site's pages by their address, `/reading/`."""
    return {
        "/" + str(path.relative_to(site)).removesuffix("index.html"): Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if path.name != "404.html"  # served from any address, so its links are absolute
    }


def broken_links(site: Path, pages: dict[str, Page]) -> Iterator[str]:
    """Yield each link within the site that leads nowhere."""
    for address, page in pages.items():
        for link in page.links:
            if link.startswith("unresolved:"):
                yield f"{address}: nothing is called {link.removeprefix('unresolved:')}"
                continue
            target, fragment = urldefrag(urljoin(address, link))
            if ":" in target.partition("/")[0]:
                continue  # another site
            path = site / unquote(target).lstrip("/")
            if not path.exists():
                yield f"{address}: {link} leads nowhere"
            elif target in pages and fragment and unquote(fragment) not in pages[target].anchors:
                yield f"{address}: {link} names no place of that page"


def public_names(module: str) -> list[str]:
    """Return what a module's `__all__` lists, read without importing it."""
    path = PROJECT.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "__all__" for to in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def missing_names(pages: dict[str, Page]) -> Iterator[str]:
    """Yield each public name that its module's page does not have."""
    for source in sorted((PROJECT / "docs" / "api").glob("audit_async*.md")):
        module = source.stem
        anchors = pages[f"/api/{module}/"].anchors
        names = public_names(module)
        if not names:
            yield f"{module} lists nothing in __all__"
        shown = [name for name in names if not name.startswith("__")]
        yield from (f"{module}.{name} is not on its page" for name in shown if f"{module}.{name}" not in anchors)


def main(site: Path) -> int:
    """Print what is wrong; return 1 if anything is."""
    pages = pages_of(site)
    problems = [*broken_links(site, pages), *missing_names(pages)]
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    sys.stdout.write(f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links: ")
    sys.stdout.write(f"{len(problems)} problems\n" if problems else "all is well\n")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
