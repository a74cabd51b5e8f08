"""Expressions over a record's fields, as a text that a file may hold: `round(rating * 2)`, `event_type == "like"`.

An expression is read by Python's grammar and never run as Python: names of fields, numbers, texts and what stands in
the tables below are all that there is, and whatever else it says is refused.
"""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Never, TypeAlias

import numpy as np

from ingest_service.datasets.arithmetic import REALS, WHOLES, Has, both, magnitude, negated, rounded
from ingest_service.errors import RowError
from ingest_service.rows.arrays import Bools
from ingest_service.rows.columns import Columns
from ingest_service.rows.distinct import distinct, each_once
from ingest_service.rows.schema import Field, FieldKind, Schema
from ingest_service.rows.texts import Texts, concatenate

Condition: TypeAlias = Callable[[Columns], Bools]
_Found: TypeAlias = tuple[Any, Has]  # a column, or one number or truth for all rows; and which rows have a result

_LONGEST = 2_000  # characters: nobody's expression is longer
_DEEPEST = 50  # brackets and operations within each other, so that the stack is never at its end


class Sort(StrEnum):
    """What an expression is."""

    WHOLE = "a whole number"
    REAL = "a number"
    TEXT = "a text"
    TRUTH = "a comparison"


_NUMBERS = (Sort.WHOLE, Sort.REAL)
_COMPARED: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_TURNED: Mapping[type, type] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
_SIGNS: Mapping[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}
_OF_NUMBERS: Mapping[str, Callable[[Any], _Found]] = {"abs": magnitude, "round": rounded}
_OF_TEXTS: Mapping[str, Callable[[str], str]] = {"lower": str.lower, "upper": str.upper}
_OF_SEVERAL: Mapping[str, Callable[[Any, Any], Any]] = {"min": operator.lt, "max": operator.gt}


@dataclass(frozen=True, slots=True)
class Expression:
    """What it makes of records: a column and which of them have a result, or one value for all.

    constant: its value, where it is written there. is_sure: whether it has a result whatever the record.
    """

    sort: Sort
    found: Callable[[Columns], _Found]
    constant: str | int | float | None = None
    is_sure: bool = True


class _Wrong(Exception):
    """What is wrong with a part of an expression."""

    def __init__(self, node: ast.AST, reason: str) -> None:
        super().__init__(reason)
        self.at = getattr(node, "col_offset", 0)


def wrong(reason: str) -> RowError:
    """What is wrong with a step, for whoever reads the file that has it."""
    return RowError("validate", "wrong_step", reason)


def condition_of(text: str, schema: Schema) -> Condition:
    """Which records it is true of: not those of which it has no result. RowError says what is wrong with it."""
    expression = expression_of(text, schema)
    if expression.sort is not Sort.TRUTH:
        raise wrong(f"{text[:80]!r} is {expression.sort}, and a condition is a comparison, or several by and, or, not")

    def is_true(columns: Columns) -> Bools:
        values, has = expression.found(columns)
        return np.broadcast_to(values if has is None else values & has, len(columns))

    return is_true


def expression_of(text: str, schema: Schema) -> Expression:
    """RowError says what is wrong with it, and where."""
    text = text.strip()
    if len(text) > _LONGEST or "\n" in text:
        raise wrong(f"an expression is one line, of {_LONGEST:,} characters at most")
    try:
        body = ast.parse(text, mode="eval").body
        if _depth(body) > _DEEPEST:
            raise wrong(f"an expression has {_DEEPEST} operations within each other at most")
        expression = _expression(body, schema)
    except _Wrong as error:
        at = len(text.encode()[: error.at].decode(errors="ignore")) + 1
        raise wrong(f"{error}, at character {at} of {text[:80]!r}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f", at character {error.offset or len(text) + 1}" if isinstance(error, SyntaxError) else ""
        raise wrong(f"{text[:80]!r} is no expression{where}; write one like: rating >= 3.5") from None
    found = expression.found

    def quietly(columns: Columns) -> _Found:
        with np.errstate(all="ignore"):  # what has no result is told by itself
            return found(columns)

    return replace(expression, found=quietly)


def field_of(name: str, schema: Schema) -> Field:
    """RowError unless records have it."""
    for field in schema.fields:
        if field.name == name:
            return field
    raise wrong(f"there is no field {name!r}; there are: {', '.join(field.name for field in schema.fields)}")


def _depth(node: ast.AST) -> int:
    return 1 + max(map(_depth, ast.iter_child_nodes(node)), default=0)


def _expression(node: ast.expr, schema: Schema) -> Expression:
    if isinstance(node, ast.Name):
        return _field(node, schema)
    if isinstance(node, ast.BoolOp):
        parts = [_of_sort(value, schema, Sort.TRUTH) for value in node.values]
        return _joined(parts, stops_at=isinstance(node.op, ast.Or))
    if isinstance(node, ast.Compare):
        lefts = [node.left, *node.comparators]
        pairs = [_pair(lefts[i], op, lefts[i + 1], schema) for i, op in enumerate(node.ops)]
        return _joined(pairs, stops_at=False)
    if isinstance(node, ast.IfExp):
        return _chosen(node, schema)
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return _operation(node, schema)
    if isinstance(node, ast.Call):
        return _call(node, schema)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _of_sort(node.operand, schema, Sort.TRUTH)
        return replace(inner, found=_on(inner, lambda values: (np.logical_not(values), None)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        inner = _of_sort(node.operand, schema, *_NUMBERS)
        return Expression(inner.sort, _on(inner, negated), is_sure=inner.is_sure and inner.sort is Sort.REAL)
    return _constant(node)


def _refuse(node: ast.AST, reason: str) -> Never:
    raise _Wrong(node, reason)


def _of_sort(node: ast.expr, schema: Schema, *sorts: Sort) -> Expression:
    found = _expression(node, schema)
    if found.sort not in sorts:
        _refuse(node, f"{_said(node)} is {found.sort}, and not {sorts[-1]}")
    return found


def _said(node: ast.expr) -> str:
    return repr(ast.unparse(node)[:80])


def _field(node: ast.Name, schema: Schema) -> Expression:
    try:
        field = field_of(node.id, schema)
    except RowError as error:
        _refuse(node, error.reason)
    name = node.id
    if field.is_number:
        sort = Sort.WHOLE if field.kind is FieldKind.INT else Sort.REAL
        return Expression(sort, lambda columns: (columns.numbers[name], None))
    return Expression(Sort.TEXT, lambda columns: (columns.texts[name], None))


def _constant(node: ast.expr) -> Expression:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        value = None
    if isinstance(value, str):
        return Expression(Sort.TEXT, lambda columns: (Texts.constant(value, len(columns)), None), value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(node, f"{_said(node)} is no field, text, number, or anything else that an expression may have")
    if not (-(1 << 63) <= value < 1 << 63 if isinstance(value, int) else np.isfinite(value)):
        _refuse(node, "the number is too large")
    number = np.int64(value) if isinstance(value, int) else np.float64(value)
    return Expression(Sort.WHOLE if isinstance(value, int) else Sort.REAL, lambda _: (number, None), value)


def _on(one: Expression, change: Callable[[Any], _Found]) -> Callable[[Columns], _Found]:
    def found(columns: Columns) -> _Found:
        values, has = one.found(columns)
        changed, has_changed = change(values)
        return changed, both(has, has_changed)

    return found


def _with(one: Expression, other: Expression, change: Callable[[Any, Any], _Found]) -> Callable[[Columns], _Found]:
    def found(columns: Columns) -> _Found:
        left, has_left = one.found(columns)
        right, has_right = other.found(columns)
        changed, has = change(left, right)
        return changed, both(both(has_left, has_right), has)

    return found


def _joined(parts: Sequence[Expression], *, stops_at: bool) -> Expression:
    """By `and`, or by `or`: where the first ones say it all, the others need not have a result."""
    join = np.logical_or if stops_at else np.logical_and

    def found(columns: Columns) -> _Found:
        values, has = parts[0].found(columns)
        for part in parts[1:]:
            more, has_more = part.found(columns)
            has = both(has, None if has_more is None else has_more | (values == stops_at))
            values = join(values, more)
        return values, has

    return Expression(Sort.TRUTH, found, is_sure=all(part.is_sure for part in parts))


def _pair(left: ast.expr, op: ast.cmpop, right: ast.expr, schema: Schema) -> Expression:
    """One comparison: of texts with a written one, of two numbers of one sort, or with several constants by `in`."""
    if isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.Tuple | ast.List) and right.elts:
        equals = [_pair(left, ast.Eq(), one, schema) for one in right.elts if _constant(one)]
        any_of = _joined(equals, stops_at=True)
        if isinstance(op, ast.In):
            return any_of
        return replace(any_of, found=_on(any_of, lambda values: (np.logical_not(values), None)))
    kind = type(op)
    if kind not in _COMPARED:
        _refuse(left, "a comparison is one of == != < <= > >= , or in with texts or numbers in brackets")
    one, other = _expression(left, schema), _expression(right, schema)
    if one.constant is not None and other.constant is None:
        one, other, kind = other, one, _TURNED.get(kind, kind)
    compare = _COMPARED[kind]
    is_sure = one.is_sure and other.is_sure
    if one.sort is Sort.TEXT and isinstance(other.constant, str):
        value = other.constant
        return Expression(Sort.TRUTH, _on(one, lambda texts: (_of_texts(texts, compare, value), None)), None, is_sure)
    if one.sort is Sort.TEXT and other.constant is not None:
        _refuse(right, f"{_said(left)} is a text, and compared with one: put {other.constant!r} in quotes")
    is_written = one.sort is Sort.REAL and other.sort is Sort.WHOLE and other.constant is not None
    if one.sort not in _NUMBERS or (one.sort is not other.sort and not is_written):
        _refuse(right, f"{_said(left)} is {one.sort} and {_said(right)} {other.sort}: no two numbers of one kind")
    return Expression(Sort.TRUTH, _with(one, other, lambda a, b: (compare(a, b), None)), None, is_sure)


def _of_texts(texts: Texts, compare: Callable[[Any, Any], Any], value: str) -> Bools:
    """Each different text is compared once."""
    different, inverse = distinct(texts)
    truths = np.fromiter((compare(text, value) for text in different.to_list()), np.bool_, len(different))
    found: Bools = truths[inverse]
    return found


def _common(nodes: Sequence[ast.expr], found: Sequence[Expression]) -> Sort:
    """Numbers of both sorts are taken as floats together."""
    sorts = {one.sort for one in found}
    if len(sorts) > 1 and not sorts <= set(_NUMBERS):
        _refuse(nodes[-1], f"{_said(nodes[0])} is {found[0].sort}, and {_said(nodes[-1])} {found[-1].sort}")
    return Sort.REAL if len(sorts) > 1 else found[0].sort


def _operation(node: ast.BinOp, schema: Schema) -> Expression:
    nodes = (node.left, node.right)
    one, other = (_expression(part, schema) for part in nodes)
    sort, sign = _common(nodes, (one, other)), _SIGNS[type(node.op)]
    if sort is Sort.TEXT and sign == "+":
        return Expression(sort, _with(one, other, lambda a, b: (concatenate([a, b]), None)))
    if sort not in _NUMBERS:
        _refuse(node, f"{_said(node.left)} is {sort}, and {sign} is for numbers")
    found = _with(one, other, (WHOLES if sort is Sort.WHOLE else REALS)[sign])
    return Expression(Sort.REAL if sign == "/" else sort, found, is_sure=False)


def _call(node: ast.Call, schema: Schema) -> Expression:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    known = {**_OF_NUMBERS, **_OF_TEXTS, **_OF_SEVERAL}
    if name not in known:
        _refuse(node, f"{_said(node.func)} is no function; there are: {', '.join(sorted(known))}")
    n_least = 2 if name in _OF_SEVERAL else 1
    if node.keywords or len(node.args) < n_least or (n_least == 1 and len(node.args) > 1):
        _refuse(node, f"{name} takes {'two values or more' if n_least == 2 else 'one value'}")
    if name in _OF_TEXTS:
        one = _of_sort(node.args[0], schema, Sort.TEXT)
        return Expression(Sort.TEXT, _on(one, lambda texts: (each_once(texts, _OF_TEXTS[name]), None)))
    parts = [_of_sort(part, schema, *_NUMBERS) for part in node.args]
    if name in _OF_NUMBERS:
        (one,) = parts
        is_sure = one.is_sure and one.sort is (Sort.WHOLE if name == "round" else Sort.REAL)
        return Expression(Sort.WHOLE if name == "round" else one.sort, _on(one, _OF_NUMBERS[name]), is_sure=is_sure)
    sort, comes_first = _common(node.args, parts), _OF_SEVERAL[name]

    def best(columns: Columns) -> _Found:
        values, has = parts[0].found(columns)
        for part in parts[1:]:
            others, has_others = part.found(columns)
            values, has = np.where(comes_first(others, values), others, values), both(has, has_others)
        return values, has

    return Expression(sort, best, is_sure=all(part.is_sure for part in parts))


def _chosen(node: ast.IfExp, schema: Schema) -> Expression:
    """`a if condition else b`: what is not chosen need not have a result."""
    condition = _of_sort(node.test, schema, Sort.TRUTH)
    nodes = (node.body, node.orelse)
    one, other = (_expression(part, schema) for part in nodes)
    sort = _common(nodes, (one, other))

    def found(columns: Columns) -> _Found:
        is_one, has = condition.found(columns)
        (left, has_left), (right, has_right) = one.found(columns), other.found(columns)
        if has_left is not None or has_right is not None:
            lefts, rights = (True if one is None else one for one in (has_left, has_right))
            has = both(has, np.where(is_one, lefts, rights))
        if isinstance(left, Texts):
            n = len(columns)
            return Texts.chained([left, right]).take(np.arange(n) + np.where(is_one, 0, n)), has
        return np.where(is_one, left, right), has

    return Expression(sort, found, is_sure=condition.is_sure and one.is_sure and other.is_sure)
