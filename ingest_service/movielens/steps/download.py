"""The archive, from where it is published into the bucket, where it is seen only when it is whole and right."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import Any

from ingest_service.config import Settings
from ingest_service.errors import LocalIOError, Stopped
from ingest_service.movielens.places import archive_address
from ingest_service.movielens.settings import MovieLensSettings
from ingest_service.runtime.tasks import interrupt_in_thread
from ingest_service.sources.object_file import ObjectFile
from ingest_service.sources.object_store import Address, exists, put_whole
from ingest_service.telemetry.show import Show, Step

_PIECE_BYTES = 1 << 20
_TAIL_BYTES = 1 << 20  # MovieLens archives have a directory of a few hundred bytes


@dataclass(frozen=True, slots=True)
class Downloaded:
    """`size` and `sha256` are None where the archive was there already."""

    archive: str
    was_there: bool
    size: int | None = None
    sha256: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {"archive": self.archive, "was_there": self.was_there, "bytes": self.size, "sha256": self.sha256}


async def download(settings: Settings, show: Show | None = None) -> Downloaded:
    """Copy MOVIELENS_URL into the bucket unless it is there. LocalIOError if what came is no whole, right archive."""
    return await interrupt_in_thread(_download, MovieLensSettings.of(settings), show or Show())


def _download(interrupted: Event, settings: MovieLensSettings, show: Show) -> Downloaded:
    target = archive_address(settings)
    if exists(target):
        return Downloaded(target.uri, was_there=True)
    source = Address.of(settings.movielens_url)
    with ObjectFile(source) as file, show.step("download", file.size, "bytes") as step:
        digest = hashlib.sha256()
        pieces = _pieces(file, step, interrupted)
        put_whole(target, _checked(pieces, file.size, source.uri, digest, settings.movielens_sha256))
        return Downloaded(target.uri, False, file.size, digest.hexdigest())


def _pieces(file: ObjectFile, step: Step, interrupted: Event) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        if interrupted.is_set():
            raise Stopped.on_request()
        yield piece
        step.advance(len(piece))


def _checked(pieces: Iterator[bytes], expected: int, name: str, digest: Any, wanted: str) -> Iterator[bytes]:
    """The same bytes. Whatever is wrong with them is raised before the last of them counts as written."""
    tail = b""
    size = 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
        tail = (tail + piece)[-_TAIL_BYTES:]
        yield piece
    if size != expected:
        raise LocalIOError(f"{name} broke off after {size} of {expected} bytes; run again.")
    if wanted and digest.hexdigest() != wanted.lower():
        raise LocalIOError(
            f"{name} has the SHA-256 {digest.hexdigest()}, not the one that was given; nothing was stored."
        )
    try:
        with zipfile.ZipFile(_Tail(tail, size)) as archive:
            if not archive.namelist():
                raise zipfile.BadZipFile
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise LocalIOError(f"{name} is not a zip archive; check MOVIELENS_URL. Nothing was stored.") from error


class _Tail(io.BytesIO):
    """The end of a file, at the positions that it has there; what comes before reads as zeros."""

    def __init__(self, tail: bytes, size: int) -> None:
        super().__init__(tail)
        self._before = size - len(tail)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            if offset < self._before:
                raise OSError("before what is kept")
            offset -= self._before
        return super().seek(offset, whence) + self._before

    def tell(self) -> int:
        return super().tell() + self._before
