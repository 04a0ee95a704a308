"""The house keeps its order: rooms, names, sizes, and what is public."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "audit_async"

#: The rooms from the bottom to the top; a room imports from its own row and from the rows before it.
ROWS = (
    ("_version", "_first_use", "_fork_lock", "errors"),
    ("status", "context", "events", "config"),
    ("_durable",),
    ("_redact",),
    ("_sanitize",),
    ("_chain",),
    ("_layout",),
    ("_store",),
    ("tlog",),
    ("privacy",),
    ("_trail",),
    ("_query",),
    ("standalone",),
    ("_verify",),
    ("_export",),
    ("_writer",),
    ("forwarding",),
    ("logger",),
    ("reader", "testing", "evidence", "sync", "ambient"),
    ("integrations", "delivery", "reports"),
    ("viewer",),
    ("cli",),
)

#: What users may import from. A submodule of a public package is an implementation detail of that package.
PUBLIC = (
    "audit_async",
    "audit_async.ambient",
    "audit_async.config",
    "audit_async.context",
    "audit_async.delivery",
    "audit_async.delivery.alerts",
    "audit_async.delivery.siem_formats",
    "audit_async.errors",
    "audit_async.events",
    "audit_async.evidence",
    "audit_async.forwarding",
    "audit_async.integrations.agent_tools",
    "audit_async.integrations.aiohttp",
    "audit_async.integrations.asgi",
    "audit_async.integrations.celery",
    "audit_async.integrations.command_line",
    "audit_async.integrations.django",
    "audit_async.integrations.fastapi",
    "audit_async.integrations.grpc",
    "audit_async.integrations.flask",
    "audit_async.integrations.health",
    "audit_async.integrations.litestar",
    "audit_async.integrations.logging",
    "audit_async.integrations.loguru",
    "audit_async.integrations.mcp",
    "audit_async.integrations.opentelemetry",
    "audit_async.integrations.prometheus",
    "audit_async.integrations.sqlalchemy",
    "audit_async.integrations.starlette",
    "audit_async.integrations.structlog",
    "audit_async.integrations.wsgi",
    "audit_async.logger",
    "audit_async.privacy",
    "audit_async.reader",
    "audit_async.reports",
    "audit_async.standalone",
    "audit_async.status",
    "audit_async.sync",
    "audit_async.testing",
    "audit_async.tlog",
    "audit_async.viewer",
)

MOST_ATTRIBUTES = 18
#: No state: the list of all settings, which are grouped already.
LISTS_OF_SETTINGS = frozenset({"config.audit_config.AuditConfig", "config.overrides.Overrides"})
MOST_LINES = 60


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield each module's name below the package, and its syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported_by(tree: ast.Module) -> Iterator[str]:
    """Yield each module or name of the package that this module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "audit_async":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("audit_async."):
            yield (node.module or "").removeprefix("audit_async.")
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("audit_async.") for a in node.names if a.name.startswith("audit_async."))


def test_imports_go_one_way() -> None:
    """No room imports from a room above it."""
    row_of = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
    wrong = []
    for name, tree in modules():
        room = name.partition(".")[0]
        if not room:
            continue  # the package itself offers what the rooms have
        for imported in imported_by(tree):
            other = imported.partition(".")[0]
            assert other in row_of, f"{name} imports {imported}, which is in no row"
            if row_of[other] > row_of[room]:
                wrong.append(f"{name} -> {imported}")
    assert wrong == []


def test_no_two_modules_share_a_name() -> None:
    """A module is found by its name alone, also among packages."""
    names = Counter(name.rpartition(".")[2] for name, _ in modules() if name and not name.endswith("__main__"))
    # Django looks for the commands of an application in its `management.commands`.
    assert [name for name, count in names.items() if count > 1] == ["commands"]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_lists_what_it_offers(name: str) -> None:
    """`__all__` is there, and each name in it exists."""
    module = import_module(name)
    offered = module.__all__
    assert len(set(offered)) == len(offered)
    for word in offered:
        assert getattr(module, word) is not None
    assert module.__doc__


def attributes_of(tree: ast.ClassDef) -> set[str]:
    """Return what instances of a class hold: fields, and what methods assign to `self`."""
    assigned = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    fields = {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return assigned | fields


def test_no_class_holds_everything() -> None:
    """A class with more attributes than this holds more than one state."""
    large = [
        f"{name}.{node.name}: {len(attributes_of(node))}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and f"{name}.{node.name}" not in LISTS_OF_SETTINGS
        if len(attributes_of(node)) > MOST_ATTRIBUTES
    ]
    assert large == []


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return a function's length in lines, signature included, docstring not counted."""
    doc = node.body[0] if ast.get_docstring(node) is not None else None
    length = (node.end_lineno or 0) - node.lineno + 1
    return length - ((doc.end_lineno or 0) - doc.lineno + 1) if doc is not None else length


def test_no_function_is_long() -> None:
    """A function reads on one screen."""
    long = [
        f"{name}.{node.name}: {lines_of(node)}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of(node) > MOST_LINES
    ]
    assert long == []


#: The words of the house's English, each with the bounds of its frequency in 10,000 words of docstrings and comments.
WORDS = {
    "if": (30, None),
    "where": (None, 40),
    "behind": (None, 5),
    "beside": (None, 5),
    "anew": (None, 5),
    "stand(?:s|ing)?": (None, 6),
    "(?:tell|tells|told)": (None, 5),
    "(?:nobody|whoever)": (None, 10),  # right if a person is meant
    "mend(?:s|ed|ing)?": (None, 5),
}


def prose() -> Iterator[str]:
    """Yield each docstring and each comment of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.string.lstrip("#: ")


def test_the_language_is_plain() -> None:
    """A condition is `if` and not `where`, a comparison needs no metaphor; the figures are printed (`pytest -rP`).

    A report more than a rule: the bounds are generous, and a sentence that needs a word keeps it.
    """
    text = " ".join(prose()).lower()
    words = len(re.findall(r"[a-z']+", text))
    found = {word: len(re.findall(rf"\b{word}\b", text)) * 10_000 / words for word in WORDS}
    report = ", ".join(f"{re.sub(r'[?:()]', '', word)} {count:.1f}" for word, count in found.items())
    print(f"{words:,} words; in 10,000 of them: {report}")  # noqa: T201 - the report
    outside = {
        word: round(found[word], 1)
        for word, (least, most) in WORDS.items()
        if (least is not None and found[word] < least) or (most is not None and found[word] > most)
    }
    assert outside == {}, report
