"""What features know at some places of a source, on disk beside its dead letters: `features-<offset>`.

It only saves time. A file that is gone, damaged or of other features counts as none, and the rows are read again; so
nothing waits until one is durable, and none is missed where the disk is full.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.chunk import Position

_VERSION: Final = 1
_KEPT: Final = 3  # the newest may be ahead of the checkpoint
_DIGEST_BYTES: Final = 16
_BEGIN: Final = "features-"


@dataclass(frozen=True, slots=True)
class KeptPast:
    """of: what tells these features of these rows from others. Blocks the caller."""

    folder: Path
    of: str

    def keep(self, at: Position, arrays: Mapping[str, NDArray[Any]]) -> None:
        """What is known of the rows before `at`."""
        told = {name: (array.dtype.str, len(array)) for name, array in arrays.items()}
        head = json.dumps({"version": _VERSION, "of": self.of, "at": asdict(at), "arrays": told}).encode() + b"\n"
        digest = blake2b(head, digest_size=_DIGEST_BYTES)
        new = self.folder / f"{_BEGIN}{at.offset}.{os.getpid()}.tmp"
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(head)
                for array in arrays.values():
                    digest.update(array.view(np.uint8).data)
                    file.write(array.view(np.uint8).data)
                file.write(digest.digest())
            new.rename(self.folder / f"{_BEGIN}{at.offset}")
        except OSError:
            with suppress(OSError):
                new.unlink(missing_ok=True)
        self._remove(self._offsets()[:-_KEPT])

    def newest(self, at: Position) -> Iterator[tuple[Position, dict[str, NDArray[Any]]]]:
        """Those that are not beyond `at`, from the last on."""
        for offset in reversed(self._offsets()):
            if offset <= at.offset:
                with suppress(OSError, ValueError, KeyError, TypeError):  # no such file, or none of ours
                    yield self._read(self.folder / f"{_BEGIN}{offset}")

    def remove_beyond(self, at: Position) -> None:
        """Whoever begins at `at` may find other rows there than those that they were made of.

        What a kill left half written goes, too: whoever is writing now then keeps nothing this time.
        """
        self._remove([offset for offset in self._offsets() if offset > at.offset])
        for path in self.folder.glob(f"{_BEGIN}*.tmp"):
            with suppress(OSError):
                path.unlink()

    def _read(self, path: Path) -> tuple[Position, dict[str, NDArray[Any]]]:
        with path.open("rb") as file:
            head = file.readline()
            digest = blake2b(head, digest_size=_DIGEST_BYTES)
            told = json.loads(head)
            if (told["version"], told["of"]) != (_VERSION, self.of):
                raise ValueError("of other features")
            n_bytes = sum(np.dtype(dtype).itemsize * n for dtype, n in told["arrays"].values())
            if len(head) + n_bytes + _DIGEST_BYTES != path.stat().st_size:
                raise ValueError("damaged")
            arrays = {}
            for name, (dtype, n) in told["arrays"].items():
                arrays[name] = np.fromfile(file, dtype, n)
                digest.update(arrays[name].view(np.uint8).data)
            if file.read() != digest.digest():
                raise ValueError("damaged")
        return Position(**told["at"]), arrays

    def _offsets(self) -> list[int]:
        names = (path.name.removeprefix(_BEGIN) for path in self.folder.glob(f"{_BEGIN}*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _remove(self, offsets: list[int]) -> None:
        for offset in offsets:
            with suppress(OSError):
                (self.folder / f"{_BEGIN}{offset}").unlink()
