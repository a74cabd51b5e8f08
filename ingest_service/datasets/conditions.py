"""Conditions on records, as a text that a file may hold: `rating >= 3.5 and event_type in ("like", "view")`.

A condition is read by Python's grammar and never run as Python: names of fields, numbers and texts, comparisons, `and`,
`or`, `not` and `in` are all that there is, and whatever else it says is refused.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ingest_service.errors import RowError
from ingest_service.rows.arrays import Bools
from ingest_service.rows.columns import Columns
from ingest_service.rows.distinct import distinct
from ingest_service.rows.schema import Field, FieldKind, Schema

Condition: TypeAlias = Callable[[Columns], Bools]

_COMPARED: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_TURNED: Mapping[type, type] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
_LONGEST = 2_000  # characters: nobody's condition is longer, and the parser's depth stays bounded


def wrong(reason: str) -> RowError:
    """What is wrong with a step, for whoever reads the file that has it."""
    return RowError("validate", "wrong_step", reason)


def condition_of(text: str, schema: Schema) -> Condition:
    """Which records a condition is true of. RowError says what is wrong with it."""
    try:
        if len(text) > _LONGEST:
            raise wrong(f"a condition has {_LONGEST:,} characters at most")
        return _truth(ast.parse(text.strip(), mode="eval").body, schema)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise wrong(f"{text[:80]!r} is no condition; write one like: rating >= 3.5 and event_type == 'like'") from None


def field_of(name: str, schema: Schema) -> Field:
    """RowError unless records have it."""
    for field in schema.fields:
        if field.name == name:
            return field
    raise wrong(f"there is no field {name!r}; there are: {', '.join(field.name for field in schema.fields)}")


def _truth(node: ast.expr, schema: Schema) -> Condition:
    if isinstance(node, ast.BoolOp):
        parts = [_truth(value, schema) for value in node.values]
        joined = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return lambda columns: joined.reduce([part(columns) for part in parts])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _truth(node.operand, schema)
        return lambda columns: ~inner(columns)
    if isinstance(node, ast.Compare):
        lefts = [node.left, *node.comparators]
        pairs = [_pair(lefts[i], op, lefts[i + 1], schema) for i, op in enumerate(node.ops)]
        return lambda columns: np.logical_and.reduce([pair(columns) for pair in pairs])
    raise wrong(f"{ast.unparse(node)[:80]!r} is neither a comparison nor several by and, or, not")


def _pair(left: ast.expr, op: ast.cmpop, right: ast.expr, schema: Schema) -> Condition:
    """One comparison: of a field with a constant or another number, or with several constants by `in`."""
    if isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.Tuple | ast.List) and right.elts:
        field = _field(left, schema)
        any_of = [_with_constant(field, operator.eq, _constant(one)) for one in right.elts]
        negated = isinstance(op, ast.NotIn)
        return lambda columns: np.logical_or.reduce([one(columns) for one in any_of]) ^ negated
    kind = type(op)
    if kind not in _COMPARED:
        raise wrong("a comparison is one of == != < <= > >= , or in with texts or numbers in brackets")
    if isinstance(left, ast.Name) and isinstance(right, ast.Name):
        return _of_fields(_field(left, schema), _COMPARED[kind], _field(right, schema))
    if isinstance(right, ast.Name):
        left, right, kind = right, left, _TURNED.get(kind, kind)
    return _with_constant(_field(left, schema), _COMPARED[kind], _constant(right))


def _field(node: ast.expr, schema: Schema) -> Field:
    if not isinstance(node, ast.Name):
        raise wrong(f"{ast.unparse(node)[:80]!r} is no field; a comparison is of a field with a text or a number")
    return field_of(node.id, schema)


def _constant(node: ast.expr) -> str | int | float:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        value = None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong(f"{ast.unparse(node)[:80]!r} is neither a text nor a number")
    return value


def _of_fields(one: Field, compare: Callable[[Any, Any], Any], other: Field) -> Condition:
    if one.kind is not other.kind or not one.is_number:
        raise wrong(f"{one.name} and {other.name} are no two numbers of one kind, so they cannot be compared")
    return lambda columns: compare(columns.numbers[one.name], columns.numbers[other.name])


def _with_constant(field: Field, compare: Callable[[Any, Any], Any], value: str | int | float) -> Condition:
    name = field.name
    if not field.is_number:
        if not isinstance(value, str):
            raise wrong(f"{name} is a text, and compared with one: put {value!r} in quotes")
        return lambda columns: _of_texts(columns, name, compare, value)
    if isinstance(value, str) or (field.kind is FieldKind.INT and not isinstance(value, int)):
        raise wrong(f"{name} is {'a whole number' if field.kind is FieldKind.INT else 'a number'}, and {value!r} none")
    try:
        number = float(value) if field.kind is FieldKind.FLOAT else value
    except OverflowError:
        raise wrong(f"{name} is compared with a number that is too large") from None
    return lambda columns: compare(columns.numbers[name], number)


def _of_texts(columns: Columns, name: str, compare: Callable[[Any, Any], Any], value: str) -> Bools:
    """Each different text is compared once."""
    different, inverse = distinct(columns.texts[name])
    truths: Bools = np.fromiter((compare(text, value) for text in different.to_list()), np.bool_, len(different))[
        inverse
    ]
    return truths
