"""What the package offers by its own name, and what its source distribution holds."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePath
from typing import Any

import pytest

import audit_async
from audit_async import privacy, tlog
from releasing.contents import (
    package_files,
    sdist_problems,
    tracked_files,
    untracked_files,
    wheel_problems,
    wheel_version,
)
from tests.test_house import PUBLIC

PROJECT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", [audit_async, privacy, tlog])
def test_every_name_that_is_offered_is_there(package: Any) -> None:
    """`from ... import *` gives all of `__all__`, and nothing is offered that `__all__` does not name."""
    offered: dict[str, object] = {}
    exec(f"from {package.__name__} import *", offered)  # noqa: S102 - a star is not allowed in a function
    assert offered.keys() - {"__builtins__"} == set(package.__all__)
    imported_later = [name for names in package._HOMES.values() for name in names]
    assert sorted(imported_later) == sorted(set(package.__all__) - {"__version__"})
    assert set(package.__all__) <= set(dir(package))


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    """A mistyped name raises what any other module raises."""
    with pytest.raises(AttributeError, match="module 'audit_async' has no attribute 'AuditLoger'"):
        audit_async.AuditLoger  # type: ignore[attr-defined]  # noqa: B018 - that is the point


def test_the_package_alone_imports_nothing_of_its_rooms() -> None:
    """A process that verifies pays for what verifying needs, not for the writing half."""
    program = "import sys, audit_async._chain; print([name for name in sys.modules if name.startswith('audit_async')])"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    assert "audit_async._chain" in loaded
    assert "audit_async.logger" not in loaded


def test_a_module_whose_extra_is_missing_says_what_to_install() -> None:
    """With nothing but the core's dependencies each public module imports, or names what it misses and the command."""
    program = (
        "import sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "class OnlyTheCore(MetaPathFinder):\n"
        "    core = {*sys.stdlib_module_names, 'audit_async', 'releasing', 'anyio', 'msgspec', 'aiofiles', 'uvloop',\n"
        "            'backports', 'sniffio', 'idna', 'typing_extensions'}\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.partition('.')[0]\n"
        "        if top not in self.core:\n"
        "            raise ModuleNotFoundError(f'No module named {top!r}', name=name)\n"
        "sys.meta_path.insert(0, OnlyTheCore())\n"
        "from releasing.smoke import check_modules\n"
        "print(*check_modules(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, *PUBLIC]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    missing = {name.rpartition(".")[2] for name in done.stdout.split()}
    assert missing >= {"aiohttp", "celery", "django", "sqlalchemy", "starlette", "viewer", "privacy", "tlog"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and the sdist from the tree, once; return the directory that holds both."""
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(directory)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True, timeout=120)
    return directory


def test_the_source_distribution_is_the_whole_tree(built: Path) -> None:
    """What is under version control is in the sdist, so it passes its own tests; nothing else is."""
    if not (PROJECT / ".git").exists():
        pytest.skip("not a checkout: this is the source distribution itself")
    (sdist,) = built.glob("*.tar.gz")
    assert list(sdist_problems(sdist, tracked_files(), untracked_files())) == []


def test_the_wheel_is_the_whole_package(built: Path) -> None:
    """Modules, `py.typed` and each file that modules read are in the wheel as in the tree; nothing else is."""
    (wheel,) = built.glob("*.whl")
    expected = package_files()
    assert {PurePath(name).suffix for name in expected} >= {".py", ".typed", ".toml", ".sql", ".html", ".css", ".js"}
    assert list(wheel_problems(wheel, expected)) == []
    assert wheel_version(wheel) == audit_async.__version__


#: Each module that reads a file of the package, and an expression that reads all that it ever reads.
READERS = {
    "audit_async.delivery.alerts.alert_rules": "module.starter_rules()",
    "audit_async.forwarding.postgres_schema": "module.schema_sql(module.names_of('acme'))",
    "audit_async.reports.framework": "[module.load_framework(name) for name in module.framework_names()]",
    "audit_async.reports.report_page": "(module.files('audit_async.reports') / 'report_page.css').read_text()",
    "audit_async.viewer.pages.rendering": "[module._ENVIRONMENT.get_template(name) for name in "
    "module._ENVIRONMENT.list_templates()] and sorted(module.STATIC_DIRECTORY.iterdir())",
}


def test_the_files_that_modules_read_are_found_in_an_installed_package(built: Path, tmp_path: Path) -> None:
    """Frameworks, rules, SQL, templates and styles are read from the unpacked wheel, with the tree out of reach."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "import importlib, json, sys; sys.path.insert(0, sys.argv[1])\n"
        "for name, reads in json.loads(sys.argv[2]).items():\n"
        "    module = importlib.import_module(name)\n"
        "    assert module.__file__.startswith(sys.argv[1]), module.__file__\n"
        "    assert eval(reads), name\n"
    )
    command = [sys.executable, "-I", "-c", program, str(tmp_path), json.dumps(READERS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_each_module_that_reads_a_file_of_the_package_is_tried() -> None:
    """A new reader of `importlib.resources` or of `__file__` is added to `READERS`."""
    found = set()
    for path in sorted((PROJECT / "audit_async").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        resources = any(isinstance(node, ast.ImportFrom) and node.module == "importlib.resources" for node in nodes)
        if resources or any(isinstance(node, ast.Name) and node.id == "__file__" for node in nodes):
            found.add(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    assert found == READERS.keys()


@pytest.mark.parametrize("name", ["audit_async/py.typed", "audit_async/forwarding/postgres_schema.sql"])
def test_a_wheel_without_one_of_its_files_is_found(built: Path, tmp_path: Path, name: str) -> None:
    """A file that is missing, one that differs, and one that is not of the package are each named."""
    (wheel,) = built.glob("*.whl")
    damaged = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(damaged, "w") as target:
        for kept in source.namelist():
            if kept != name:
                target.writestr(kept, source.read(kept) + b"#" * kept.endswith("/_version.py"))
        target.writestr("tests/__init__.py", "")
    assert list(wheel_problems(damaged, package_files())) == [
        f"{wheel.name}: {name} is missing",
        f"{wheel.name}: tests/__init__.py is not of the package",
        f"{wheel.name}: audit_async/_version.py differs from the tree",
    ]


def test_metadata_points_at_the_project() -> None:
    """Each address that PyPI shows is one of the project's, and each extra that an extra names exists."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= project["urls"].keys()
    assert all("/audit-async/" in f"{url}/" for url in project["urls"].values())
    extras = project["optional-dependencies"]
    for requirements in extras.values():
        for requirement in requirements:
            if requirement.startswith("audit-async["):
                named = requirement.removeprefix("audit-async[").partition("]")[0].split(",")
                assert set(named) <= extras.keys(), requirement


def test_one_version_of_each_linter() -> None:
    """Pre-commit runs the tools of the environment of `make test`, and so no second version of them."""
    hooks = (PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    for tool in ("ruff", "mypy"):
        assert f"entry: .venv/bin/{tool}" in hooks
    assert "ruff-pre-commit" not in hooks
