"""Files that come into the folder of an inbox over HTTP: whole, under a name that no other file has, or not at all."""

import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ingest_service.config import InboxSettings
from ingest_service.errors import LocalIOError, UsageError
from ingest_service.runtime.durable import rename_new, sync_folder
from ingest_service.runtime.escaped import escaped
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.service.inbox import DONE_MARKER, is_taken
from ingest_service.service.places import DONE

MOST_AT_ONCE = 4
_WRITTEN_AT_ONCE = 1 << 20
_MOST_NAME_BYTES = 255 - len(DONE_MARKER)  # of what file systems take, with a marker behind it
_PARTS = ".upload-{}.part"  # inboxes pass over such names


class Uploads:
    """`most_bytes`: how long a file may be."""

    def __init__(self, inboxes: Sequence[InboxSettings], most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._inboxes = {one.name: one for one in inboxes if "://" not in one.url}
        self._at_work = 0

    def inboxes(self) -> list[dict[str, Any]]:
        """Those that files can be put into: the folders. Stores have uploads of their own."""
        return [{"name": one.name, "pattern": one.pattern} for one in self._inboxes.values()]

    def inbox(self, name: str) -> InboxSettings | None:
        return self._inboxes.get(name)

    async def put(self, inbox: InboxSettings, name: str, pieces: AsyncIterator[bytes]) -> int:
        """Write the file, and return its bytes once it is on disk under its name. What `pieces` raises leaves no file.

        UsageError for a name that the inbox would not load, FileExistsError for one that is taken, LocalIOError for a
        full disk and for too many at once.
        """
        refuse_name(inbox, name)
        if self._at_work >= MOST_AT_ONCE:
            raise LocalIOError(f"{MOST_AT_ONCE} files are being put into inboxes already; try again when one is done.")
        self._at_work += 1
        try:
            return await _put(Path(inbox.url), name, pieces, is_marked=inbox.complete == "done-marker")
        except FileExistsError:
            raise
        except OSError as error:
            raise LocalIOError(
                f"The file cannot be written into the inbox {inbox.name} ({error.strerror}); make room or give rights."
            ) from error
        finally:
            self._at_work -= 1

    def clear(self) -> None:
        """Remove what services that were killed left half-written. Blocks; what cannot be removed stays."""
        for inbox in self._inboxes.values():
            with suppress(OSError):
                for path in Path(inbox.url).glob(_PARTS.format("*")):
                    _remove_if_left(path)


def refuse_name(inbox: InboxSettings, name: str) -> None:
    """UsageError for a name that is no plain one, or that the inbox passes over: the file would never be loaded."""
    if "/" in name or "\\" in name or escaped(name) != name:
        raise UsageError("A file's name in an inbox has no slashes, backslashes and control characters; rename it.")
    if len(name.encode()) > _MOST_NAME_BYTES:
        raise UsageError(f"A file's name in an inbox has {_MOST_NAME_BYTES} bytes at most; shorten it.")
    if name == DONE or not is_taken(name, inbox.pattern):
        raise UsageError(
            f"The inbox {inbox.name} passes over files of that name; it takes {inbox.pattern}, but nothing that begins "
            "with a dot or ends in .part, .tmp, .done or .loaded."
        )


async def _put(folder: Path, name: str, pieces: AsyncIterator[bytes], *, is_marked: bool) -> int:
    if await finish_in_thread(os.path.lexists, folder / name):
        raise FileExistsError(name)
    part = await finish_in_thread(_Part, folder)
    try:
        gathered = bytearray()
        async for piece in pieces:
            gathered += piece
            if len(gathered) >= _WRITTEN_AT_ONCE:
                await finish_in_thread(part.write, bytes(gathered))
                gathered.clear()
        await finish_in_thread(part.write, bytes(gathered))
        await finish_in_thread(part.keep_as, name)
        if is_marked:
            await finish_in_thread(_mark, folder / f"{name}{DONE_MARKER}")
        return part.size
    finally:
        await finish_in_thread(part.close)


class _Part:
    """A file without its name yet, locked as long as somebody writes it. Blocks; all raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self._path = folder / _PARTS.format(secrets.token_hex(8))
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # of file systems that have no locks, where `clear` gets none either
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]
        self.size += len(data)

    def keep_as(self, name: str) -> None:
        os.fsync(self._fd)
        rename_new(self._path, self._path.with_name(name))
        sync_folder(self._path.parent)

    def close(self) -> None:
        """What has no name by now is removed."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _mark(path: Path) -> None:
    """Say that the file is whole; a marker that is there was about an earlier file of that name."""
    path.touch()
    sync_folder(path.parent)


def _remove_if_left(path: Path) -> None:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
