"""A copy of the state folder in an object store, for workers that share no disk.

Of a file that only grows (dead letters, keys of shards) each piece becomes an object before it is added here, so what a
checkpoint relies on outlives the machine it was written on: URL/<the file, below the state folder>/<offset>-<hash>.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path

from ingest_service.runtime import fault
from ingest_service.sources.object_store import Address, delete, get_whole, put_whole, sizes_below

fault.declare({"mirrored": "a piece of the state folder is in the object store, not yet in the folder"})


@dataclass(frozen=True, slots=True)
class Mirror:
    """Of files in and below `root`. Blocks; errors are those of sources at URLs."""

    url: str
    root: Path

    def add(self, path: Path, at: int, piece: bytes) -> None:
        """Keep what is about to be added to a file. Twice the same piece is one.

        at: the offset of its first row in the source, by which pieces are read in order.
        """
        self._put(path, f"{at:020d}-{blake2b(piece, digest_size=8).hexdigest()}", piece)
        fault.point("mirrored")

    def pieces(self, path: Path) -> Iterator[bytes]:
        """All that was added to a file, by anyone, in order of offsets."""
        return (get_whole(self._address(path, name)) for name in self._names(path))

    def remove(self, path: Path, lines: Iterable[bytes]) -> None:
        """Take these lines out of a file's pieces."""
        gone = set(lines)
        for name in self._names(path):
            piece = get_whole(self._address(path, name))
            left = b"".join(line for line in piece.splitlines(keepends=True) if line not in gone)
            if not left:
                delete(self._address(path, name))
            elif left != piece:
                self._put(path, name, left)

    def set_aside(self, path: Path) -> None:
        """A new start: keep what there is of a file under another name."""
        names = self._names(path)
        if not names:
            return
        aside = next(one for n in count(1) if not self._names(one := path.with_name(f"{path.stem}.{n}{path.suffix}")))
        for name in names:
            self._put(aside, name, get_whole(self._address(path, name)))
        for name in names:
            delete(self._address(path, name))

    def folders_in(self, folder: Path) -> list[Path]:
        """The folders directly in this one that have files below them; a file is none."""
        names = {name.partition("/")[0] for name in sizes_below(self._address(folder, "-")) if name.count("/") > 1}
        return [folder / name for name in sorted(names)]

    def forget(self, folder: Path) -> None:
        """Remove all below a folder."""
        for name in sizes_below(self._address(folder, "-")):
            delete(self._address(folder, name))

    def _names(self, path: Path) -> list[str]:
        return sorted(name for name in sizes_below(self._address(path, "-")) if "/" not in name)

    def _put(self, path: Path, name: str, piece: bytes) -> None:
        put_whole(self._address(path, name), iter([piece]))

    def _address(self, path: Path, name: str) -> Address:
        below = path.absolute().relative_to(self.root.absolute()).as_posix()
        return Address.of("/".join((self.url.rstrip("/"), below, name)))
