"""Which sources the service may read: files below its roots, objects below its listed URLs, and nothing else.

The same rules hold twice: when a source is announced, and again in the run's own process when it opens the file or
connects, so that neither a link that is planted in between nor a name that resolves anew leads elsewhere.
"""

import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, unquote, urlsplit

from ingest_service.errors import ConfigurationError, SourceNotFound
from ingest_service.sources.local import open_file

SCHEMES = frozenset({"s3", "gs", "https", "http"})
_PORTS = {"http": 80, "https": 443}
_MOST_ENCODINGS = 8  # one over the other
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_IPv4 = ipaddress.IPv4Address
_IPv6 = ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")  # 0.0.0.0 and its like reach this machine
_METADATA = frozenset(  # where clouds hand out credentials, beside 169.254.169.254
    map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"))
)


class SourceRefused(ConfigurationError):
    """A source that the service may not read."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """`roots` are real paths, `urls` prefixes in normal form."""

    roots: tuple[Path, ...]
    urls: tuple[str, ...]
    refuse_hard_links: bool = False  # a link cannot be told from the file that it leads to, but they can be counted

    @classmethod
    def of(cls, places: Sequence[str | Path], *, refuse_hard_links: bool = False) -> "Allowed":
        """From folders and URL prefixes. ConfigurationError for a prefix that can never be allowed."""
        urls = tuple(normal_url(place) for place in places if isinstance(place, str) and "://" in place)
        roots = tuple(Path(place).resolve() for place in places if isinstance(place, Path) or "://" not in place)
        return cls(roots, urls, refuse_hard_links)

    def resolved(self, name: str | Path) -> Path:
        """The real path of what is below a root, or would be. SourceRefused for any other."""
        try:
            path = Path(name).resolve()
        except (OSError, ValueError, RuntimeError):  # a loop of links, a NUL
            raise SourceRefused("The source's path cannot be resolved; name a file below a root.") from None
        if not any(path.is_relative_to(root) for root in self.roots):
            raise SourceRefused("The source is not below a folder of the setting serve.roots.")
        return path

    def path(self, name: str | Path) -> Path:
        """The real path of a file below a root. SourceRefused, or SourceNotFound for what is below one but no file."""
        path = self.resolved(name)
        try:
            is_file = path.is_file()
        except OSError:  # a name that is too long
            is_file = False
        if not is_file:
            raise SourceNotFound(f"There is no file {name}.")
        return path

    def open_file(self, path: Path) -> IO[bytes]:
        """Open what `path` returned, if it is still what it was: a link or a pipe that took its place is refused."""
        file = open_file(path, opener=_without_following)
        try:
            where = Path(f"/proc/self/fd/{file.fileno()}")
            real = where.resolve() if where.exists() else path.resolve()
            found = os.fstat(file.fileno())
            if real != path or not stat.S_ISREG(found.st_mode):
                raise SourceRefused(f"{path} was replaced by something else while it was opened.")
            if self.refuse_hard_links and found.st_nlink > 1:
                raise SourceRefused(f"{path} has another name, maybe outside of the roots (serve.refuse_hard_links).")
        except BaseException:
            file.close()
            raise
        return file

    def url(self, url: str) -> str:
        """The URL in normal form, if a prefix of the list allows it. SourceRefused if not."""
        normal = normal_url(url)
        if not any(_is_below(normal, prefix) for prefix in self.urls):
            raise SourceRefused("The source is not below a prefix of the setting serve.allowed_urls.")
        return normal


def _without_following(path: str, flags: int) -> int:
    """Neither through a link at the end, nor waiting for the writer of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def normal_url(url: str) -> str:
    """One spelling for one address. SourceRefused for what only serves to disguise one."""
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise SourceRefused("The source's URL has a blank, a backslash or a control character.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SourceRefused("The source's URL has no valid host or port.") from None
    if parts.scheme not in SCHEMES:
        raise SourceRefused(f"There are no {parts.scheme}:// sources here; there are: {', '.join(sorted(SCHEMES))}.")
    if "@" in parts.netloc or parts.query:
        raise SourceRefused("The source's URL has a user or a query; credentials come from the environment.")
    if _has_dots(parts.path):
        raise SourceRefused("The source's path has '.' or '..' in it, plain or encoded.")
    host = _normal_host(parts)
    if port is not None and port != _PORTS.get(parts.scheme):
        host = f"{host}:{port}"
    return f"{parts.scheme}://{host}{parts.path or '/'}"


def _has_dots(path: str) -> bool:
    """Whether some server on the way may find a `..` in it: encoded twice, with parameters, behind a backslash."""
    for _ in range(_MOST_ENCODINGS):
        segments = path.replace("\\", "/").split("/")
        if any(segment.partition(";")[0] in (".", "..") for segment in segments):
            return True
        path, before = unquote(path), path
        if path == before:
            return False
    return True


def _normal_host(parts: SplitResult) -> str:
    """In lower case and without the final dot. An address must be written in full, as everybody writes it."""
    if parts.scheme not in _PORTS:
        return parts.netloc  # a bucket
    host = (parts.hostname or "").removesuffix(".")
    host = f"[{host}]" if ":" in host else host
    if not _HOST.fullmatch(host):
        raise SourceRefused("The source's URL has no valid host; write names in ASCII and without percent signs.")
    last = host.rpartition(".")[2]
    if host.startswith("[") or last.isdigit() or last.startswith("0x"):
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise SourceRefused("The source's host is a number that is no address in its usual form.") from None
        if address.version == 6 and _unwrapped(address) != address:
            raise SourceRefused("The source's host is an IPv4 address in disguise.")
        if is_never_allowed(address):
            raise SourceRefused("The source's host is an address that is never read from.")
        return f"[{address}]" if address.version == 6 else str(address)
    return host


def addresses_of(host: str, port: int) -> Iterator[str]:
    """Where a host of an allowed URL may be connected to, each looked at: not this machine, nor metadata.

    Loopback is for those who have listed it as an address; no name leads there. SourceRefused, or OSError.
    """
    is_listed_address = _is_address(host)
    for _, _, _, _, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        address = ipaddress.ip_address(str(found[0]).partition("%")[0])
        plain = _unwrapped(address)
        if is_never_allowed(address) or (plain.is_loopback and not is_listed_address):
            raise SourceRefused(f"{host} leads to an address that is not allowed.")
        yield str(address)


def is_never_allowed(address: _IPv4 | _IPv6) -> bool:
    """Link-local, metadata, multicast and the like, however it is wrapped."""
    plain = _unwrapped(address)
    return (
        plain in _METADATA
        or address in _METADATA
        or (plain.version == 4 and plain in _THIS_NETWORK)
        or plain.is_link_local
        or plain.is_multicast
        or plain.is_unspecified
        or (plain.is_reserved and not plain.is_loopback)
    )


def _unwrapped(address: _IPv4 | _IPv6) -> _IPv4 | _IPv6:
    """The IPv4 address inside one of IPv6 that stands for it."""
    if isinstance(address, _IPv4):
        return address
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        return _IPv4(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_below(url: str, prefix: str) -> bool:
    folder = prefix if prefix.endswith("/") else f"{prefix}/"
    return url == prefix or url.startswith(folder)
