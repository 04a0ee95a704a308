"""A griffe extension: shows the constructor of a msgspec struct, which msgspec makes when the class is defined.

Events and configurations are structs, so without it the reference would show none of their parameters. Keyword-only and
inherited fields are distinguished as msgspec does (https://jcristharif.com/msgspec/structs.html).
"""

from __future__ import annotations

from collections.abc import Iterator

from griffe import (
    Attribute,
    Class,
    Expr,
    ExprSubscript,
    ExprTuple,
    Extension,
    Function,
    Module,
    Parameter,
    ParameterKind,
    Parameters,
)


class StructSignatures(Extension):
    """Gives each struct of a package an `__init__` with its fields."""

    def on_package(self, *, pkg: Module, **_: object) -> None:
        """Look at all classes of a package once it is loaded."""
        for cls in classes_in(pkg):
            if is_struct(cls) and "__init__" not in cls.members:
                cls.set_member("__init__", constructor_of(cls))


def classes_in(scope: Module | Class) -> Iterator[Class]:
    """Yield each class that is defined in a module, a class, or below."""
    for member in list(scope.members.values()):
        if isinstance(member, Module | Class):
            if isinstance(member, Class):
                yield member
            yield from classes_in(member)


def lineage_of(cls: Class) -> list[Class]:
    """Return a class and those that it inherits from, as far as they are of this package, the most basic first."""
    try:
        return [*reversed(cls.mro()), cls]
    except ValueError:  # griffe can't order bases that it does not know
        return [cls]


def is_struct(cls: Class) -> bool:
    """Return whether a class, or one that it inherits from, is a `msgspec.Struct`."""
    bases = {base if isinstance(base, str) else base.canonical_path for one in lineage_of(cls) for base in one.bases}
    return "msgspec.Struct" in bases


def is_keyword_only(cls: Class) -> bool:
    """Return whether the fields that a class itself defines are keyword-only: it says so, or its metaclass does."""
    return str(cls.keywords.get("kw_only")) == "True" or any("metaclass" in one.keywords for one in lineage_of(cls))


def plain(annotation: str | Expr | None) -> str | Expr | None:
    """Return a type without what `Annotated` adds to it: bounds and wording, which its error messages show."""
    if not isinstance(annotation, ExprSubscript) or str(annotation.left).rpartition(".")[2] != "Annotated":
        return annotation
    return annotation.slice.elements[0] if isinstance(annotation.slice, ExprTuple) else annotation


def parameters_of(cls: Class) -> Iterator[Parameter]:
    """Yield the fields that a class itself defines, as parameters; class variables are none."""
    kind = ParameterKind.keyword_only if is_keyword_only(cls) else ParameterKind.positional_or_keyword
    for name, member in cls.members.items():
        if isinstance(member, Attribute) and "instance-attribute" in member.labels and not name.startswith("_"):
            member.annotation = plain(member.annotation)
            yield Parameter(name, annotation=member.annotation, kind=kind, default=member.value)


def constructor_of(cls: Class) -> Function:
    """Return the `__init__` that msgspec gives to a struct: positional parameters first, each kind in order."""
    fields = {parameter.name: parameter for one in lineage_of(cls) for parameter in parameters_of(one)}
    keyword_only = [field for field in fields.values() if field.kind is ParameterKind.keyword_only]
    positional = [field for field in fields.values() if field.kind is not ParameterKind.keyword_only]
    constructor = Function("__init__", lineno=cls.lineno, endlineno=cls.lineno, parent=cls)
    this = Parameter("self", kind=ParameterKind.positional_or_keyword)
    constructor.parameters = Parameters(this, *positional, *keyword_only)
    return constructor
