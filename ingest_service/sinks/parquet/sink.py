"""Parquet: interactions as files of a folder, divided by their time, for whoever reads tables rather than asks a store.

A file holds the rows of many chunks, so these wait in this process until they are enough, or for some seconds at most.
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID, uuid4

import numpy as np
from pydantic import Field

from ingest_service.errors import ConfigurationError
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.rows.schema import Schema
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.sinks.base import Finding, Sink, SinkOptions, Written
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.file_checkpoints import FileCheckpoints
from ingest_service.sinks.gathering import WAITING_S, Gathering, most_waiting
from ingest_service.sinks.parquet.folder import OWN, Folder, Piece
from ingest_service.sinks.parquet.tables import Partition, Rows, divided, shape_of
from ingest_service.sinks.sizes import Tally
from ingest_service.sinks.urls import parse_options

if TYPE_CHECKING:
    import polars as pl

_UNPLACED = "rows"  # the stream of rows of which nobody says where they stood
_FEW_ROWS = 10_000  # in a file: readers open many for little


class ParquetOptions(SinkOptions):
    partition: Partition = Field(Partition.MONTH, description="by what the folder is divided: day, month, year or none")


class ParquetSink(Sink[Rows]):
    """`parquet:///relative/folder` or `parquet:////absolute/folder`; the folder is made when missing."""

    scheme: ClassVar[str] = "parquet"
    is_prepared_whole: ClassVar[bool] = True
    most_waiting: ClassVar[int] = 1 << 21
    own_mb: ClassVar[int] = 140  # Arrow itself, and a row group as it is encoded
    is_fenced: ClassVar[bool] = True
    keeps_spans: ClassVar[bool] = True
    takes_parts: ClassVar[bool] = False  # its files are named by the stream, and one run's follow each other
    options: ParquetOptions

    def __init__(self, url: str) -> None:
        parts, options = parse_options(url, ParquetOptions)
        super().__init__(options, can_hang=False)
        path = unquote(parts.netloc + parts.path if parts.netloc else parts.path.removeprefix("/"))
        if not path:
            raise ConfigurationError("A Parquet URL has three slashes and a path: parquet:///interactions.")
        self._folder = Folder(Path(path))
        self.place = Place(server=os.path.realpath(path))
        self.checkpoints: CheckpointStore = FileCheckpoints(Path(path) / OWN, self.name)
        self._gathering = Gathering(
            self._store_together, most_waiting(self.most_waiting, options.rate), patience_s=WAITING_S
        )
        self._has_begun = False
        self._is_replay = True  # unless a stream's rows are told by where they stood
        self._n_files = self._n_rows = 0

    def hold_at_most(self, n_bytes: int) -> None:
        self._gathering.most_bytes = n_bytes

    async def open(self) -> None:
        try:
            import pyarrow.parquet  # (it costs time, and may be missing)
        except ImportError:
            raise ConfigurationError("Parquet needs pyarrow; install ingest-service[parquet].") from None
        # The pools of its own keep what was given back: 130 MB more at the peak.
        pyarrow.set_memory_pool(pyarrow.system_memory_pool())
        await finish_in_thread(self._folder.open)

    # --- writing ------------------------------------------------------------------------------------

    async def begin(self, stream: str, offset: int | None) -> None:
        await finish_in_thread(self._folder.begin, stream, offset)
        self._has_begun = True
        self._is_replay = offset is None

    def prepare(self, chunk: Chunk) -> Rows:
        return Rows.of(chunk, replayed=self._is_replay)

    async def write(self, chunk: Chunk, prepared: Rows) -> Written:
        if not prepared.n:
            return Written(0)
        if not self._has_begun:
            await self.begin(_UNPLACED, None)
        return Written(prepared.n, chunk.accepted - prepared.n, stored=await self._gathering.take(prepared))

    async def end(self) -> None:
        await self._gathering.hurry()

    async def _store_together(self, parts: Sequence[Rows]) -> None:
        n_rows = sum(part.n for part in parts)
        await self.rate.take(n_rows)
        span = None if self._is_replay else (min(part.start for part in parts), max(part.end for part in parts))
        by = self.options.partition

        def add() -> int:
            pieces = [Piece(folder, mine) for folder, mine in divided(parts, by)]
            self._folder.add(pieces, span, shape_of(parts[0].columns.schema), by.value)
            return len(pieces)

        self._n_files += await finish_in_thread(add)
        self._n_rows += n_rows
        self._warn_of_small_files()

    def _warn_of_small_files(self) -> None:
        is_usual = self._n_files <= 100 or self._n_rows >= self._n_files * _FEW_ROWS
        if is_usual or any("files" in warning for warning in self.warnings):
            return
        coarser = {Partition.DAY: "month", Partition.MONTH: "year"}.get(self.options.partition, "none")
        self.warnings.append(
            f"its files hold {self._n_rows // self._n_files:,} rows on average, since the source is in no order of "
            f"time; fewer and larger ones are faster to read: load into another folder with ?partition={coarser}"
        )

    async def assure(self) -> None:
        await finish_in_thread(self._folder.require_there)

    # --- looking ------------------------------------------------------------------------------------

    async def check(self, *, create: bool) -> list[Finding]:
        path = self._folder.path
        if not create and not path.exists():
            parent = next(one for one in path.absolute().parents if one.exists())
            is_ready = os.access(parent, os.W_OK | os.X_OK)
            detail = "will be made by the first run" if is_ready else f"cannot be made: {parent} may not be written"
            return [Finding(str(path), is_ready, detail)]
        await self.open()
        if not os.access(path, os.W_OK | os.X_OK):
            return [Finding(str(path), False, "may only be read; check its rights")]
        return [Finding(str(path), True, "can be written")]

    async def survey(self, columns: Columns) -> list[Finding]:
        what, by = f"folder {self._folder.path}", self.options.partition.value
        wrong = await finish_in_thread(lambda: self._folder.differs(shape_of(columns.schema), by))
        return [Finding(what, False, wrong)] if wrong else []

    def preview(self, columns: Columns) -> list[str]:
        from ingest_service.sinks.parquet.tables import table_of

        table = table_of(columns, np.arange(len(columns)))
        return [str(row) for row in table.drop_columns(["_offset"]).to_pylist()]

    # --- reading ------------------------------------------------------------------------------------

    def tally(self, prices: Path | None) -> Tally:
        from ingest_service.sinks.parquet.sizes import ParquetTally

        return ParquetTally(self.options.partition)

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.readback import all_expected

        return all_expected(frame, schema)

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.parquet.reading import stored_frame

        return await finish_in_thread(lambda: stored_frame(self._folder.listed(), users, schema))

    async def recent(self, user_id: UUID | str, limit: int) -> list[VideoInteraction]:
        """A user's newest interactions, newest first. All files are looked through."""
        return (await self.history(user_id, None, None))[: -limit - 1 : -1]

    async def history(
        self, user_id: UUID | str, since: datetime | None, until: datetime | None, limit: int | None = None
    ) -> list[VideoInteraction]:
        """A user's interactions in [since, until), oldest first. All files are looked through."""
        from ingest_service.sinks.parquet.reading import interactions_of

        found = await finish_in_thread(lambda: interactions_of(self._folder.listed(), str(user_id), since, until))
        return found[:limit]

    @asynccontextmanager
    async def scratch(self, url: str, folder: Path) -> AsyncIterator[str]:
        """A folder of its own in `folder`, which goes with it."""
        query = urlsplit(url).query
        yield f"parquet:///{quote(str((folder / uuid4().hex).resolve()))}" + (f"?{query}" if query else "")

    async def close(self) -> None:
        """There is nothing to release."""
