"""Checkpoints as files of a folder, for whoever keeps rows in files too, or wants them apart from the rows."""

import asyncio
import os
from pathlib import Path

from ingest_service.errors import LocalIOError
from ingest_service.runtime import fault
from ingest_service.runtime.durable import locked, sync_folder
from ingest_service.sinks.checkpoints import CheckpointStore

fault.declare(
    {
        "checkpoint-temporary": "a checkpoint file's temporary file is written, not synced",
        "checkpoint-synced": "the temporary file is synced, not renamed",
        "checkpoint-renamed": "it is renamed, the folder not synced",
        "checkpoint-folder-synced": "the folder is synced",
    }
)


class FileCheckpoints(CheckpointStore):
    """`<folder>/<stream>.<sink>.json`: temporary file, fsync, rename, fsync of the folder, under a lock."""

    def __init__(self, folder: Path, sink: str) -> None:
        self._folder = folder
        self._suffix = f".{sink.replace(':', '-')}.json"

    async def read(self, stream: str) -> str | None:
        return await asyncio.to_thread(self._read, stream)

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        return await asyncio.to_thread(self._swap, stream, old, new)

    async def streams(self) -> list[str]:
        found = await asyncio.to_thread(lambda: sorted(self._folder.glob(f"*{self._suffix}")))
        return [path.name.removesuffix(self._suffix) for path in found]

    def _read(self, stream: str) -> str | None:
        try:
            return self._path(stream).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LocalIOError(f"The checkpoint cannot be read ({error.strerror}).") from error

    def _swap(self, stream: str, old: str | None, new: str) -> bool:
        path = self._path(stream)
        temporary = path.with_suffix(".tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock"), path):
                if self._read(stream) != old:
                    return False
                with temporary.open("w", encoding="utf-8") as file:
                    file.write(new)
                    file.flush()
                    fault.point("checkpoint-temporary")
                    os.fsync(file.fileno())
                fault.point("checkpoint-synced")
                temporary.rename(path)
                fault.point("checkpoint-renamed")
                sync_folder(self._folder)
                fault.point("checkpoint-folder-synced")
                return True
        except OSError as error:
            raise LocalIOError(
                f"The checkpoint cannot be written ({error.strerror}); make room or name another folder."
            ) from error

    def _path(self, stream: str) -> Path:
        return self._folder / f"{stream}{self._suffix}"
