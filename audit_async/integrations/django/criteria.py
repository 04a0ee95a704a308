"""What a queryset selects, as text that people can read: `status = :status AND owner__age > :owner__age`.

Values are given apart from the text, by the names of their fields, so that those of secret fields are redacted.
"""

from __future__ import annotations

import re
from typing import Any, Final

from django.db.models.expressions import Col
from django.db.models.lookups import Lookup, Transform
from django.db.models.sql.where import NothingNode, WhereNode

from audit_async.integrations.django.field_values import plain_value

__all__ = ["Criteria", "criteria_of"]

_OPERATORS: Final = {"exact": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_PLACEHOLDER: Final = re.compile(r"%s|%%")
_NOT_A_NAME: Final = re.compile(r"\W+")


class Criteria:
    """The text of a condition, and the values in it."""

    def __init__(self) -> None:
        self.text: str | None = None  #: None if all rows are meant
        self.parameters: dict[str, Any] = {}

    def placeholder(self, name: str, value: object) -> str:
        """Keep a value under a name that is not taken; return how the text refers to it."""
        name = _NOT_A_NAME.sub("_", name).strip("_") or "value"
        chosen, number = name, 1
        while chosen in self.parameters:
            number += 1
            chosen = f"{name}_{number}"  # a number at the end does not hide a secret's name from the redactor
        self.parameters[chosen] = plain_value(value)
        return f":{chosen}"


def criteria_of(query: Any, using: str) -> Criteria:
    """Return what the WHERE of a query says.

    Args:
        query: The query of a queryset.
        using: The alias of the database.
    """
    criteria = Criteria()
    if query.where:
        criteria.text = _Reading(criteria, query, using).node(query.where)
    return criteria


class _Reading:
    """One query's condition, as it is made into text."""

    def __init__(self, criteria: Criteria, query: Any, using: str) -> None:
        self._criteria = criteria
        self._query = query
        self._using = using

    def node(self, node: Any) -> str:
        """Return a part of the condition as text."""
        if isinstance(node, WhereNode):
            parts = [self.node(child) for child in node.children]
            text = f" {node.connector} ".join(
                f"({part})" if isinstance(child, WhereNode) and len(child.children) > 1 and not child.negated else part
                for child, part in zip(node.children, parts, strict=True)
            )
            return f"NOT ({text})" if node.negated else text
        if isinstance(node, NothingNode):
            return "nothing"
        if isinstance(node, Lookup):
            name = self._name_of(node.lhs)
            if name is not None and not _has_sql(node.rhs):
                return self._lookup(node, name)
        return self._sql(node)

    def _lookup(self, node: Any, name: str) -> str:
        if node.lookup_name == "isnull":
            return f"{name} IS NULL" if node.rhs else f"{name} IS NOT NULL"
        operator = _OPERATORS.get(node.lookup_name, node.lookup_name.upper())
        return f"{name} {operator} {self._criteria.placeholder(name, node.rhs)}"

    def _name_of(self, side: Any) -> str | None:
        """Return the path of a column as a filter spells it, `customer__country`; None of anything else."""
        if isinstance(side, Transform) and side.lookup_name is not None and len(side.get_source_expressions()) == 1:
            inner = self._name_of(side.lhs)
            return None if inner is None else f"{inner}__{side.lookup_name}"
        if not isinstance(side, Col):
            return None
        path = [side.target.name]
        alias = side.alias
        while (join := self._query.alias_map.get(alias)) is not None and getattr(join, "parent_alias", None):
            path.append(join.join_field.name)
            alias = join.parent_alias
        return "__".join(reversed(path))

    def _sql(self, node: Any) -> str:
        """Return what Django makes of it: a subquery, an expression. Its values have no field's name."""
        compiler = self._query.get_compiler(self._using)
        sql, values = compiler.compile(node)
        waiting = iter(values)
        return _PLACEHOLDER.sub(
            lambda found: "%" if found[0] == "%%" else self._criteria.placeholder("value", next(waiting)), sql
        )


def _has_sql(value: object) -> bool:
    if isinstance(value, list | tuple | set):
        return any(_has_sql(each) for each in value)
    return hasattr(value, "resolve_expression") or hasattr(value, "as_sql")
