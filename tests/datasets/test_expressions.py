"""Expressions over fields: each against Python's own arithmetic row by row, and what is refused."""

import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets.expressions import condition_of, expression_of
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.rows.texts import Texts
from tests.datasets.test_schema_file import ITEM, OWNER, RATING, TIME, described, records
from tests.datasets.test_steps import NOTE, ROWS, SCHEMA, columns_of

Row: TypeAlias = tuple[str, int, float]
Made: TypeAlias = tuple[str, Callable[[Row], Any]]  # an expression, and what it is of a row; ArithmeticError: nothing

N = {"name": "n", "type": "integer", "x-keep": True}
WHOLE = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
REAL = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1.0, 2.5, -3.5])
OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


def bounded(value: Any) -> Any:
    """ArithmeticError where a number is not one of 64 bits."""
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise OverflowError
    return value


def constants(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Made]:
    return values.map(lambda value: (repr(value), lambda _: value))


def larger(whole: st.SearchStrategy[Made], real: st.SearchStrategy[Made]) -> st.SearchStrategy[Made]:
    """Numbers of one sort out of smaller ones: the first; the second may be mixed with it."""

    def operation(sign: str, one: Made, other: Made) -> Made:
        return f"({one[0]} {sign} {other[0]})", lambda row: bounded(OPERATIONS[sign](one[1](row), other[1](row)))

    def function(name: str, one: Made, other: Made) -> Made:
        known: Any = {"min": min, "max": max}[name]
        return f"{name}({one[0]}, {other[0]})", lambda row: known(one[1](row), other[1](row))

    def chosen(one: Made, other: Made, left: Made, right: Made) -> Made:
        return (
            f"({one[0]} if {left[0]} <= {right[0]} else {other[0]})",
            lambda row: one[1](row) if left[1](row) <= right[1](row) else other[1](row),
        )

    def magnitude(one: Made) -> Made:
        return f"abs({one[0]})", lambda row: bounded(abs(one[1](row)))

    def negated(one: Made) -> Made:
        return f"-({one[0]})", lambda row: bounded(-one[1](row))

    return (
        st.builds(operation, st.sampled_from(sorted(OPERATIONS)), whole, real)
        | st.builds(function, st.sampled_from(["min", "max"]), whole, whole)
        | st.builds(chosen, whole, real, whole, whole)
        | st.builds(magnitude, whole)
        | st.builds(negated, whole)
    )


WHOLES: st.SearchStrategy[Made] = st.recursive(
    constants(WHOLE) | st.just(("i", lambda row: row[1])), lambda inner: larger(inner, inner), max_leaves=6
)
REALS: st.SearchStrategy[Made] = st.recursive(
    constants(REAL) | st.just(("x", lambda row: row[2])), lambda inner: larger(inner, inner), max_leaves=6
)


def loop(made: Made, rows: list[Row]) -> list[Any]:
    found: list[Any] = []
    for row in rows:
        try:
            found.append(made[1](row))
        except ArithmeticError:
            found.append(None)
    return found


def values(text: str, rows: list[Row]) -> list[Any]:
    """What an expression makes of each row; None where it has no result."""
    found, has = expression_of(text, SCHEMA).found(columns_of(rows))
    if isinstance(found, Texts):
        return found.to_list()
    every = [found.item()] * len(rows) if not found.shape else found.tolist()
    there = [True] * len(rows) if has is None else [bool(has)] * len(rows) if not has.shape else has.tolist()
    return [value if is_there else None for value, is_there in zip(every, there, strict=True)]


def said(found: list[Any]) -> list[str]:
    """Told apart by sort and sign, as equality does not."""
    return [repr(value) for value in found]


@given(ROWS, WHOLES | REALS)
@settings(deadline=None, max_examples=400)
def test_numbers_are_those_of_python_row_by_row(rows: list[Row], made: Made) -> None:
    assert said(values(made[0], rows)) == said(loop(made, rows))


@given(ROWS, WHOLES, REALS)
@settings(deadline=None)
def test_whole_numbers_are_divided_mixed_and_made_as_floats(rows: list[Row], whole: Made, real: Made) -> None:
    for sign in ("/", "+", "*"):
        operate = {"/": operator.truediv, "+": operator.add, "*": operator.mul}[sign]

        def mixed(row: Row, operate: Any = operate) -> Any:
            return bounded(operate(float(whole[1](row)), real[1](row)))

        assert said(values(f"{whole[0]} {sign} {real[0]}", rows)) == said(loop(("", mixed), rows))
    nearest = values(f"round({real[0]})", rows)
    assert said(nearest) == said(loop(("", lambda row: bounded(round(real[1](row)))), rows))


@given(ROWS, WHOLES, WHOLES, REALS)
@settings(deadline=None)
def test_what_is_not_needed_need_not_have_a_result(rows: list[Row], one: Made, other: Made, real: Made) -> None:
    """As with Python's `and`, `or`, `not`: and a filter does not keep a row of which its condition has no result."""
    text = f"i == 0 or not ({one[0]} < {other[0]} and {real[0]} > 1.5)"

    def truth(row: Row) -> bool:
        return row[1] == 0 or not (one[1](row) < other[1](row) and real[1](row) > 1.5)

    expected = loop(("", truth), rows)
    assert values(text, rows) == expected
    assert condition_of(text, SCHEMA)(columns_of(rows)).tolist() == [one is True for one in expected]


@given(ROWS)
@settings(deadline=None)
def test_texts_are_those_of_python_row_by_row(rows: list[Row]) -> None:
    expected = [(a.upper() if i > 0 else a) + "-" + a.lower() for a, i, _ in rows]
    assert values("(upper(a) if i > 0 else a) + '-' + lower(a)", rows) == expected
    assert values("lower(a) in ('a', 'b')", rows) == [a.lower() in ("a", "b") for a, _, _ in rows]
    assert values("'yes' if i > 0 else 'no'", rows) == ["yes" if i > 0 else "no" for _, i, _ in rows]


def test_fields_are_made_by_expressions_of_each_kind(tmp_path: Path) -> None:
    steps = [
        {"derive": "half", "as": "rating / n", "otherwise": -1},
        {"derive": "twice", "as": "n * 2", "otherwise": 0},
        {"derive": "liked", "as": "half >= 2"},
        {"derive": "safe", "as": "n != 0 and rating / n > 1", "otherwise": False},
        {"derive": "label", "as": "'many' if n > 1 else lower(note)"},
        {"derive": "origin", "as": "'web'"},
        {"derive": "one", "as": "1"},
    ]
    dataset = described(tmp_path, OWNER, ITEM, TIME, RATING, N, NOTE, **{"x-transform": steps})
    rows = "".join(f"a,{i},{i},5,{n},ÄB\n" for i, n in enumerate((0, 1, 2, 2**62), 1))
    found = records(dataset, f"user,item,at,rating,n,note\n{rows}".encode())
    assert [one["half"] for one in found] == [-1.0, 5.0, 2.5, 5 / 2**62]
    assert [one["twice"] for one in found] == [0, 2, 4, 0]
    assert [one["liked"] for one in found] == ["false", "true", "true", "false"]
    assert [one["safe"] for one in found] == ["false", "true", "true", "false"]
    assert [one["label"] for one in found] == ["äb", "äb", "many", "many"]
    assert {one["origin"] for one in found} == {"web"}
    assert {one["one"] for one in found} == {1}
    assert list(found[0]) == [*dataset.schema.texts, *dataset.schema.numbers]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"as": "rating +"}, "in step 1 'rating \\+' is no expression, at character 9"),
        ({"as": "1 + rating.real"}, "'rating.real' is no field.*at character 5"),
        ({"as": "rating * views", "otherwise": 0}, "no field 'views'.*at character 10"),
        ({"as": "note * 2"}, "'note' is a text, and '?2'? a whole number"),
        ({"as": "note - note"}, "- is for numbers"),
        ({"as": "min(rating)"}, "two values or more"),
        ({"as": "round(rating, 2)", "otherwise": 0}, "one value"),
        ({"as": "lower(rating)"}, "is a number, and not a text"),
        ({"as": "eval('1')"}, "'eval' is no function"),
        ({"as": "rating ** 2", "otherwise": 0}, "is no field"),
        ({"as": "1 if rating else 2"}, "is a number, and not a comparison"),
        ({"as": "1 if rating > 2 else note"}, "a whole number, and 'note' a text"),
        ({"as": "[rating][0]"}, "is no field"),
        ({"as": "(lambda: 1)()"}, "is no function"),
        ({"as": f"1{'0' * 400}"}, "too large"),
        ({"as": "-" * 200 + "rating"}, "within each other"),
        ({"as": "rating\n+ 1", "otherwise": 0}, "one line"),
        ({"as": "rating / 2"}, "otherwise"),
        ({"as": "rating / 2", "otherwise": "none"}, "another kind of value"),
        ({"as": "rating > 2", "otherwise": 1}, "another kind of value"),
        ({"as": "rating", "derive": "user_id"}, "of every record"),
    ],
)
def test_an_expression_that_is_none_is_refused_with_its_place(
    tmp_path: Path, step: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        described(tmp_path, OWNER, ITEM, TIME, RATING, NOTE, **{"x-transform": [{"derive": "made", **step}]})


def test_long_expressions_end_within_the_stack() -> None:
    """Joined by one operation they are not within each other."""
    rows: list[Row] = [("a", 1, 1.0)]
    assert values(" or ".join(["i > 9"] * 220), rows) == [False]
    assert values(f"max({', '.join(['i'] * 600)})", rows) == [1]
    assert values(f"i in ({', '.join(['5'] * 600)})", rows) == [False]
    with pytest.raises(RowError, match="within each other"):
        expression_of(" + ".join(["i"] * 400), SCHEMA)
