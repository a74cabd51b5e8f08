"""START HERE: a schema file for a source, told from some MiB of it, and tried on these before it is handed out."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.schema_file import load_dataset
from ingest_service.errors import ConfigurationError, LocalIOError
from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.formats.opening import open_reader
from ingest_service.inference import delimited, objects
from ingest_service.inference.encoding import encoding_of_sample, whole_lines
from ingest_service.inference.found import Table
from ingest_service.inference.known import known_datasets_for
from ingest_service.inference.profile import profile_of
from ingest_service.inference.roles import Roles, roles_of
from ingest_service.inference.sample import Sample, SampledSource, name_of, sample_of
from ingest_service.inference.schema_text import Row, rows_of, schema_text, stored_name
from ingest_service.rows.columns import Columns
from ingest_service.sources.base import Source
from ingest_service.sources.kinds import likely_kind

_TRIED_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Inferred:
    """The text of a schema file; what was found, and what is not sure, a line each."""

    text: str
    found: list[str]
    doubts: list[str]


@dataclass(frozen=True, slots=True)
class _Trial:
    """What became of the rows that were looked at. `order` is how they are sorted, in words."""

    records: int
    repeated: int
    refused: Counter[str]
    order: str


def infer(source: Source) -> Inferred:
    """Blocks. ConfigurationError says in one sentence why no schema can be written for the source."""
    sample = sample_of(source)
    table, tried = _table_of(source, sample)
    known = known_datasets_for(tried, table)
    try:
        roles = roles_of([profile_of(column) for column in table.columns])
    except ConfigurationError as error:
        also = f"; the rows fit --dataset {' or '.join(known)}." if known else "."
        raise ConfigurationError(str(error).removesuffix(".") + also) from None
    name = _dataset_name(name_of(source))
    rows = rows_of(table, roles)
    trial = _tried(tried, schema_text(name, table, roles, rows, []))
    if trial.repeated:
        for key in _possible_keys(rows):
            with_key = rows_of(table, roles, keys=[key])
            again = _tried(tried, schema_text(name, table, roles, with_key, []))
            if not again.repeated:
                rows, trial = [_said(row, trial.repeated) for row in with_key], again
                break
    found = _found(table, roles, trial)
    if known:
        found.append(f"known: it fits --dataset {' or '.join(known)} as well, with ids and events as others have them")
    doubts = [*table.doubts, *_doubts_of(trial), *(f"{row.keys['name']}: {row.doubt}" for row in rows if row.doubt)]
    notes = [
        "Written by `ingest-service infer`, from some of the rows. Look at what is not sure, and at preview.",
        *found[:1],
        *(line for line in found if line.startswith(("order: ", "known: "))),
        *(f"not sure: {doubt}" for doubt in (*table.doubts, *_doubts_of(trial))),
    ]
    return Inferred(schema_text(name, table, roles, rows, notes), found, doubts)


def _table_of(source: Source, sample: Sample) -> tuple[Table, Source]:
    """The rows as a table, and the source to try a schema on."""
    if sample.head.startswith(objects.MAGIC):
        return objects.table_of_parquet(source), source
    encoding, doubt = encoding_of_sample(sample)
    text, later, stored = whole_lines(sample, encoding)
    if sample.is_whole and not text:
        raise ConfigurationError("The source is empty; it takes some rows to tell what they are.")
    if not text or text.find(b"\n") > MAX_RECORD_BYTES:
        raise ConfigurationError("The source's first line is longer than 1 MiB; is this a text file?")
    if objects.is_json(text):
        table = objects.table_of_lines(text, later)
    elif kind := likely_kind(text):
        raise ConfigurationError(f"The source is {kind}.")
    else:
        table = delimited.table_of(text, later)
    table = replace(table, encoding=encoding, doubts=[*([doubt] if doubt else []), *table.doubts])
    return table, SampledSource(stored)


def _dataset_name(name: str) -> str:
    """One that a schema may have, and that no data set has that comes with the package."""
    known = "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "._-" else "-" for letter in name)
    known = known.strip("._-")[:40] or "own"
    return f"{known}-own" if known.startswith(("movielens", "microlens")) else known


def _tried(source: Source, text: str) -> _Trial:
    """The schema is loaded as a file, and the rows by it, as `run` would. ConfigurationError if it cannot be."""
    dataset = _loaded(text)
    reader = open_reader(source, dataset, limit=_TRIED_ROWS, block_bytes=2 * MAX_RECORD_BYTES)
    rows = records = repeated = 0
    refused: Counter[str] = Counter()
    parts: list[Columns] = []
    try:
        while (block := reader.next()) is not None:
            if block.is_unended and parts:
                break  # the sample may end within a row
            chunk = reader.chunk(block)
            rows += chunk.accepted_rows
            records += chunk.accepted
            if chunk.accepted:
                repeated += chunk.accepted - len(chunk.last_of_each_key())
            refused.update(reject.code for reject in chunk.rejects)
            parts.append(chunk.columns.identity_alone())
    finally:
        reader.close()
    return _Trial(records, repeated, refused, _order_of(parts, rows))


def _loaded(text: str) -> Dataset:
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "schema.yaml"
            path.write_text(text, encoding="utf-8")
            return load_dataset(path)
    except OSError as error:
        raise LocalIOError(f"There is no room for a temporary file ({error.strerror}); set TMPDIR.") from error
    except ConfigurationError as error:
        reason = str(error).partition(" is wrong: ")[2] or str(error)
        raise ConfigurationError(f"No schema can be written for the source: {reason}") from error


def _order_of(parts: Sequence[Columns], rows: int) -> str:
    times = np.concatenate([part.times for part in parts]) if parts else np.empty(0, np.int64)
    owners = np.concatenate([part.owner[0] for part in parts]) if parts else np.empty(0, np.int64)
    if len(times) < 3:
        return "too few rows to tell"
    steps = np.diff(times)
    runs = 1 + int(np.count_nonzero(np.diff(owners)))
    by_user = runs == len(np.unique(owners)) and runs < rows
    if by_user and bool((steps[np.diff(owners) == 0] >= 0).all()):
        return "by user, and by time within each"
    by_time = "by time" if bool((steps >= 0).all()) else "by time, backwards" if bool((steps <= 0).all()) else ""
    return by_time or ("by user" if by_user else "neither by time nor by user")


def _possible_keys(rows: Sequence[Row]) -> list[str]:
    """Kept texts, by the names under which they are stored."""
    return [stored_name(row.keys) for row in rows if row.keys.get("x-keep") and row.keys["type"] == "string"]


def _said(row: Row, n: int) -> Row:
    if "x-key" not in row.keys:
        return row
    return replace(
        row, doubt=f"without x-key {n:,} of the records looked at would replace others of their user and time"
    )


def _doubts_of(trial: _Trial) -> list[str]:
    doubts = []
    if trial.refused:
        codes = ", ".join(f"{code} {n:,}" for code, n in trial.refused.most_common())
        doubts.append(f"{trial.refused.total():,} of the rows looked at would be refused: {codes}")
    if trial.repeated:
        doubts.append(
            f"{trial.repeated:,} of {trial.records:,} records have the user, item and time of another; "
            "of each such the last one counts"
        )
    return doubts


def _found(table: Table, roles: Roles, trial: _Trial) -> list[str]:
    encoding = "" if table.format == "parquet" else f", in {table.encoding.upper()}"
    found = [f"format: {table.what}{encoding}; {table.rows:,} rows looked at"]
    for role, profile in roles.by_role.items():
        place = next(place for place, column in enumerate(table.columns, 1) if column is profile.column)
        column = ".".join(profile.column.path) or profile.column.name or f"#{place}"
        is_list = role == "item" and profile.items is not None
        what = profile.time.words if role == "time" and profile.time else "lists" if is_list else f"{profile.holds}s"
        found.append(f"{role}: {column}, {what}")
    return [*found, f"order: {trial.order}"]
