"""Which models are recorded, and which of their fields.

A class counts with all its subclasses: a proxy, a child of multi-table inheritance, and every model that is made of an
abstract class. The nearest registration wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeVar

from django.apps import apps
from django.db import models

from audit_async.errors import ConfigError

__all__ = ["Registration", "audit_model", "register", "registration_of", "unregister"]

ModelT = TypeVar("ModelT", bound=type)
#: The label of our own entry in `INSTALLED_APPS`.
_APPLICATION: Final = "audit_async"

BeforeSource = Literal["loaded", "database"]


class Registration:
    """What is recorded of a model. Never changed."""

    def __init__(
        self, fields: Iterable[str] | None, exclude: Iterable[str], before: BeforeSource, *, keys: bool
    ) -> None:
        self.fields: Final = None if fields is None else frozenset(fields)
        self.exclude: Final = frozenset(exclude)
        self.before: Final = before
        self.keys: Final = keys
        self._tracked: dict[type, tuple[Any, ...]] = {}

    def __repr__(self) -> str:
        fields = "all" if self.fields is None else sorted(self.fields)
        return f"<Registration fields={fields} exclude={sorted(self.exclude)} before={self.before!r} keys={self.keys}>"

    def records(self, name: str) -> bool:
        """Return whether a field of this name is recorded."""
        return name not in self.exclude and (self.fields is None or name in self.fields)

    def tracked_fields(self, model: type[Any]) -> tuple[Any, ...]:
        """Return the columns of a model that are recorded, inherited ones too.

        Not the primary key, which names the resource, nor what the database makes of other columns.
        """
        found = self._tracked.get(model)
        if found is None:
            found = self._tracked[model] = tuple(
                field
                for field in model._meta.concrete_fields
                if not field.primary_key and not getattr(field, "generated", False) and self.records(field.name)
                if not (field.remote_field is not None and getattr(field.remote_field, "parent_link", False))
            )
        return found

    def check(self, model: type[Any]) -> list[str]:
        """Return the names that are no fields of the model."""
        known = {field.name for field in model._meta.get_fields()}
        return sorted((self.exclude | (self.fields or frozenset())) - known)


_registered: Final[dict[type, Registration]] = {}
#: By class, whatever was asked for: most are asked for at each load and each save.
_found: dict[type, Registration | None] = {}
#: What has to be done with a class as it is registered: wrap what Django calls.
on_registration: Final[list[Callable[[type[Any]], None]]] = []


def register(
    model: type[Any],
    *,
    fields: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    before: BeforeSource = "loaded",
    keys: bool = False,
) -> None:
    """Record every change of a model from now on, and of its subclasses.

    For models of other applications, in the `ready` of your own; or name them in the settings, `AUDIT_MODELS`. A model
    that is registered again has the later settings.

    Args:
        model: A model, also an abstract one, of your own or of another application.
        fields: The names of the fields whose values are recorded; None for all of them.
        exclude: The names of fields whose values are left out. Secrets are redacted by their names anyway.
        before: Where a value before a change is known from: `loaded`, what this process had read of the row, which
            costs no query; or `database`, which asks the database just before each save, with `FOR UPDATE` in a
            transaction: for rows that several processes change at once.
        keys: Ask the database for the primary keys of what `QuerySet.update` and a `QuerySet.delete` in one statement
            are about to change, and record them. Costs a query each; another process may change rows in between.

    Raises:
        ConfigError: `model` is no model, a setting has a wrong value, or the application is not in `INSTALLED_APPS`,
            without which nothing is seen.
    """
    if apps.app_configs and _APPLICATION not in apps.app_configs:
        raise ConfigError("INSTALLED_APPS", "add 'audit_async.integrations.django': without it no change is seen")
    given: object = model  # which is not what its annotation promises, if the caller made a mistake
    if not isinstance(given, type) or not issubclass(given, models.Model) or given is models.Model:
        raise ConfigError("model", f"register takes a model's class, not {model!r:.80}")
    for name, value in (("fields", fields), ("exclude", exclude)):
        if isinstance(value, str):
            raise ConfigError(name, f"is one text; write [{value!r}]")
    if before not in {"loaded", "database"}:
        raise ConfigError("before", f"give 'loaded' or 'database', not {before!r:.80}")
    _registered[model] = Registration(fields, exclude, before, keys=keys)
    _found.clear()
    for prepare in on_registration:
        prepare(model)


def audit_model(
    *,
    fields: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    before: BeforeSource = "loaded",
    keys: bool = False,
) -> Callable[[ModelT], ModelT]:
    """Return a decorator for a model's class that registers it: `@audit_model(exclude=["search_vector"])`.

    Args:
        fields: As for `register`.
        exclude: As for `register`.
        before: As for `register`.
        keys: As for `register`.

    Returns:
        The decorator, which returns the class as it is.

    Raises:
        ConfigError: As `register` does.
    """

    def decorate(model: ModelT) -> ModelT:
        register(model, fields=fields, exclude=exclude, before=before, keys=keys)
        return model

    return decorate


def unregister(model: type[Any]) -> None:
    """Record no change of a model any more; no-op if it is not registered.

    Args:
        model: The class that was registered.
    """
    _registered.pop(model, None)
    _found.clear()


def registered_models() -> dict[type[Any], Registration]:
    """Return what is registered, by class."""
    return dict(_registered)


def registration_of(model: type[Any]) -> Registration | None:
    """Return how a model is recorded, None if it is not."""
    try:
        return _found[model]
    except KeyError:
        found = next((_registered[base] for base in model.__mro__ if base in _registered), None)
        _found[model] = found
        return found
