"""Where the files of an inbox lie: a folder, or the objects below a prefix."""

import errno
import fcntl
import json
import os
import stat
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ingest_service.errors import ConfigurationError, LocalIOError, SourceNotFound
from ingest_service.runtime.durable import sync_folder
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.service.runs import Run, now
from ingest_service.sources.local import file_version, is_same_content, version_of
from ingest_service.sources.object_store import Address, errors_translated

if TYPE_CHECKING:
    from obstore import ObjectMeta

MARKER = ".loaded"
DONE = "done"  # the folder, or the prefix below the inbox's own, that loaded files are moved to


@dataclass(frozen=True, slots=True)
class File:
    """`version` tells it from an earlier one of its name; `changed_s` is when it came, on the place's own clock."""

    version: str
    changed_s: float


class Place(ABC):
    """Names are those of files right in the place: nothing below is looked at. All errors are IngestErrors."""

    @abstractmethod
    async def files(self) -> dict[str, File]:
        """The files by name."""

    @abstractmethod
    def source(self, name: str) -> str:
        """What a run is given to load it."""

    @abstractmethod
    async def move(self, name: str, version: str, to: str) -> bool:
        """Move the file to the place's `done`, if it is still this version of it. Whether it was."""

    async def is_being_written(self, name: str) -> bool:
        """Whether some program has the file open to write into it, as far as the place can tell."""
        return False

    async def bring_back(self, name: str, version: str, to: str) -> bool:
        """Undo a move of that version, if the file has changed since, and its name is free. Whether it was undone."""
        return False

    @abstractmethod
    async def mark(self, name: str, run: Run) -> None:
        """Put `NAME.loaded` beside the file."""

    @abstractmethod
    async def remove(self, name: str) -> None: ...


class FolderPlace(Place):
    """Links are passed over, for they may lead elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def files(self) -> dict[str, File]:
        return await finish_in_thread(self._files)

    def source(self, name: str) -> str:
        return str(self._folder / name)

    async def move(self, name: str, version: str, to: str) -> bool:
        return await finish_in_thread(self._move, name, version, to)

    async def is_being_written(self, name: str) -> bool:
        return await finish_in_thread(_is_being_written, self._folder / name)

    async def bring_back(self, name: str, version: str, to: str) -> bool:
        return await finish_in_thread(self._bring_back, name, version, to)

    async def mark(self, name: str, run: Run) -> None:
        await finish_in_thread(self._mark, name, run)

    async def remove(self, name: str) -> None:
        try:
            await finish_in_thread((self._folder / name).unlink, missing_ok=True)
        except OSError as error:
            raise LocalIOError(f"{self._folder / name} cannot be removed ({error.strerror}).") from error

    def _files(self) -> dict[str, File]:
        found = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    try:
                        about = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # gone since
                    if stat.S_ISREG(about.st_mode):
                        found[entry.name] = File(version_of(about), about.st_mtime)
        except OSError as error:
            raise LocalIOError(f"{self._folder} cannot be read ({error.strerror}); make it or give rights.") from error
        return found

    def _move(self, name: str, version: str, to: str) -> bool:
        done = self._folder / DONE
        try:
            done.mkdir(exist_ok=True)
            if file_version(self._folder / name) != version:
                return False
            (self._folder / name).rename(done / to)
            if not is_same_content(file_version(done / to), version):  # replaced between the two calls above
                _move_back(done / to, self._folder / name)
                return False
            sync_folder(done)
            sync_folder(self._folder)
        except OSError as error:
            raise LocalIOError(f"{self._folder / name} cannot be moved to {done} ({error.strerror}).") from error
        return True

    def _bring_back(self, name: str, version: str, to: str) -> bool:
        moved = self._folder / DONE / to
        try:
            if is_same_content(file_version(moved), version):
                return False
            _move_back(moved, self._folder / name)
            sync_folder(self._folder)
        except (SourceNotFound, FileExistsError):
            return False
        except OSError as error:
            raise LocalIOError(f"{moved} cannot be moved back to {self._folder} ({error.strerror}).") from error
        return True

    def _mark(self, name: str, run: Run) -> None:
        path = self._folder / f"{name}{MARKER}"
        temporary = path.with_name(f".{path.name}.part")
        try:
            temporary.write_text(_mark_text(run))
            temporary.rename(path)
            sync_folder(self._folder)
        except OSError as error:
            raise LocalIOError(f"{path} cannot be written ({error.strerror}).") from error


class PrefixPlace(Place):
    """Objects below a prefix, `/` being what ends it."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        address = Address.of(f"{self._url}/_")
        self._address = address
        self._prefix = address.path.removesuffix("_")
        self._store = address.store()

    async def files(self) -> dict[str, File]:
        import obstore

        with errors_translated(self._url):
            found = await obstore.list_with_delimiter_async(self._store, self._prefix)
        return {
            meta["path"].removeprefix(self._prefix): File(_version(meta), meta["last_modified"].timestamp())
            for meta in found["objects"]
            if meta["path"] != self._prefix
        }

    def source(self, name: str) -> str:
        return f"{self._url}/{quote(name)}"

    async def move(self, name: str, version: str, to: str) -> bool:
        """A copy, then a removal: stores know no renaming. A crash in between leaves both, and is made good."""
        import obstore

        path = self._prefix + name
        with errors_translated(self._url, "written"):
            if _version(await obstore.head_async(self._store, path)) != version:
                return False
            await obstore.copy_async(self._store, path, f"{self._prefix}{DONE}/{to}")
            if _version(await obstore.head_async(self._store, path)) != version:
                return False
        await self.remove(name)
        return True

    async def mark(self, name: str, run: Run) -> None:
        import obstore

        with errors_translated(self._url, "written"):
            await obstore.put_async(self._store, self._prefix + name + MARKER, _mark_text(run).encode())

    async def remove(self, name: str) -> None:
        import obstore

        with errors_translated(self._url, "written"):
            await obstore.delete_async(self._store, self._prefix + name)


def place_at(url: str) -> Place:
    """A folder, or a prefix such as s3://bucket/inbox/. ConfigurationError if it is neither."""
    scheme, mark, _ = url.partition("://")
    if mark and scheme not in ("s3", "gs"):
        raise ConfigurationError(f"An inbox cannot be at {scheme}://; name a folder, or an s3:// or gs:// prefix.")
    return PrefixPlace(url) if mark else FolderPlace(Path(url).resolve())


def _move_back(path: Path, to: Path) -> None:
    """FileExistsError where yet another file has come."""
    os.link(path, to)
    path.unlink()


def _is_being_written(path: Path) -> bool:
    """The kernel grants a lease for reading only on a file that nobody has open for writing."""
    if sys.platform != "linux":
        return False
    try:
        with path.open("rb") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:  # others say that the file system has no leases, or that the file is somebody else's
        return error.errno == errno.EAGAIN
    return False


def _version(meta: "ObjectMeta") -> str:
    return f"{meta['size']}-{meta['e_tag']}"


def _mark_text(run: Run) -> str:
    return json.dumps({"run": run.id, "at": now()}) + "\n"
