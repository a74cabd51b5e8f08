"""Object stores by URL: s3://, gs://, https:// and file://.

Credentials, region and endpoint come from the environment, as obstore's stores read it: Google's Application Default
Credentials, AWS's own names; GOOGLE_BASE_URL and AWS_ENDPOINT_URL name another server, an emulator's for example.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from ingest_service.errors import (
    ConfigurationError,
    LeaseHeld,
    LocalIOError,
    SourceChanged,
    SourceNotFound,
)
from ingest_service.runtime.durable import sync_folder
from ingest_service.sources.object_faults import lasting_cause, passing_cause

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

SCHEMES: Final = frozenset({"s3", "gs", "https", "http", "file"})
_PART_BYTES = 8 << 20
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where one object is. `uri` is canonical, without secrets; `root` is the store's part of it, secrets included."""

    uri: str
    root: str
    path: str

    @classmethod
    def of(cls, url: str) -> "Address":
        """ConfigurationError if it names no object."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]  # what stands before it may be a secret
        uri = f"{parts.scheme}://{host}{parts.path}"
        path = unquote(parts.path.lstrip("/"))
        if not path or path.endswith("/"):
            raise ConfigurationError(f"{uri} names no object; add its path.")
        if parts.query:
            raise ConfigurationError(f"{uri} has a query, which is not supported; name the object by its path.")
        if parts.scheme == "file" and host:
            raise ConfigurationError(f"{uri} has a host; a file's URL has three slashes: file:///data/archive.zip.")
        return cls(uri, f"{parts.scheme}://{parts.netloc}", path)

    def store(self) -> "ObjectStore":
        from obstore.exceptions import BaseError
        from obstore.store import LocalStore, from_url

        scheme = self.root.partition(":")[0]
        if scheme == "file":
            return LocalStore("/", mkdir=True)
        is_plain = self.root.startswith("http:") or os.environ.get(_ENDPOINTS.get(scheme, ""), "").startswith("http:")
        options: ClientConfig = {"allow_http": is_plain}
        try:
            return from_url(self.root, client_options=options)
        except (BaseError, ValueError) as error:
            raise ConfigurationError(
                f"{self.uri} cannot be opened ({type(error).__name__}); check its address."
            ) from error


@contextmanager
def errors_translated(uri: str, what: str = "read") -> Iterator[None]:
    from obstore import exceptions

    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError):
        raise SourceNotFound(f"There is no object {uri}.") from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
        raise ConfigurationError(f"{uri} may not be {what}; check the credentials and their rights.") from error
    except exceptions.PreconditionError as error:
        raise SourceChanged(f"{uri} was replaced while it was read; run again.") from error
    except (exceptions.BaseError, OSError) as error:
        if (cause := lasting_cause(error, uri)) is not None:
            raise ConfigurationError(f"{uri} cannot be {what}: {cause}.") from error
        raise LocalIOError(f"{uri} cannot be {what} ({passing_cause(error)}); run again to go on.") from error


def address_of(place: str) -> Address:
    """A path of this machine or a URL."""
    return Address.of(place if "://" in place else Path(place).absolute().as_uri())


def exists(address: Address) -> bool:
    import obstore

    try:
        with errors_translated(address.uri):
            obstore.head(address.store(), address.path)
    except SourceNotFound:
        return False
    return True


def sizes_below(address: Address) -> dict[str, int]:
    """The objects in the folder that this one is in, and in those below: what each is called there, and its bytes."""
    import obstore

    folder = "".join(address.path.rpartition("/")[:2])
    with errors_translated(address.uri):
        found = [one for some in obstore.list(address.store(), prefix=folder or None) for one in some]
    return {one["path"].removeprefix(folder): one["size"] for one in found}


def get_whole(address: Address) -> bytes:
    """SourceNotFound if it is not there."""
    import obstore

    with errors_translated(address.uri):
        return bytes(obstore.get(address.store(), address.path).bytes())


def delete(address: Address) -> None:
    """Remove an object; it may be gone already. Blocks."""
    import obstore

    with suppress(SourceNotFound), errors_translated(address.uri, "removed"):
        obstore.delete(address.store(), address.path)


def put_whole(address: Address, pieces: Iterator[bytes]) -> None:
    """Store an object that is seen under its name only when the last piece is in, and durable.

    What `pieces` raises is raised, and nothing is stored then. Blocks.
    """
    if address.root == "file://":
        _put_file(Path("/") / address.path, pieces)
        return
    import obstore

    # `obstore.put` would ask for the pieces inside its own runtime, where no other request can be made. A writer that
    # is not closed leaves nothing under the name; of two writers the one that closes later wins, whole.
    with errors_translated(address.uri, "written"):
        writer = obstore.open_writer(address.store(), address.path, buffer_size=_PART_BYTES, max_concurrency=2)
    for piece in pieces:
        with errors_translated(address.uri, "written"):
            writer.write(piece)
    with errors_translated(address.uri, "written"):
        writer.close()


def _put_file(path: Path, pieces: Iterator[bytes]) -> None:
    """Temporary file beside it, fsync, rename, fsync of the folder; a lock keeps a second writer out of the former."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LeaseHeld(f"Another process is writing {path}; wait for it or stop it.") from None
            file.truncate(0)
            try:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
                part.rename(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            sync_folder(path.parent)
    except OSError as error:
        raise LocalIOError(f"{path} cannot be written ({error.strerror}); make room, then run again.") from error
