"""Errors: what holds for every class of them, wherever it is defined."""

from __future__ import annotations

import copy
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import pytest

import audit_async
from audit_async.errors import AuditError, LogCorrupted
from audit_async.forwarding import Head

for module in pkgutil.walk_packages(audit_async.__path__, "audit_async."):
    # Django's own modules can be imported only once a project is set up; ours define no errors there.
    if not module.name.endswith("__main__") and ".integrations.django." not in module.name:
        import_module(module.name)


def classes_below(cls: type[Exception]) -> Iterator[type[Exception]]:
    """Yield a class and all its subclasses that the package defines."""
    yield cls
    for subclass in cls.__subclasses__():
        if subclass.__module__.startswith("audit_async."):
            yield from classes_below(subclass)


def one_of(cls: type[Exception]) -> Exception:
    """Return an error of a class, with something for each argument of its constructor."""
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    if "__init__" not in {name for base in cls.__mro__ if base.__module__ != "builtins" for name in vars(base)}:
        return cls("the message")
    for name, parameter in inspect.signature(cls).parameters.items():
        annotation = str(parameter.annotation)
        value: Any = 7 if "int" in annotation else f"the {name}"
        if "Head" in annotation:
            value = Head(seq=7, hash="0" * 64)
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords[name] = value
        elif parameter.kind is not parameter.VAR_KEYWORD:
            arguments.append(value)
    return cls(*arguments, **keywords)


@pytest.mark.parametrize("cls", sorted(set(classes_below(AuditError)), key=repr), ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling_and_copying(cls: type[AuditError]) -> None:
    """Its class, message, arguments, attributes and notes."""
    error = one_of(cls)
    error.add_note("while testing")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301 - our own
        assert type(again) is cls
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def refuse(segment: str) -> None:
    """Raise in another process."""
    raise LogCorrupted(segment, 3, 41, "the hash is wrong")


def test_an_error_reaches_the_caller_of_a_process_pool() -> None:
    """The pool neither breaks nor hangs, and the error has its attributes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(LogCorrupted) as caught:
            pool.submit(refuse, "000000000000-2026-11-22.audit").result(timeout=60)
        assert (caught.value.line, caught.value.seq) == (3, 41)
        assert pool.submit(abs, -1).result(timeout=60) == 1
