"""The examples in docstrings of the public modules run, in a service that has a log open.

In such an example `...` is what a reader has: an event as an argument, a text as a keyword, nothing in a list.
"""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
import textwrap
import tomllib
from collections.abc import Awaitable, Iterator
from contextlib import aclosing
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, ClassVar, NamedTuple

import flask
import grpc.aio
import litestar
import loguru
import pytest
import structlog
import typer
from aiohttp import web
from celery import Celery
from fastapi import FastAPI
from litestar import Litestar
from mcp.server import MCPServer
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

import audit_async
from audit_async import AuditConfig, AuditLogger, Local, events, reader, tlog
from audit_async.sync import SyncAuditLogger
from examples.prove_record import ORIGIN, record_and_prove
from tests.logs import failure
from tests.test_house import PUBLIC


class Example(NamedTuple):
    """A block of code in a docstring."""

    name: str
    number: int
    code: str


def documented(module_name: str) -> Iterator[tuple[str, str]]:
    """Yield each public object of a module that has a docstring, methods as well, by its dotted name."""
    module = import_module(module_name)
    yield module_name, module.__doc__ or ""
    for name in getattr(module, "__all__", ()):  # tests/test_house.py asks for it
        offered = getattr(module, name)
        if not inspect.isclass(offered) and not inspect.isfunction(offered):
            continue
        yield f"{module_name}.{name}", offered.__doc__ or ""
        for member_name, member in vars(offered).items() if inspect.isclass(offered) else ():
            member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)  # noqa: PLW2901 - unwrapped
            if isinstance(member, FunctionType) and not member_name.startswith("_"):
                yield f"{module_name}.{name}.{member_name}", member.__doc__ or ""


def examples() -> Iterator[Example]:
    """Yield each indented or fenced block that comes after an empty line, once if several modules offer it."""
    seen = set()
    for module_name in PUBLIC:
        for name, docstring in documented(module_name):
            text = inspect.cleandoc(docstring)
            text = re.sub(
                r"```python\n(.*?)```", lambda block: re.sub("(?m)^", "    ", block[1]), text, flags=re.DOTALL
            )
            for number, block in enumerate(re.findall(r"(?:\A|\n\n)((?:    .*\n?|\n(?=    ))+)", text)):
                code = textwrap.dedent(block)
                if code not in seen:
                    seen.add(code)
                    yield Example(name, number, code)


class FillIn(ast.NodeTransformer):
    """Puts something in each place of `...`."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Pass an event, and a text by keyword."""
        self.generic_visit(node)
        node.args = [ast.Name("an_event", ast.Load()) if _is_open(argument) else argument for argument in node.args]
        for keyword in node.keywords:
            if _is_open(keyword.value):
                keyword.value = ast.Constant("a text")
        return node

    def visit_List(self, node: ast.List) -> ast.AST:
        """Leave it out."""
        self.generic_visit(node)
        node.elts = [element for element in node.elts if not _is_open(element)]
        return node


def _is_open(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


@pytest.fixture
def anyio_backend() -> str:
    """Run each example once; what differs between event loops is another test's subject."""
    return "asyncio"


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Take away the handlers that an example adds, and what it configures in structlog and loguru."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield
    root.handlers[:] = handlers
    structlog.reset_defaults()
    loguru.logger.remove()


def names_for(module_name: str, audit: AuditLogger) -> dict[str, Any]:
    """Return what a reader of that module's page has at hand."""
    module = import_module(module_name)
    offered = {
        name: getattr(home, name)
        for home in (events, reader, audit_async, module)
        for name in getattr(home, "__all__", ())
    }
    return offered | {
        "Annotated": Annotated,
        "Celery": Celery,
        "ClassVar": ClassVar,
        "FastAPI": FastAPI,
        "JSONRenderer": structlog.processors.JSONRenderer,
        "Litestar": Litestar,
        "MCPServer": MCPServer,
        "REGISTRY": CollectorRegistry(),
        "Request": litestar.Request if module_name.endswith("litestar") else Request,
        "InvoicePaid": lambda *_values, **_fields: failure(),
        "Response": Response,
        "Starlette": Starlette,
        "SyncAuditLogger": SyncAuditLogger,
        "add_log_level": structlog.processors.add_log_level,
        "aclosing": aclosing,
        "agent_of": lambda _: audit_async.ActorInfo(user_id="agent"),
        "an_event": failure(),
        "app": Starlette(),
        "application": lambda environ, start_response: [],
        "audit": audit,
        "decide": lambda _: "allowed",
        "grpc": grpc,
        "get_asgi_application": Starlette,  # Django's, which is not installed here
        "Flask": flask.Flask,
        "commands": typer.Typer(),
        "config": AuditConfig(mode=Local("./other"), service_id="orders", handle_signals=False),
        "logger": loguru.logger,
        "log": structlog.get_logger() if module_name.endswith("structlog") else logging.getLogger("orders"),
        "logging": logging,
        "merge_contextvars": structlog.contextvars.merge_contextvars,
        "post": litestar.post,
        "query": reader.AuditQuery(),
        "reader": reader.AuditReader("./audit"),
        "request": Request({"type": "http", "headers": [], "client": ("203.0.113.9", 50000)}),
        "structlog": structlog,
        "routes": [],
        "web": web,
    }


async def proven(directory: Path) -> dict[str, object]:
    """Return a record with its proof, and the key that checks it, as a reader of the tlog's page has them."""
    key = directory / "key.pem"
    tlog.write_key(key, tlog.new_key())
    line, proof = await record_and_prove(directory / "proven", key)
    return {
        "proof": proof,
        "record": json.loads(line),
        "record_hash": bytes.fromhex(json.loads(line)["hash"]),
        "vkey": str(tlog.load_signer(key, origin=ORIGIN).key),
    }


@pytest.mark.anyio
@pytest.mark.parametrize("example", list(examples()), ids=lambda example: f"{example.name}-{example.number}")
async def test_an_example_in_a_docstring_runs(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_restored: None
) -> None:
    """Python code runs with a log open; a configuration file is one that loads."""
    monkeypatch.chdir(tmp_path)
    try:
        tomllib.loads(example.code)
    except tomllib.TOMLDecodeError:
        module_name = max((name for name in PUBLIC if example.name.startswith(name)), key=len)
        tree = ast.fix_missing_locations(FillIn().visit(ast.parse(example.code)))
        code = compile(tree, f"<{example.name}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        config = AuditConfig(mode=Local("./audit"), service_id="orders", handle_signals=False)
        async with AuditLogger(config) as audit:
            names = names_for(module_name, audit) | {"__name__": "docstring"}
            if module_name == "audit_async.tlog":
                names |= await proven(tmp_path)
            ended = eval(code, names)  # noqa: S307 - our own docstrings
            if isinstance(ended, Awaitable):
                await ended
    else:
        Path("audit.toml").write_text(example.code, encoding="utf-8")
        assert AuditConfig.load("audit.toml").service_id == "orders"
