"""One member of an open zip archive, streamed without unpacking to disk."""

import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

from ingest_service.errors import ConfigurationError, LocalIOError, SourceNotFound
from ingest_service.sources.base import Stream
from ingest_service.sources.compression import MAX_RATIO, RATIO_GRACE_BYTES, open_stream
from ingest_service.sources.kinds import is_zip

_SHOWN = 10
_OFFICE = "[Content_Types].xml"  # ECMA-376 part 2: every Office document has it


def open_whole(file: IO[bytes], name: str) -> tuple[Stream, int | None]:
    """The bytes of an open file that is named without a member: those of its only member, if it is a zip archive.

    With how many stored bytes they are, where that is not the file's own size. Closes the file with the stream.
    """
    if not file.seekable():
        return open_stream(file, name), None
    try:
        head = file.read(4)
        file.seek(0)
    except OSError as error:
        file.close()
        raise LocalIOError(f"{name} cannot be read: {error.strerror or error}.") from error
    except BaseException:
        file.close()
        raise
    return open_member(file, name, None) if is_zip(head) else (open_stream(file, name), None)


def open_member(
    file: IO[bytes], archive_name: str, member: str | None, fetch_to: Callable[[int], None] = lambda _: None
) -> tuple[Stream, int]:
    """A member of the archive, by default its only one, with its size. `fetch_to` is told where its bytes end.

    Closes the file with the stream, or on failure.
    """
    try:
        archive = zipfile.ZipFile(file)
        info = _only_member(archive, archive_name) if member is None else _member(archive, member)
        _refuse_unsafe(info)
        fetch_to(_end_of(info, archive))
        name = f"{archive_name}#{info.filename if member is None else member}"
        return open_stream(_MemberFile(archive.open(info), archive, file), name), info.file_size
    except (zipfile.BadZipFile, NotImplementedError) as error:
        file.close()
        raise LocalIOError(f"{archive_name} is not a zip archive that can be read; get a whole copy.") from error
    except BaseException:
        file.close()
        raise


def _only_member(archive: zipfile.ZipFile, archive_name: str) -> zipfile.ZipInfo:
    names = [info.filename for info in archive.infolist()]
    if _OFFICE in names:
        raise ConfigurationError(f"{archive_name} is an Excel or other Office document; save its sheet as CSV UTF-8.")
    # What macOS and file managers add beside the files is nobody's data.
    found = [
        info
        for info in archive.infolist()
        if not info.is_dir()
        and not info.filename.startswith("__MACOSX/")
        and not info.filename.rpartition("/")[2].startswith(".")
    ]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(repr(info.filename) for info in found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
    if not found:
        raise SourceNotFound(f"{archive_name} is a zip archive without a file in it.")
    raise SourceNotFound(
        f"{archive_name} is a zip archive with {len(found)} files; name one as {archive_name}#member: {shown}."
    )


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The member of that path, or the only one of that file name (archives hold a folder named after them)."""
    found = [
        info
        for info in archive.infolist()
        if info.filename == name or (info.filename.rpartition("/")[2] == name and not info.is_dir())
    ]
    exact = [info for info in found if info.filename == name]
    if len(exact or found) != 1:
        raise SourceNotFound(f"The archive has {len(found)} members named {name!r}; name one by its whole path.")
    return (exact or found)[0]


def _refuse_unsafe(info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = info.filename.split("/")
    mode = info.external_attr >> 16
    if ".." in parts or info.filename.startswith("/") or stat.S_ISLNK(mode) or info.flag_bits & 0x1:
        raise LocalIOError(
            f"The archive's member {name!r} is a link, encrypted, or leads out of the archive; it is refused."
        )
    # A member is never read beyond the size that its directory entry says, so this bounds what it unpacks to.
    if info.file_size > max(RATIO_GRACE_BYTES, MAX_RATIO * info.compress_size):
        raise LocalIOError(
            f"The archive's member {name!r} unpacks to over {MAX_RATIO} times its size, as no file of rows does."
        )


def _end_of(info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> int:
    """Where the next member begins, or the directory."""
    offsets = [other.header_offset for other in archive.infolist() if other.header_offset > info.header_offset]
    return min(offsets, default=archive.start_dir)


class _MemberFile(io.RawIOBase):
    """A zip member that closes its archive with it, and reports damage as an OSError does."""

    def __init__(self, member: IO[bytes], *owners: Any) -> None:
        super().__init__()
        self._member = member
        self._owners = owners

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._member.read(len(buffer))
        except (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
            raise OSError("the archive is damaged") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        for owner in (self._member, *self._owners):
            owner.close()
        super().close()
