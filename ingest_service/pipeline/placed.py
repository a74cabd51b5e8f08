"""Checkpoints that belong to a place: one store of them may serve several tables, collections, databases or files.

Version 0.1 kept a stream's checkpoint under the stream's name alone, so a second table found the first one's. Now the
name holds the place. What is there by an earlier name is gone on with, where it is, if it is about this place; else it
is left to its own.
"""

import asyncio
from hashlib import blake2b
from pathlib import Path

from ingest_service.errors import CheckpointDamaged, ConfigurationError
from ingest_service.pipeline.checkpoint import Checkpoint, decode
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.checkpoints import EPOCH, CheckpointStore, Place
from ingest_service.sinks.file_checkpoints import FileCheckpoints

_MARK = "@"  # between stream and place; no stream's name has it


def is_apart(sink: AnySink, folder: Path | None) -> bool:
    """Whether a checkpoint could outlive the rows that it is about."""
    return folder is not None or sink.is_apart


def checkpoints_of(sink: AnySink, folder: Path | None) -> CheckpointStore:
    """The checkpoints of an open sink's place, which are in `folder` if it is given."""
    store = sink.checkpoints if folder is None else FileCheckpoints(folder, sink.name)
    if sink.place == Place() or (folder is None and not sink.place.name):
        return store  # it serves no other place
    return PlacedCheckpoints(store, sink, is_shared_by_servers=folder is not None)


class PlacedCheckpoints(CheckpointStore):
    """Those of the place where a sink's rows are, by stream, whatever they are called in the store beneath.

    Beside its rows a store serves one server, so there the place's name tells it from others; in a folder it is the
    server, too. Since a server may get another name, an equal epoch is taken for the same place there.
    """

    def __init__(self, store: CheckpointStore, sink: AnySink, *, is_shared_by_servers: bool) -> None:
        self._store = store
        self._sink = sink
        self._place = sink.place
        self._is_shared_by_servers = is_shared_by_servers
        text = f"{self._place.name}\n{self._place.server}" if is_shared_by_servers else self._place.name
        self._digest = blake2b(text.encode(), digest_size=8).hexdigest()
        self._keys: dict[str, str] = {}  # what a stream's checkpoint is called, once that was found out

    async def read(self, stream: str) -> str | None:
        return await self._store.read(await self._key(stream))

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        return await self._store.swap(await self._key(stream), old, new)

    async def streams(self) -> list[str]:
        found = set()
        for key in await self._store.streams():
            stream, _, digest = key.partition(_MARK)
            if digest == self._digest or (key != EPOCH and await self._is_of_here(key)):
                found.add(stream)
        return sorted(found)

    async def _key(self, stream: str) -> str:
        if stream not in self._keys:
            self._keys[stream] = await self._found_key(stream)
        return self._keys[stream]

    async def _found_key(self, stream: str) -> str:
        own = f"{stream}{_MARK}{self._digest}"
        if await self._store.read(own) is not None:
            return own
        others = [stream]
        if self._is_shared_by_servers:
            others += [key for key in await self._store.streams() if key.startswith(f"{stream}{_MARK}")]
        for key in others:
            if await self._is_of_here(key):
                return key
        return own

    async def _is_of_here(self, key: str) -> bool:
        """Whether there is a checkpoint of this place by that name, which is not the place's own."""
        stream, mark, _ = key.partition(_MARK)
        if mark and not self._is_shared_by_servers:
            return False
        text = await self._store.read(key)
        if text is None:
            return False
        try:
            found = decode(text, stream, self._sink.name)
        except CheckpointDamaged:
            return not mark  # whose it is, nobody knows: it is told of wherever it may be missed
        return await self._is_about_here(found)

    async def _is_about_here(self, found: Checkpoint) -> bool:
        if found.place is None:
            return not found.epoch or found.epoch == await self._sink.epoch()
        if found.place.name != self._place.name:
            return False
        if not self._is_shared_by_servers or found.place.server == self._place.server:
            return True
        is_copy = await asyncio.to_thread(found.place.is_still_there)
        return not is_copy and found.epoch == await self._sink.epoch()


async def checkpoint_if_any(stream: str, sink: AnySink, store: CheckpointStore) -> Checkpoint | None:
    """The checkpoint of a stream in an open sink, if there is one. CheckpointDamaged."""
    text = await store.read(stream)
    return None if text is None else decode(text, stream, sink.name)


async def checkpoint_of(stream: str, sink: AnySink, store: CheckpointStore) -> Checkpoint:
    """The checkpoint of a stream in an open sink. ConfigurationError if there is none or it is damaged."""
    found = await checkpoint_if_any(stream, sink, store)
    if found is None:
        raise ConfigurationError(
            f"{sink.name} has no checkpoint of {stream}; load the source first, or say where with --checkpoint."
        )
    return found
