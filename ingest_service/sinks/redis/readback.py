"""Members of a user's set as `verify` compares them. Only what reads back imports this."""

import json
from collections.abc import Sequence

import polars as pl

from ingest_service.rows.schema import Field, Schema

_NEEDS_ESCAPE = r'["\\\x00-\x1f\x7f-\x{10FFFF}]'


def member_of(frame: pl.DataFrame, schema: Schema) -> pl.Series:
    """Each row as the member that it becomes: compact JSON, escaped as `json.dumps` does it."""
    parts: list[pl.Expr] = []
    for field in schema.described:
        quote = "" if field.is_number else '"'
        parts += [pl.lit(f'{"," if parts else "{"}"{field.name}":{quote}'), pl.col(field.name), pl.lit(quote)]
    escaped = [_escaped(frame[name]) for name in schema.free_texts if name != schema.owner]
    return frame.with_columns(escaped).select(pl.concat_str(*parts, pl.lit("}")).alias("member")).to_series()


def _escaped(texts: pl.Series) -> pl.Series:
    needy = texts.filter(texts.str.contains(_NEEDS_ESCAPE)).unique()
    if not needy.len():
        return texts
    return texts.replace(needy, pl.Series([json.dumps(text)[1:-1] for text in needy.to_list()], dtype=pl.String))


def stored_frame(users: Sequence[str], sets: Sequence[Sequence[tuple[str, float]]], schema: Schema) -> pl.DataFrame:
    """What the sets of these users hold. What is no member of ours has no key, and is compared all the same."""
    owners: list[str] = []
    members: list[str] = []
    scores: list[float] = []
    for user, found in zip(users, sets, strict=True):
        owners += [user] * len(found)
        members += [member for member, _ in found]
        scores += [score for _, score in found]
    kinds = {"user_id": pl.String, "member": pl.String, "score": pl.Float64}
    frame = pl.DataFrame({"user_id": owners, "member": members, "score": scores}, schema=kinds)
    score = pl.col("score")
    # A score of ours is a whole number.
    whole = pl.when(score == score.round()).then(score.cast(pl.Int64, strict=False).cast(pl.String))
    fields = [field for name in schema.key for field in schema.fields if field.name == name]
    key = pl.concat_str(*map(_value_of, fields), separator="#")
    value = pl.concat_str(whole.otherwise(score.cast(pl.String)), pl.lit(" "), pl.col("member"))
    return frame.select("user_id", key.fill_null("").alias("event_key"), value.alias("value"))


def _value_of(field: Field) -> pl.Expr:
    """A text of a member. A quote within one has a backslash, so that no text can pass for a field."""
    member = pl.col("member")
    if field.is_free:
        return member.str.json_path_match(f"$.{field.name}")
    return member.str.extract(f'[{{,]"{field.name}":"([^"]*)"', 1)
