"""Results as plain data: a dictionary, JSON, the body of a FastAPI response."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

__all__ = ["PlainData"]


class PlainData(msgspec.Struct, frozen=True, kw_only=True):
    """The base of results that a program hands on: `to_dict()`, `dict(result)`, and an endpoint may return it.

    FastAPI takes it with and without a return annotation; nothing here needs pydantic until pydantic asks.
    """

    def to_dict(self) -> dict[str, object]:
        """Return the result as plain data that JSON can hold: dictionaries, lists, texts, numbers, booleans, None."""
        plain: dict[str, object] = msgspec.to_builtins(self, str_keys=True)
        return plain

    def keys(self) -> Iterable[str]:
        """Return the names of the members in `to_dict()`; with `result[name]` this makes `dict(result)` work."""
        return self.to_dict().keys()

    def __getitem__(self, name: str) -> object:
        return self.to_dict()[name]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:  # noqa: ANN401 - pydantic's own
        from pydantic_core import core_schema  # noqa: PLC0415 - only pydantic calls this

        return core_schema.is_instance_schema(
            cls,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda result: result.to_dict(), return_schema=core_schema.dict_schema()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, object]:  # noqa: ANN401
        return {"type": "object", "title": cls.__name__}
