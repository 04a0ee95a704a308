"""INSERT, UPDATE and DELETE that the unit of work does not know of: which rows, how many, and what was set.

What is recorded is the statement, not its effect on each row, of which nothing was loaded: its criteria as text with
names in place of values, the values by those names, and the number of rows if the driver says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BinaryExpression,
    BindParameter,
    Column,
    Connection,
    CursorResult,
    Delete,
    Insert,
    Table,
    Update,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.expression import ClauseElement
from sqlalchemy.sql.visitors import iterate

from audit_async._redact.redactor import Redactor
from audit_async.events.resources import Operation
from audit_async.integrations.sqlalchemy.flush_changes import plain_value

__all__ = ["BulkStatement", "Dml", "StatementPlan", "selected_keys", "statement_table"]

#: A statement that changes rows.
Dml = Insert | Update | Delete

#: Keys, and elements of one parameter, that are recorded of one statement at most.
_MOST_KEYS: Final = 1000
_OPERATIONS: Final[tuple[tuple[type, Operation], ...]] = (
    (Insert, "create"), (Update, "update"), (Delete, "delete")
)  # fmt: skip
#: How SQLAlchemy writes a parameter of IN.
_EXPANDED: Final = re.compile(r"\(__\[POSTCOMPILE_(\w+)\]\)")

#: The parameters of an executed statement: one mapping, or one for each row.
Parameters = Mapping[str, Any]


class StatementPlan(NamedTuple):
    """What is recorded of statements on one table."""

    resource_type: str
    columns: Mapping[str, str]  #: the names of the attributes that are recorded, by the column's key
    excluded: frozenset[str]  #: the keys of the columns that are not
    primary_key: tuple[str, ...]  #: the keys of its columns


class BulkStatement(NamedTuple):
    """What one statement did; the members of `BulkChanged`."""

    resource_type: str
    operation: Operation
    criteria: str | None
    parameters: Mapping[str, Any] | None
    values: Mapping[str, Any] | None
    rows: int | None
    resource_ids: list[str] | None

    @classmethod
    def of(
        cls,
        statement: Dml,
        plan: StatementPlan,
        sent: Sequence[Parameters],
        result: CursorResult[Any],
        connection: Connection,
        *,
        selected: list[str] | None,
    ) -> BulkStatement:
        """Return what an executed statement did.

        Args:
            statement: The statement.
            plan: What is recorded of its table.
            sent: The parameters that it was executed with, one mapping for each execution.
            result: Its result, which is not read.
            connection: Where it was executed.
            selected: The keys of the rows that its criteria selected just before, if somebody has asked for them.
        """
        operation = next(operation for kind, operation in _OPERATIONS if isinstance(statement, kind))
        criteria, parameters = _criteria(statement, plan, sent)
        rows = _rows(statement, sent, result, connection)
        if selected is None or len(selected) != rows:  # others have come or gone meanwhile
            selected = _keys(statement, plan, sent, result)
        return cls(
            resource_type=plan.resource_type,
            operation=operation,
            criteria=criteria,
            parameters=parameters or None,
            values=None if operation == "delete" else _values(statement, plan, sent, result) or None,
            rows=rows,
            resource_ids=selected or None,
        )

    def redacted(self, redactor: Redactor) -> BulkStatement:
        """Return it without the secrets that are written out in its criteria."""
        return self if self.criteria is None else self._replace(criteria=redactor.redact_text(self.criteria))


def statement_table(statement: object) -> Table | None:
    """Return the table that a statement changes; None if it changes none, or is no statement of SQLAlchemy's."""
    if isinstance(statement, Dml):
        return statement.table if isinstance(statement.table, Table) else _first_table(statement.table)
    return None


def selected_keys(
    connection: Connection, statement: Dml, plan: StatementPlan, sent: Sequence[Parameters]
) -> list[str] | None:
    """Return the primary keys of the rows that a statement is about to change, which are locked for it.

    None if there are more of them than are recorded, if they are new, or if each execution has criteria of its own.
    """
    table = statement_table(statement)
    if table is None or isinstance(statement, Insert) or len(sent) > 1:
        return None
    query = select(*(table.c[key] for key in plan.primary_key)).limit(_MOST_KEYS + 1).with_for_update()
    if statement.whereclause is not None:
        query = query.where(statement.whereclause)
    found = connection.execute(query, sent[0] if sent else {}).all()
    return None if len(found) > _MOST_KEYS else [",".join(map(str, row)) for row in found]


def _first_table(selectable: object) -> Table | None:
    """Return the table of a statement on a joined mapping, or on an alias."""
    for name in ("left", "element"):
        inner = getattr(selectable, name, None)
        if inner is not None:
            return inner if isinstance(inner, Table) else _first_table(inner)
    return None


def _criteria(statement: Dml, plan: StatementPlan, sent: Sequence[Parameters]) -> tuple[str | None, dict[str, Any]]:
    where = None if isinstance(statement, Insert) else statement.whereclause
    if where is None:
        return None, {}
    try:
        compiled = where.compile()
        text, found = str(compiled), compiled.params
        left_out = {
            compiled.bind_names[bind] for bind in _compared_with(where, plan.excluded) if bind in compiled.bind_names
        }
    except SQLAlchemyError:  # a construct of one dialect only
        return f"<criteria that have no text: {type(where).__name__}>", {}
    if len(sent) == 1:
        found = {**found, **{name: value for name, value in sent[0].items() if name in found}}
    elif sent:
        found = {name: value for name, value in found.items() if name not in sent[0]}
    shown = {name: _bounded(value) for name, value in found.items() if name not in left_out}
    return _EXPANDED.sub(r":\1", text), shown


def _compared_with(where: ClauseElement, excluded: frozenset[str]) -> Iterator[BindParameter[Any]]:
    """Yield the parameters that excluded columns are compared with."""
    if not excluded:
        return
    for part in iterate(where):
        inner = list(iterate(part)) if isinstance(part, BinaryExpression) else []
        if any(isinstance(one, Column) and one.key in excluded for one in inner):
            yield from (one for one in inner if isinstance(one, BindParameter))


def _values(
    statement: Dml, plan: StatementPlan, sent: Sequence[Parameters], result: CursorResult[Any]
) -> dict[str, Any]:
    """Return what one row, or every row, was set to; nothing if each row was set to something else."""
    context = result.context
    if len(sent) > 1 or len(context.compiled_parameters or ()) != 1:
        return {}
    (set_to,) = context.compiled_parameters
    criteria: set[str] = set()
    if not isinstance(statement, Insert) and statement.whereclause is not None:
        criteria = set(statement.whereclause.compile().params)
    return {
        attribute: plain_value(set_to[key])
        for key, attribute in plan.columns.items()
        if key in set_to and key not in criteria
    }


def _rows(
    statement: Dml,
    sent: Sequence[Parameters],
    result: CursorResult[Any],
    connection: Connection,
) -> int | None:
    if len(sent) > 1:
        if isinstance(statement, Insert):  # each row's execution has succeeded, unless it may pass over a conflict
            return len(sent) if getattr(statement, "_post_values_clause", None) is None else None
        if not connection.dialect.supports_sane_multi_rowcount:
            return None
    try:
        rows = result.rowcount
    except Exception:  # noqa: BLE001 - whatever the driver raises for a cursor that it has closed
        return None
    return rows if rows >= 0 else None


def _keys(statement: Dml, plan: StatementPlan, sent: Sequence[Parameters], result: CursorResult[Any]) -> list[str]:
    """Return the primary keys of the rows if the statement's parameters, or its result, say which they were."""
    table = statement_table(statement)
    names = plan.primary_key
    if not isinstance(statement, Insert):
        # The mapper's own statement for a list of rows names its parameters so.
        names = tuple(f"{table.name}_{name}" if table is not None else name for name in names)
    if sent and all(name in sent[0] for name in names):
        return [",".join(str(row[name]) for name in names) for row in islice(sent, _MOST_KEYS)]
    if isinstance(statement, Insert) and len(sent) <= 1:
        try:
            key = result.inserted_primary_key
        except SQLAlchemyError:  # many rows, or none that the database reports
            return []
        if key is not None and all(part is not None for part in key):
            return [",".join(map(str, key))]
    return []


def _bounded(value: object) -> object:
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return [plain_value(one) for one in islice(value, _MOST_KEYS)]
    return plain_value(value)
