"""Where an export goes: a folder here or a prefix of S3, its own from the first object to the last."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ingest_service.errors import ConfigurationError
from ingest_service.sources.object_store import Address, address_of, get_whole, put_whole, sizes_below

PLAN, MANIFEST = "export.json", "manifest.json"  # not below data/: all that is there is imported
_OURS: Final = re.compile(r"data/\d+\.json\.gz|export\.json|manifest\.json")
_UNFINISHED: Final = re.compile(r"((data/)?\.[^/]+\.part)?")  # of a kill; and the folder itself, as consoles make it
_LEVEL: Final = 2


class ExportPlace:
    """`s3://bucket/prefix/` or a folder. ConfigurationError for what neither is."""

    def __init__(self, into: str) -> None:
        bucket = urlsplit(into).netloc if into.startswith("s3://") else ""
        if "://" in into and (not bucket or "@" in bucket):  # before which a secret may stand
            raise ConfigurationError("DynamoDB imports from S3; name s3://bucket/prefix/ or a folder with --into.")
        if "://" not in into and Path(into).exists() and not Path(into).is_dir():
            raise ConfigurationError(f"{into} is no folder; name one, or s3://bucket/prefix/, with --into.")
        self._base = into.rstrip("/") + "/"
        self._names = frozenset[str]()

    @property
    def bucket(self) -> str:
        """ "" of a folder."""
        return urlsplit(self._base).netloc if "://" in self._base else ""

    @property
    def prefix(self) -> str:
        """What is to be imported, in its bucket."""
        return self._at("data/x").path.removesuffix("x")

    def begun(self) -> dict[str, Any] | None:
        """What an earlier export has begun here. ConfigurationError if somebody else's objects are here."""
        self._names = frozenset(name for name in sizes_below(self._at(PLAN)) if not _UNFINISHED.fullmatch(name))
        strange = [name for name in self._names if PLAN not in self._names or not _OURS.fullmatch(name)]
        if strange:
            raise ConfigurationError(
                f"{self._base} holds what is no export of this program, {min(strange)!r} for one; name an empty place "
                "with --into."
            )
        return self._plan() if PLAN in self._names else None

    def begin(self, plan: dict[str, Any], begun: dict[str, Any] | None) -> None:
        """Say what is going to be here, before it is. ConfigurationError if another export was begun here."""
        if begun is None:
            self._put(PLAN, json.dumps(plan).encode())
        elif begun != plan:
            raise ConfigurationError(
                f"{self._base} holds the export of other records, or of these with other options; name another place "
                "with --into."
            )

    def keep(self, name: str, lines: Iterator[bytes]) -> bool:
        """One file, seen only when it is whole; whether it had to be written. All lines are taken either way."""
        if name in self._names:
            for _ in lines:
                pass
            return False
        put_whole(self._at(name), _gzipped(lines))
        return True

    def finish(self, plan: dict[str, Any], files: dict[str, dict[str, int]]) -> int:
        """The manifest, last; returns the bytes of all files. ConfigurationError if other objects came meanwhile."""
        sizes = sizes_below(self._at(PLAN))
        data = {name: size for name, size in sizes.items() if name.startswith("data/")}
        if data.keys() != files.keys() or self._plan() != plan:
            raise ConfigurationError(
                f"Something else wrote into {self._base} during the export; export again into a place of its own."
            )
        self._put(MANIFEST, json.dumps({**plan, "files": files}, indent=1).encode())
        return sum(data.values())

    def _plan(self) -> dict[str, Any]:
        try:
            found = json.loads(get_whole(self._at(PLAN)))
        except ValueError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("rows_expected"), int):
            raise ConfigurationError(f"{self._base}{PLAN} was not written by this program; name another place.")
        return found

    def _put(self, name: str, text: bytes) -> None:
        put_whole(self._at(name), iter([text]))

    def _at(self, name: str) -> Address:
        return address_of(self._base + name)


def _gzipped(lines: Iterator[bytes]) -> Iterator[bytes]:
    """As one member, without name and time: the same lines are the same bytes."""
    from isal import isal_zlib

    packer = isal_zlib.compressobj(_LEVEL, wbits=31)
    for some in lines:
        if packed := packer.compress(some):
            yield packed
    yield packer.flush()
