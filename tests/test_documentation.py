"""What the documentation shows is what runs, what it links to exists, and what it names is public.

Each Python block of README and `docs/` is executed as it is.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import loguru
import pytest
import structlog
from fastapi.testclient import TestClient

from audit_async import AuditConfig, AuditEvent, AuditLogger, Immediate, Local, events
from audit_async.events import GenericEvent, describe
from tests.cli.commands import run_all_on_terminal
from tests.test_house import PACKAGE, PUBLIC
from tests.trails import check_trail, read_events

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
PAGES = [PROJECT / "README.md", *sorted(DOCS.glob("*.md"))]
#: Every page that a reader meets.
ALL_PAGES = [
    *sorted(PROJECT.glob("*.md")),
    PROJECT / "bench" / "README.md",
    PROJECT / "examples" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
#: Describe the house, private rooms and all.
OF_THE_HOUSE = {DOCS / "architecture.md", DOCS / "design.md", DOCS / "releasing.md", PROJECT / "CONTRIBUTING.md"}
REPOSITORY = "https://github.com/audit-async/audit-async"


class Block(NamedTuple):
    """A Python block of a page."""

    page: str
    number: int
    code: str


BLOCKS = [
    Block(page.name, number, code)
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
]


def block_with(text: str) -> str:
    """Return the code of the documentation's only Python block that contains `text`."""
    (block,) = [block for block in BLOCKS if text in block.code]
    return block.code


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each block in a directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Take away what an example puts on the root logger and configures in structlog and loguru."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    orders = logging.getLogger("orders")
    orders.handlers.clear()
    for known in logging.Logger.manager.loggerDict.values():
        if isinstance(known, logging.Logger):
            known.disabled = False  # what dictConfig does to every logger that was there
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    loguru.logger.remove()


def execute(code: str, page: str) -> dict[str, object]:
    """Execute a block as a module of its own, and return its names."""
    namespace: dict[str, object] = {"__name__": "documentation"}
    exec(compile(code, page, "exec", dont_inherit=True), namespace)  # noqa: S102 - our own documentation
    return namespace


def run_block(text: str) -> dict[str, object]:
    """Execute the block that contains `text`, and return its names."""
    return execute(block_with(text), "documentation")


def event_types(directory: Path) -> list[str]:
    """Return the types of all records of a log, in order."""
    return [record["event"]["event_type"] for record in read_events(directory)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}-{block.number}")
def test_every_block_runs(block: Block, logging_as_before: None) -> None:
    """No block fails as it is, in a fresh directory, with warnings as errors; what is a test is run as one.

    Celery's tasks and signals are the whole process's, and would reach the applications of other tests: such a block
    has a process of its own.
    """
    if "\ndef test_" in block.code or "\nasync def test_" in block.code:
        Path("test_example.py").write_text(block.code)
        plugin = ["-p", "no:audit_async", "-p", "audit_async.integrations.pytest_plugin"]
        command = [sys.executable, "-m", "pytest", "-q", *plugin, "test_example.py"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stdout
    elif "from celery import" in block.code:
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", block.code], capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == 0, ended.stderr
    else:
        execute(block.code, block.page)


def test_the_first_example_records_an_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first lines of the README leave a durable, valid trail in ./audit."""
    run_block("print(position.seq, position.hash)")
    assert capsys.readouterr().out.startswith("1 ")
    log = tmp_path / "audit" / "orders" / "00"
    assert event_types(log) == ["audit.log_opened", "auth.failure", "audit.log_closed"]
    check_trail(log)


def test_the_fastapi_example_records_from_a_def_handler(tmp_path: Path) -> None:
    """README's service records the request and, from the thread pool, its own event, and closes the log at the end."""
    app = run_block("FastAPI(lifespan=audit_lifespan(AuditConfig(")["app"]
    with TestClient(app) as client:  # type: ignore[arg-type]  # what the block defines
        assert client.delete("/customers/c-1").status_code == 200
    log = tmp_path / "audit" / "orders" / "00"
    assert event_types(log) == ["audit.log_opened", "data.deleted", "http.request", "audit.log_closed"]
    check_trail(log)


def shape_of(text: str) -> str:
    """Return a text without what differs from run to run and by machine: times, days, hashes, sizes."""
    return re.sub(r"\b\d\d:\d\d:\d\d\b|\b\d{4}-\d\d-\d\d\b|\b[0-9a-f]{64}\b|\b[\d.]+ kB", "*", text)


def test_readme_shows_what_its_commands_print() -> None:
    """What README shows after the first commands is what a terminal of 80 columns gets, but for times and hashes."""
    run_block("print(position.seq, position.hash)")
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```console\n(\$ audit-async query .*?)```", readme, flags=re.DOTALL)
    steps = re.findall(r"^\$ audit-async (.*)\n((?:(?!\$ ).*\n)*)", shown, flags=re.MULTILINE)
    assert [command.split()[0] for command, _ in steps] == ["query", "verify"]
    for (_, output), (status, written) in zip(
        steps, run_all_on_terminal([command for command, _ in steps], columns=80), strict=True
    ):
        assert status == 0
        printed = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written.decode()).splitlines()
        assert shape_of("\n".join(line.rstrip() for line in printed)).strip() == shape_of(output).strip()


def test_the_example_of_an_event_of_ones_own(tmp_path: Path) -> None:
    """The classes of the README can be emitted, and the critical one is critical."""
    names = run_block("billing.invoice_paid")
    paid, forced, actor_info = names["InvoicePaid"], names["RefundForced"], names["ActorInfo"]
    assert isinstance(paid, type)
    assert isinstance(forced, type)
    assert issubclass(paid, AuditEvent)
    assert issubclass(forced, AuditEvent)
    assert (paid.critical, forced.critical) == (False, True)
    assert callable(actor_info)


def test_the_configurations_are_valid(tmp_path: Path) -> None:
    """Every preset of docs/configuration.md constructs, and makes a logger."""
    names = run_block('AuditConfig.preset("gdpr"')
    for name in ("gdpr", "soc2", "iso27001", "hipaa", "pci_dss", "throughput", "by_hand"):
        AuditLogger(names[name])  # type: ignore[arg-type]  # what the block defines
    assert not list(tmp_path.iterdir())


@pytest.mark.anyio
async def test_the_retention_example_leaves_a_valid_trail(tmp_path: Path) -> None:
    """Dry run, hold and retention run as docs/operations.md shows them, and all of it is recorded."""
    keep = run_block("apply_retention(dry_run=True)")["keep"]
    assert callable(keep)
    await keep(str(tmp_path / "audit"))
    log = tmp_path / "audit" / "orders" / "00"
    assert event_types(log) == ["audit.log_opened", "audit.hold_set", "audit.hold_lifted", "audit.log_closed"]
    check_trail(log)


def test_the_logging_example_records_what_is_chosen(tmp_path: Path, logging_as_before: None) -> None:
    """Of three log records the two that say so are in the trail."""
    run_block('log.warning("slow answer")')
    log = tmp_path / "audit" / "orders" / "00"
    assert event_types(log) == ["audit.log_opened", "auth.failure", "log.recorded", "audit.log_closed"]
    check_trail(log)


def test_the_other_logging_examples_configure(logging_as_before: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The dictConfig of the documentation makes a handler, and its chain for structlog passes the entry on."""
    run_block('"audit_async.integrations.logging.AuditHandler"')
    assert [type(handler).__name__ for handler in logging.getLogger().handlers].count("AuditHandler") == 1
    run_block("AuditProcessor(lambda: audit_of_the_moment)")
    assert '"event": "role_changed"' in capsys.readouterr().out


def test_the_table_of_defaults_is_true() -> None:
    """Each setting of README's table has the default that is stated there; docs/configuration.md has all of them."""
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| setting | default |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", table, flags=re.MULTILINE))
    assert {"flush_mode", "retention.delete_after_days", "privacy"} <= rows.keys()
    config = AuditConfig(mode=Local("./audit"), service_id="orders")
    names = {"MiB": 1 << 20, "KiB": 1 << 10, "Immediate": Immediate}
    for name, written in rows.items():
        setting: object = config
        for part in name.split("."):
            setting = getattr(setting, part)
        assert setting == eval(written, names), name  # noqa: S307 - our own table


def test_the_number_of_event_types_is_true() -> None:
    """The README counts what a service can emit: the built-in types without the log's own."""
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"(\d+)\s+event\s+types are built in", readme)
    built_in = {
        offered
        for name in events.__all__
        if isinstance(offered := getattr(events, name), type)
        and issubclass(offered, AuditEvent)
        and offered not in {AuditEvent, GenericEvent}
        and not describe(offered).tag.startswith("audit.")
    }
    assert int(written) == len(built_in)


# Links.


def prose_of(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """Return the fragments that lead to a page's headlines, as GitHub and the site make them."""
    anchors = set(re.findall(r"""\bid=["']([^"']+)""", page.read_text(encoding="utf-8")))
    for headline in re.findall(r"^#{1,6} +(.*?) *#*$", prose_of(page), flags=re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", headline).replace("`", "").lower()
        anchors.add(re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-"))
    return anchors


def links_of(page: Path) -> list[str]:
    """Return the targets of a page's links."""
    prose = prose_of(page)
    inline = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", prose)
    return [*inline, *re.findall(r"^\[[^]]+\]: *(\S+)", prose, flags=re.MULTILINE)]


def broken(link: str, page: Path) -> str | None:
    """Return what is wrong with a link of a page, None if nothing is; other sites are not asked."""
    address, _, fragment = link.partition("#")
    if address.startswith((f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/")):
        target = PROJECT / address.removeprefix(REPOSITORY).removeprefix("/blob/main/").removeprefix("/tree/main/")
    elif re.match(r"[a-z]+:", address):
        return None
    else:
        target = (page.parent / address).resolve() if address else page
        if page.is_relative_to(DOCS) and not target.is_relative_to(DOCS):
            return f"leads out of docs/, so not on the site: write {REPOSITORY}/blob/main/..."
    if not target.exists():
        return "there is no such file"
    if fragment and target.suffix == ".md" and fragment not in anchors_of(target):
        return f"there is no such headline in {target.name}"
    return None


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files and headlines that a page links to exist, and pages of the site link to nothing outside it by a path."""
    found = {link: reason for link in links_of(page) if (reason := broken(link, page))}
    assert found == {}


def test_links_are_seen_to_be_broken(tmp_path: Path) -> None:
    """The check above finds a file that is not there, a headline that is not there, and a way out of the site."""
    page = DOCS / "reading.md"
    assert broken("nowhere.md", page) == "there is no such file"
    assert broken("reading.md#no-such-headline", page) == "there is no such headline in reading.md"
    assert "leads out of docs/" in (broken("../README.md", page) or "")
    assert broken(f"{REPOSITORY}/blob/main/examples/no_such.py", page) == "there is no such file"
    assert broken("#what-stays-compatible", DOCS / "compatibility.md") is None


# The site.


def pages_in(entries: object) -> Iterator[str]:
    """Yield the pages of a navigation, depth first."""
    if isinstance(entries, str):
        yield entries
    elif isinstance(entries, dict):
        for entry in entries.values():
            yield from pages_in(entry)
    elif isinstance(entries, list):
        for entry in entries:
            yield from pages_in(entry)


def test_the_site_has_each_page_once() -> None:
    """Each page of `docs/` is in the navigation, and nothing else is."""
    site = tomllib.loads((PROJECT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    listed = list(pages_in(site["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_the_reference_has_each_public_module() -> None:
    """What tests/test_house.py calls public has a page of its own, a line in the overview, and nothing else has."""
    pages = {path.stem for path in (DOCS / "api").glob("*.md")} - {"index"}
    assert pages == set(PUBLIC)
    for name in PUBLIC:
        # Some of the calls of a logger are methods of a base class that is an implementation detail.
        options = "    options:\n      inherited_members: true\n" if name.endswith((".logger", ".sync")) else ""
        assert (DOCS / "api" / f"{name}.md").read_text(encoding="utf-8") == f"# `{name}`\n\n::: {name}\n{options}"
    overview = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[`([\w.]+)`\]\(\1\.md\) \|", overview, flags=re.MULTILINE)) == set(PUBLIC)


# The house.


def test_the_description_of_the_house_names_files_that_exist() -> None:
    """Each file and room that docs/architecture.md names is there, in the package or in the repository."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.])((?:[\w.]+/)+(?:\w+\.(?:py|md))?|\w+\.(?:py|md))(?![\w/])", text)
    lists = {
        "web_socket_relay.py": "integrations/asgi/",
        "incidents.py": "integrations/_http/",
    }  # after a neighbour's path
    missing = {
        name
        for name in named
        if not any((root / (lists.get(name, "") + name)).exists() for root in (PACKAGE, PACKAGE / "cli", PROJECT, DOCS))
        and name != "audit_async/"
    }
    assert missing - {"archive/"} == set()
    rooms = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("__")} - {
        "_version",
        "py",
    }
    assert {room for room in rooms if not re.search(rf"(?<!\w){room}(?:/|\.py)", text)} == set()


# What is private.


def private_names() -> list[str]:
    """Return the names of the private rooms."""
    return [path.name for path in PACKAGE.iterdir() if path.name.startswith("_") and not path.name.startswith("__")]


@pytest.mark.parametrize(
    "page", [page for page in ALL_PAGES if page not in OF_THE_HOUSE], ids=lambda page: str(page.relative_to(PROJECT))
)
def test_no_page_for_users_names_what_is_private(page: Path) -> None:
    """Neither `audit_async._x` nor a private room or file is named outside the two pages that describe the house."""
    text = page.read_text(encoding="utf-8")
    rooms = "|".join(re.escape(name.removesuffix(".py")) for name in private_names())
    assert re.findall(rf"audit_async[./]_\w+|(?<![\w.])(?:{rooms})(?:/|\.py|`)", text) == []


def test_no_example_imports_what_is_private() -> None:
    """An example is copied: it uses what stays compatible."""
    found = {}
    for path in sorted((PROJECT / "examples").glob("*.py")):
        modules = set(
            re.findall(r"^(?:from|import) (audit_async[\w.]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        )
        if wrong := modules - set(PUBLIC):
            found[path.name] = wrong
    assert found == {}
