"""From what a user names to sources."""

import glob
from pathlib import Path

from ingest_service.errors import SourceNotFound, UsageError
from ingest_service.sources.allowed import Allowed
from ingest_service.sources.archive import ObjectZipMemberSource, ZipMemberSource
from ingest_service.sources.base import Source
from ingest_service.sources.local import FileSource, StdinSource
from ingest_service.sources.object_store import SCHEMES
from ingest_service.sources.objects import ObjectSource


def source_allowed(name: str, allowed: Allowed) -> Source:
    """The one source of that name, if it is allowed: a path or an object's URL, each maybe with `#member`."""
    place, mark, member = name.partition("#") if "://" in name else (name, "", "")
    if "://" in name:
        url = allowed.url(place)
        return ObjectZipMemberSource(url, member, allowed) if mark else ObjectSource(url, allowed)
    archive, mark, member = name.rpartition("#")
    if mark and not _is_file(name):
        return ZipMemberSource(allowed.path(archive), member, allowed.open_file)
    return FileSource(allowed.path(name), allowed.open_file)


def sources_named(name: str) -> list[Source]:
    """The sources that one argument names: a path, a pattern, `-`, `archive.zip#member`, or an object's URL."""
    if name == "-":
        return [StdinSource()]
    scheme, mark, _ = name.partition("://")
    if mark:
        if scheme not in SCHEMES:
            raise UsageError(
                f"There are no {scheme}:// sources; name a file, a pattern, '-', or an s3, gs, https or file URL."
            )
        archive, mark, member = name.partition("#")
        return [ObjectZipMemberSource(archive, member) if mark else ObjectSource(name)]
    path = Path(name)
    if _exists(name):
        return [FileSource(path)]
    archive, mark, member = name.rpartition("#")
    if mark and _is_file(archive):
        return [ZipMemberSource(Path(archive), member)]
    if glob.has_magic(name):
        # pathlib's own glob takes no absolute pattern, and no brackets in the fixed part.
        matches = glob.glob(name, recursive=True)  # noqa: PTH207
        found = sorted(path for path in matches if Path(path).is_file())
        if not found:
            raise SourceNotFound(f"No file matches {name!r}.")
        return [FileSource(Path(path)) for path in found]
    raise SourceNotFound(f"There is no file {name}.")


def _exists(name: str) -> bool:
    """Also of a name that is too long for a file."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def _is_file(name: str) -> bool:
    return _exists(name) and Path(name).is_file()
