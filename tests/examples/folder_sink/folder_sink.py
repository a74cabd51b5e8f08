"""A sink of one's own: a folder with a JSON file for each user, `folder:///path`."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote
from uuid import UUID

import polars as pl

from ingest_service import VideoInteraction
from ingest_service.errors import ConfigurationError
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Schema
from ingest_service.runtime.durable import sync_folder
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.sinks.base import Finding, Sink, SinkOptions, Written
from ingest_service.sinks.fields import EVENT_KEY, field_texts
from ingest_service.sinks.file_checkpoints import FileCheckpoints
from ingest_service.sinks.readback import STORED_SCHEMA, all_expected, value_text
from ingest_service.sinks.urls import parse_options

Record: TypeAlias = dict[str, Any]
ByUser: TypeAlias = dict[str, dict[str, Record]]  # each user's records by their key


class FolderSink(Sink[ByUser]):
    """Each file is read, changed and replaced as a whole, so a write can be repeated."""

    scheme = "folder"
    is_prepared_whole = True  # `write` needs nothing of the chunk's columns any more

    def __init__(self, url: str) -> None:
        parts, options = parse_options(url, SinkOptions)
        super().__init__(options, can_hang=False)
        self.path = Path(unquote(parts.path.removeprefix("/")))
        self.checkpoints = FileCheckpoints(self.path / "checkpoints", self.name)
        self._writing = asyncio.Lock()  # chunks may come side by side, and share users

    # --- what every sink does ---------------------------------------------------------------------

    async def open(self) -> None:
        try:
            await asyncio.to_thread(self.path.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"The folder {self.path} cannot be made: {error.strerror}.") from error

    def prepare(self, chunk: Chunk) -> ByUser:
        """In a thread, while the chunk before is being written. Of rows with one key the last one counts."""
        return _by_user(chunk.columns.take(chunk.last_of_each_key()))

    async def write(self, chunk: Chunk, prepared: ByUser) -> Written:
        n_rows = sum(map(len, prepared.values()))
        await self.rate.take(n_rows)
        async with self._writing:  # kept till the thread has ended, which no cancellation ends
            await finish_in_thread(self._add, prepared)
        self.retrier.progressed()
        return Written(n_rows, merged=chunk.accepted - n_rows)

    async def close(self) -> None:
        """There is nothing to release."""

    # --- what it can do beside that ---------------------------------------------------------------

    async def check(self, *, create: bool) -> list[Finding]:
        await self.open()
        return [Finding(str(self.path), os.access(self.path, os.W_OK), "a folder that can be written")]

    async def remove(self, columns: Columns) -> None:
        async with self._writing:
            await finish_in_thread(self._take_out, _by_user(columns))

    def expected(self, frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
        return all_expected(frame, schema)

    async def stored(self, users: Sequence[str], schema: Schema) -> pl.DataFrame:
        def read() -> list[tuple[str, str, str]]:
            found = ((user, key, record) for user in users for key, record in self._records(user).items())
            return [(user, key, value_text(schema, record)) for user, key, record in found]

        return pl.DataFrame(await asyncio.to_thread(read), schema=STORED_SCHEMA, orient="row")

    async def recent(self, user_id: UUID | str, limit: int) -> list[VideoInteraction]:
        records = await asyncio.to_thread(self._records, str(user_id))
        newest = [records[key] for key in sorted(records, reverse=True)[:limit]]
        return [VideoInteraction.model_validate({"user_id": str(user_id), **record}) for record in newest]

    # --- the folder -------------------------------------------------------------------------------

    def _file(self, user: str) -> Path:
        return self.path / f"{user}.json"

    def _records(self, user: str) -> dict[str, Record]:
        try:
            records: dict[str, Record] = json.loads(self._file(user).read_bytes())
        except FileNotFoundError:
            return {}
        return records

    def _add(self, by_user: ByUser) -> None:
        for user, records in by_user.items():
            self._replace(user, self._records(user) | records)
        sync_folder(self.path)

    def _take_out(self, by_user: ByUser) -> None:
        for user, records in by_user.items():
            self._replace(user, {key: one for key, one in self._records(user).items() if key not in records})
        sync_folder(self.path)

    def _replace(self, user: str, records: dict[str, Record]) -> None:
        new = self._file(user).with_suffix(".new")
        with new.open("w") as file:
            json.dump(records, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._file(user))


def _by_user(columns: Columns) -> ByUser:
    schema = columns.schema
    fields = {name: texts.to_list() for name, texts in field_texts(columns).items()}
    fields |= {name: columns.numbers[name].tolist() for name in schema.numbers}
    found: ByUser = {}
    for values in zip(*fields.values(), strict=True):
        record = dict(zip(fields, values, strict=True))
        found.setdefault(record.pop(schema.owner), {})[record.pop(EVENT_KEY)] = record
    return found
