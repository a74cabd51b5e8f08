"""Dead letters for the API: which streams have some, and a page of them. Everything blocks."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingest_service.errors import LocalIOError
from ingest_service.pipeline import dead_letter

_STREAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_PAGE_BYTES = 4 << 20


@dataclass(slots=True)
class Letters:
    """The dead letters below a state folder. How many a file has is counted when it has changed."""

    folder: Path
    _counted: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = field(default_factory=dict)

    def streams(self) -> list[dict[str, Any]]:
        """Those that have letters."""
        paths = sorted(self.folder.glob(f"*/{dead_letter.FILE_NAME}"))
        self._counted = {path: known for path, known in self._counted.items() if path in paths}
        return [about for path in paths if (about := self._about(path))["letters"]]

    def path(self, stream: str) -> Path | None:
        """The file of a stream, if it has one."""
        path = self.folder / stream / dead_letter.FILE_NAME
        return path if _STREAM.fullmatch(stream) and path.is_file() else None

    def _about(self, path: Path) -> dict[str, Any]:
        try:
            found = path.stat()
            version = (found.st_size, found.st_mtime_ns)
            known = self._counted.get(path)
            if known is None or known[0] != version:
                with path.open("rb") as file:
                    source = _source(file.readline())
                    lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
                about = {
                    "stream": path.parent.name,
                    "source": source,
                    "letters": lines + (source is not None),
                    "bytes": found.st_size,
                }
                known = self._counted[path] = (version, about)
        except OSError:  # gone since
            return {"letters": 0}
        return known[1]


def page(path: Path, offset: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
    """Letters from a byte offset on, and where the next ones are. A replay may have moved them meanwhile."""
    letters: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:
            if offset:
                file.seek(offset - 1)
                file.readline()  # to the next line's start, where this is none
            start = file.tell()
            while len(letters) < limit and file.tell() - start < _PAGE_BYTES:
                line = file.readline()
                if not line.endswith(b"\n"):
                    return letters, None  # the end, or one that is being written
                letters.append(_with_id(json.loads(line)))
            end = file.tell()
            return letters, end if file.read(1) else None
    except (OSError, ValueError) as error:
        raise LocalIOError(f"The dead letters cannot be read ({type(error).__name__}); repair the file.") from error


def _with_id(letter: Any) -> dict[str, Any]:
    """None where it was broken by whoever edited it: it can be looked at, and not be chosen. ValueError: no object."""
    if not isinstance(letter, dict):
        raise ValueError("no object")
    try:
        return {**letter, "id": dead_letter.id_of(letter)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {**letter, "id": None}


def _source(line: bytes) -> str | None:
    try:
        source = json.loads(line)["source"]
    except (ValueError, KeyError, TypeError):
        return None
    return source if isinstance(source, str) else None
