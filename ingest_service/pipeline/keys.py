"""The keys of a shard's rows, on disk, where rows of one key can differ: a later row wins, in whichever shard it is.

A worker knows nothing of the rows in other shards. So it notes the hash of each row's key with its offset, and once all
shards are loaded, the rows whose key is in two of them are written again, in their order (`together.py`).
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from ingest_service.errors import LocalIOError
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.mirror import Mirror
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.runtime import fault
from ingest_service.runtime.durable import sync_folder

fault.declare({"keys-written": "the keys of a shard's chunk are written, not yet synced"})

FILE_NAME = "keys.bin"


@dataclass(frozen=True, slots=True)
class Keys:
    """Of a chunk's rows: uint64[n] hashes of their keys, and int64[n] offsets. What follows it begins at `end`."""

    start: Position
    end: int
    hashes: NDArray[np.uint64]
    offsets: Ints


class KeyFile:
    """Takes the keys of chunks before these are offered to a sink. Blocks the caller; one call at a time."""

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        self._path = path
        self._mirror = mirror
        self._file: IO[bytes] | None = None

    @classmethod
    def of(cls, job: Job) -> Self | None:
        """That of a shard whose rows can have a key in common with others and say something else."""
        is_needed = job.shard is not None and not job.dataset.schema.follows_from_key
        return cls(job.folder / FILE_NAME, job.mirror) if is_needed else None

    def append(self, chunk: Chunk) -> None:
        """Wait until they are on disk. The keys of a chunk may be noted twice."""
        header = {"start": list(asdict(chunk.start).values()), "end": chunk.end.offset, "n": chunk.accepted}
        text = json.dumps(header).encode() + b"\n"
        hashes = chunk.columns.identity_hashes()
        part = b"".join((text, hashes.tobytes(), chunk.offsets.astype(np.int64).tobytes()))
        if self._mirror is not None:
            self._mirror.add(self._path, chunk.start.offset, part)
        try:
            file = self._file = self._file or self._opened(self._path)
            file.write(part)
            file.flush()
            fault.point("keys-written")
            os.fsync(file.fileno())
        except OSError as error:
            raise _failed(error) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self, path: Path) -> IO[bytes]:
        is_new = not path.exists()
        file = path.open("ab")
        whole = sum(n_bytes for n_bytes, _ in _parts(path))
        if whole < file.tell():
            file.truncate(whole)  # what a crash left of a part; its rows come again
        if is_new:
            sync_folder(path.parent)
        return file


def keys_in(path: Path) -> Iterator[Keys]:
    """What was noted, in no certain order and maybe twice; nothing where there is no file."""
    return (keys for _, keys in _parts(path))


def keys_of(job: Job) -> Iterator[Keys]:
    """What was noted of a shard, here and in what was brought."""
    path = job.folder / FILE_NAME
    return chain(keys_in(path), keys_in(_brought(path)))


def bring_keys(job: Job) -> None:
    """Have here what workers elsewhere have noted of a shard. Blocks."""
    if job.mirror is None:
        return
    path = job.folder / FILE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _brought(path).open("wb") as file:
            file.writelines(job.mirror.pieces(path))
    except OSError as error:
        raise _failed(error) from error


def _brought(path: Path) -> Path:
    return path.with_name(f"brought-{path.name}")


def _parts(path: Path) -> Iterator[tuple[int, Keys]]:
    """Each with its length on disk, up to one that is not whole."""
    try:
        with path.open("rb") as file:
            while (text := file.readline()).endswith(b"\n"):
                header = json.loads(text)
                n = header["n"]
                data = file.read(16 * n)
                if len(data) < 16 * n:
                    return
                hashes, offsets = np.frombuffer(data, np.uint64, n), np.frombuffer(data, np.int64, n, 8 * n)
                yield len(text) + len(data), Keys(Position(*header["start"]), header["end"], hashes, offsets)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LocalIOError(f"{path} cannot be read ({error.strerror}).") from error


def _failed(error: OSError) -> LocalIOError:
    return LocalIOError(f"The keys of a shard cannot be noted ({error.strerror}); make room or fix the state folder.")
