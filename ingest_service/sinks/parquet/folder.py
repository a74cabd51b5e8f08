"""A folder of Parquet files that a killed load leaves whole: each has a span of one stream, and is there or not.

    month=2020-03/<stream>-<from>-<to>.parquet    rows that stood at [from, to) of the stream
    _ingest/manifests/<stream>.json               which files are the stream's, and who may add to them
    _ingest/table.json                            what the files hold, and how they are divided
    _ingest/<stream>.<sink>.json                  the checkpoint

A file is written under another name, synced and renamed; then the manifest names it, and then a checkpoint may say so.
So files beyond the watermark, whether a manifest names them or not, are what a killed run has left: the next one takes
them away before it writes these rows again, and cuts those that the watermark lies in. The manifest is the fence, too:
files are renamed under a lock by whom it names as the writer, so a runner that slept too long adds nothing any more.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest_service.errors import ConfigurationError, LeaseHeld, LocalIOError, RowsGone
from ingest_service.runtime import fault
from ingest_service.runtime.durable import locked, sync_folder
from ingest_service.sinks.parquet.tables import GROUP_ROWS, OFFSET, SOURCE, Rows, in_groups, write_groups

if TYPE_CHECKING:
    import pyarrow as pa

fault.declare(
    {
        "parquet-begun": "what a killed run left is out of the manifest, and still in the folder",
        "parquet-written": "a file is written under another name",
        "parquet-renamed": "a file has its name, the manifest does not know it",
        "parquet-listed": "the manifest names all files of these rows, none is settled",
    }
)

OWN = "_ingest"
_WRITERS = 2  # files written at once
_TOLD_APART = re.compile(r"(\d{15,}-\d{15,}|[0-9a-f]{32})\.parquet")  # the files of a stream


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in the manifest. Without a span: rows that were replayed."""

    path: str
    start: int | None
    end: int | None
    rows: int
    bytes: int

    def is_before(self, offset: int) -> bool:
        """What was replayed is, unless the stream begins anew."""
        return offset > 0 if self.end is None else self.end <= offset

    def has(self, offset: int) -> bool:
        return self.start is not None and self.end is not None and self.start < offset < self.end


@dataclass(frozen=True, slots=True)
class Piece:
    """What becomes one file, in the folder of its partition."""

    folder: str
    parts: Sequence[Rows]


class Folder:
    """Blocks the caller. `begin` comes before `add`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = path / OWN
        self._identity: tuple[int, int] | None = None
        self._stream = ""
        self._writer = uuid.uuid4().hex
        self._entries: dict[str, Entry] = {}  # by path

    def open(self) -> None:
        """Make what is missing of it. ConfigurationError if it is no folder of ours, or cannot be written."""
        with self._translated():
            if not self._own.is_dir() and any(self.path.glob("**/*.parquet")):
                raise ConfigurationError(
                    f"{self.path} has Parquet files that are not of this program; name an empty folder, or a new one."
                )
            self._manifests.mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir(exist_ok=True)
            found = self.path.stat()
            self._identity = found.st_dev, found.st_ino

    @property
    def _manifests(self) -> Path:
        return self._own / "manifests"

    @property
    def _lock(self) -> Path:
        return self._own / "lock"

    @property
    def _temporary(self) -> Path:
        return self._own / "temporary"

    def require_there(self) -> None:
        """RowsGone if the folder was removed or replaced since it was opened."""
        try:
            found = self.path.stat()
            if (found.st_dev, found.st_ino) == self._identity and self._manifests.is_dir():
                return
        except FileNotFoundError:
            pass
        raise RowsGone(
            f"{self.path} was deleted or replaced while it was in use, so rows are gone; keep others from doing so, "
            "and run the same command again."
        )

    # --- one stream ---------------------------------------------------------------------------------

    def begin(self, stream: str, offset: int | None) -> None:
        """Become the one who adds to a stream's files, and take away what is there from `offset` on, if it is given.

        RowsGone if a file that the rows before are in is not there any more.
        """
        self._stream = stream
        with self._translated(), locked(self._lock, self._lock):
            found = self._listed(stream)
            kept, new = found, list[Entry]()
            if offset is not None:
                kept = [one for one in found if one.is_before(offset)]
                cut = [one for one in found if one.has(offset)]
                self._require_files([*kept, *cut])
                new = [self._cut(one, offset) for one in cut]
            self._entries = {one.path: one for one in (*kept, *new)}
            self._save()
            fault.point("parquet-begun")
            if offset is not None:
                self._remove_others()

    def _require_files(self, entries: Sequence[Entry]) -> None:
        gone = [one.path for one in entries if not self._is_there(one)]
        if gone:
            raise RowsGone(
                f"{len(gone)} of the files that the manifest of {self._stream} names are gone or of another length, "
                f"so rows are gone, in {gone[0]} first; restore them, or use --restart to load the source again."
            )

    def _is_there(self, entry: Entry) -> bool:
        try:
            return (self.path / entry.path).stat().st_size == entry.bytes
        except FileNotFoundError:
            return False

    def _cut(self, entry: Entry, offset: int) -> Entry:
        """The rows of a file that stood before an offset, as a file of their own, which may be empty."""
        import pyarrow.parquet as parquet

        path = self.path / entry.path
        table = parquet.read_table(path, partitioning=None, filters=[(OFFSET, "<", offset)])
        assert entry.start is not None
        temporary, name = self._written(iter((table,))), self._name(entry.start, offset)
        return self._renamed(temporary, path.parent, name, (entry.start, offset), len(table))

    def _remove_others(self) -> None:
        """All files of the stream that its manifest does not name, and what was never finished."""
        named = {self.path / path for path in self._entries}
        for path in self.path.glob(f"**/{escape(self._stream)}-*.parquet"):
            if path not in named and self._is_of_stream(path.name):
                path.unlink(missing_ok=True)
        for path in self._temporary.glob(f"{escape(self._stream)}-*"):
            path.unlink(missing_ok=True)

    def _is_of_stream(self, name: str) -> bool:
        """Another stream's name may begin like this one's."""
        return _TOLD_APART.fullmatch(name.removeprefix(f"{self._stream}-")) is not None

    # --- adding -------------------------------------------------------------------------------------

    def add(self, pieces: Sequence[Piece], span: tuple[int, int] | None, shape: Mapping[str, str], by: str) -> None:
        """Files with the rows of a span, all of them, or of none: then they are replayed."""
        with self._translated():
            with ThreadPoolExecutor(_WRITERS) as threads:  # Arrow encodes without the interpreter's lock
                written = list(threads.map(lambda piece: (piece, self._written(self._tables(piece))), pieces))
            with locked(self._lock, self._lock):
                self._require_writer()
                self._require_shape(shape, by)
                for piece, temporary in written:
                    name = self._name(*span) if span else f"{self._stream}-{_digest(temporary)}.parquet"
                    n_rows = sum(part.n for part in piece.parts)
                    entry = self._renamed(temporary, self.path / piece.folder, name, span, n_rows)
                    self._entries[entry.path] = entry
                self._save()
            fault.point("parquet-listed")

    def _tables(self, piece: Piece) -> "Iterator[pa.Table]":
        import pyarrow as pa

        for table in in_groups(piece.parts, GROUP_ROWS):
            yield table.add_column(0, SOURCE, pa.repeat(self._stream, len(table)))

    def _name(self, start: int, end: int) -> str:
        return f"{self._stream}-{start:015d}-{end:015d}.parquet"

    def _written(self, tables: "Iterator[pa.Table]") -> Path:
        """A whole file under a name that no reader looks at, durable but for its name."""
        path = self._temporary / f"{self._stream}-{uuid.uuid4().hex}"
        write_groups(path, tables)
        fault.point("parquet-written")
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return path

    def _renamed(self, temporary: Path, folder: Path, name: str, span: tuple[int, int] | None, rows: int) -> Entry:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            sync_folder(folder.parent)
        path = folder / name
        size = temporary.stat().st_size
        temporary.rename(path)
        fault.point("parquet-renamed")
        sync_folder(folder)
        start, end = span or (None, None)
        return Entry(str(path.relative_to(self.path)), start, end, rows, size)

    # --- the manifest -------------------------------------------------------------------------------

    def listed(self) -> list[Path]:
        """The files that the manifests of all streams name, as far as they are there."""
        with self._translated():
            manifests = sorted(self._manifests.glob("*.json"))
            found = [one for path in manifests for one in self._listed(path.name.removesuffix(".json"))]
            return [path for path in (self.path / one.path for one in found) if path.exists()]

    def _listed(self, stream: str) -> list[Entry]:
        return [Entry(**one) for one in self._manifest(stream).get("files", [])]

    def _manifest(self, stream: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._manifests / f"{stream}.json").read_text())
            return found
        except FileNotFoundError:
            return {}
        except ValueError:
            raise ConfigurationError(
                f"The manifest of {stream} in {self._manifests} is damaged; restore it, or load into another folder."
            ) from None

    def _require_writer(self) -> None:
        if self._manifest(self._stream).get("writer") != self._writer:
            raise LeaseHeld(f"Another runner has taken {self._stream} over in {self.path}; this one stopped writing.")

    def _save(self) -> None:
        content = {"writer": self._writer, "files": [asdict(one) for one in self._entries.values()]}
        _replace(self._manifests / f"{self._stream}.json", json.dumps(content, separators=(",", ":")))

    def _require_shape(self, shape: Mapping[str, str], by: str) -> None:
        """Note what the first files hold; ConfigurationError if these would not be like them."""
        wrong = self.differs(shape, by)
        if wrong:
            raise ConfigurationError(f"{self.path} {wrong}")
        if not self._shape_file.exists():
            _replace(self._shape_file, json.dumps({"columns": dict(shape), "partition": by}))

    def differs(self, shape: Mapping[str, str], by: str) -> str:
        """What keeps files of this shape out of the folder, if anything does."""
        try:
            found = json.loads(self._shape_file.read_text())
        except FileNotFoundError:
            return ""
        if found["columns"] != dict(shape):
            names = ", ".join(sorted(set(found["columns"].items()) ^ set(shape.items()), key=str)[0])
            return f"holds records with other columns or types (the first is {names}); load into another folder."
        if found["partition"] != by:
            return f"is divided by {found['partition']}, not by {by}; load with ?partition={found['partition']}."
        return ""

    @property
    def _shape_file(self) -> Path:
        return self._own / "table.json"

    # --- faults -------------------------------------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._identity is not None:
                self.require_there()
            raise ConfigurationError(f"{self.path} cannot be used: {error.strerror}; name another folder.") from error
        except PermissionError as error:
            raise ConfigurationError(
                f"{self.path} may not be written ({error.strerror}); check its rights, or name another folder."
            ) from error
        except OSError as error:
            raise LocalIOError(
                f"{self.path} cannot be written ({error.strerror or error}); make room or name another folder."
            ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _replace(path: Path, text: str) -> None:
    """A text file's content, whole and durable, or as it was."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)
