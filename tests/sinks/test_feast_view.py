"""The bytes of Feast's online store, held to what Feast itself makes of the same values (scripts/feast-golden)."""

import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest_service.datasets.identity import numbers_of
from ingest_service.errors import ConfigurationError
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import INTERACTION
from ingest_service.rows.schema import Field, FieldKind
from ingest_service.rows.texts import Texts
from ingest_service.sinks.feast import FeastSink
from ingest_service.sinks.feast.commands import Hashes
from ingest_service.sinks.feast.dynamodb import puts_of, time_us_of
from ingest_service.sinks.feast.hashes import murmur3_128
from ingest_service.sinks.feast.view import View, newest
from ingest_service.sinks.testing.rows import columns_of, interactions

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("feast_golden.json").read_text())
KINDS = {
    "n": FieldKind.INT,
    "small": FieldKind.INT,
    "word": FieldKind.TEXT,
    "ratio": FieldKind.FLOAT,
    "score": FieldKind.FLOAT,
    "is_new": FieldKind.TRUTH,
    "seen": FieldKind.TIME,
}
FIELDS = tuple(Field(name, kind) for name, kind in KINDS.items())


def hashes(entity: str = "user_id:INT64", features: str = "") -> Hashes:
    """What a URL with these options says."""
    features = features or ",".join(f"{name}:{type_name}" for name, type_name in GOLDEN["types"].items())
    return FeastSink(f"feast+redis://host/0?project=shop&view=user_state&entity={entity}&features={features}").hashes


def view(entity: str = "user_id:INT64", features: str = "") -> View:
    return hashes(entity, features).view


def time_text(seconds: int) -> str:
    return str(np.datetime64(seconds, "s")) + ".000000Z"


def golden_columns(entity_type: str) -> Columns:
    """The rows of the golden file as a parser would have made them."""
    rows = GOLDEN["rows"][entity_type]
    values = dict(zip(KINDS, zip(*(row["values"] for row in rows), strict=True), strict=True))
    entities = [row["entity"] for row in rows]
    n = len(rows)
    empty = {name: Texts.constant("", n) for name in INTERACTION.texts}
    texts = {
        "user_id": Texts.of(list(map(str, entities))),
        "word": Texts.of(list(values["word"])),
        "is_new": Texts.of(["true" if value else "false" for value in values["is_new"]]),
        "seen": Texts.of([time_text(value) for value in values["seen"]]),
    }
    numbers = {
        "n": np.array(values["n"], np.int64),
        "small": np.array(values["small"], np.int64),
        "ratio": np.array([float(value) for value in values["ratio"]]),
        "score": np.array([float(value) for value in values["score"]]),
    }
    owner = (np.array(entities, np.int64),) if entity_type == "INT64" else numbers_of(texts["user_id"])
    schema = INTERACTION.extended("golden", *FIELDS)
    times = np.array([row["time_us"] for row in rows], np.int64)
    return Columns(schema, owner, (np.arange(n),), times, empty | texts, numbers)


def parsed(commands: bytes) -> list[list[bytes]]:
    """RESP commands as their words."""
    found, at = [], 0
    while at < len(commands):
        words = []
        end = commands.index(b"\r\n", at)
        n_words, at = int(commands[at + 1 : end]), end + 2
        for _ in range(n_words):
            end = commands.index(b"\r\n", at)
            size, at = int(commands[at + 1 : end]), end + 2
            words.append(commands[at : at + size])
            assert commands[at + size : at + size + 2] == b"\r\n"
            at += size + 2
        found.append(words)
    return found


@pytest.mark.parametrize("entity_type", ["INT64", "STRING"])
def test_bytes_are_those_of_feast(entity_type: str) -> None:
    """Keys, names of fields, values and times, of every type that is written, at the edges of each."""
    commands = hashes(f"user_id:{entity_type}").commands(golden_columns(entity_type)).tobytes()
    rows = GOLDEN["rows"][entity_type]
    for words, row in zip(parsed(commands), rows, strict=True):
        name, _, n_keys, key, *fields = words
        assert (name, n_keys, key.hex()) == (b"EVALSHA", b"1", row["key"])
        assert {fields[i].hex(): fields[i + 1].hex() for i in range(0, len(fields), 2)} == row["hash"]


@pytest.mark.parametrize("entity_type", ["INT64", "STRING"])
def test_items_are_those_of_feast(entity_type: str) -> None:
    """In DynamoDB: ids of entities whose keys are of any length, times with and without a fraction, values."""
    rows = GOLDEN["rows"][entity_type]
    puts = list(puts_of(view(f"user_id:{entity_type}"), golden_columns(entity_type), range(len(rows))))
    for put, row in zip(puts, rows, strict=True):
        item = json.loads(put.item)
        values = {name: b64decode(value["B"]).hex() for name, value in item["values"]["M"].items()}
        made = {"entity_id": item["entity_id"]["S"], "event_ts": item["event_ts"]["S"], "values": values}
        assert {"table": "shop.user_state", **made} == row["item"]
        assert time_us_of(item["event_ts"]) == put.time_us == row["time_us"]


@pytest.mark.parametrize("length", range(50))
def test_ids_of_entities_do_not_depend_on_their_neighbours(length: int) -> None:
    """Texts of other lengths beside them, and their own at any place; the reference is told for two of them."""
    texts = ["x" * length, "", "é" * length, "y" * 16, "z" * length]
    alone = [murmur3_128(Texts.of_bytes([text.encode()]))[0] for text in texts]
    assert murmur3_128(Texts.of(texts)) == alone
    assert alone[1] == bytes(16)
    known = murmur3_128(Texts.of_bytes([b"The quick brown fox jumps over the lazy dog"]))[0].hex()
    assert known == "6c1b07bc7bbc4be347939ac4a93c437a"


def test_types_follow_from_the_kinds_of_fields() -> None:
    """The usual type of a whole number, a text, a number, a truth and a time."""
    usual = {"n": "INT64", "word": "STRING", "ratio": "DOUBLE", "is_new": "BOOL", "seen": "UNIX_TIMESTAMP"}
    columns = golden_columns("INT64")
    said = hashes(features=",".join(f"{name}:{type_name}" for name, type_name in usual.items()))
    assert hashes(features=",".join(usual)).commands(columns).tobytes() == said.commands(columns).tobytes()


def test_of_each_entity_the_newest_row_counts_and_of_equal_times_the_last() -> None:
    """In whatever order the rows stand, and among those only that may be chosen."""
    rng = np.random.default_rng(5)
    columns = columns_of(interactions(500, users=40))
    columns = replace(columns, times=rng.integers(0, 9, 500), owner=(rng.integers(-3, 30, 500),))
    rows = np.flatnonzero(rng.random(500) < 0.8)
    expected: dict[int, int] = {}
    for row in rows.tolist():
        before = expected.get(int(columns.owner[0][row]))
        if before is None or columns.times[row] >= columns.times[before]:
            expected[int(columns.owner[0][row])] = row
    assert newest(columns, rows).tolist() == sorted(expected.values())
    assert not len(newest(columns, rows[:0]))


def test_numbers_that_their_type_cannot_hold_are_found() -> None:
    """And those at the edges fit."""
    columns = golden_columns("INT64")
    low, high = -(2**31), 2**31 - 1
    small = np.array([low, high, low - 1, high + 1, 0, 0, 0], np.int64)
    score = np.array([0, 0, 0, 0, 3.4e38, 3.5e38, -3.5e38])
    columns = replace(columns, numbers={**columns.numbers, "small": small, "score": score})
    assert view().unfit(columns).tolist() == [False, False, True, True, False, True, True]


@pytest.mark.parametrize(
    ("entity", "features", "message"),
    [
        ("user_id:INT64", "colour", "has no field 'colour'"),
        ("user_id:INT64", "word:INT64", "'word' cannot be written as INT64, only as STRING"),
        ("user_id:INT64", "ratio:BOOL", "only as DOUBLE or FLOAT"),
        ("user_id:FLOAT", "n", "of the type INT64 or STRING"),
        ("user_id", "n", "of the type INT64 or STRING"),
        ("user_id:INT64", "n,n", "a feature is there twice"),
        ("user_id:INT64", "n:int", "the type being one of"),
        ("user_id:INT64", ",n", "it looks like user_id:INT64"),
    ],
)
def test_what_cannot_be_written_is_said_in_a_sentence(entity: str, features: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        view(entity, features).require(golden_columns("INT64"))


def test_ids_that_are_texts_are_no_numbers() -> None:
    columns = golden_columns("STRING")
    with pytest.raises(ConfigurationError, match="say entity=user_id:STRING"):
        view("user_id:INT64").require(columns)
    view("user_id:STRING").require(columns)
