"""Why no server can be reached, in words: from what the driver knows of each, and where it knows nothing, by asking.

What waiting cannot mend ends the run at once; all else is waited for, and is the reason that is given in the end.
"""

import asyncio
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import bson
from pymongo import errors

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.runtime.tls_causes import TlsCause, answer, speaks_tls, tls_cause

_HEADER = struct.Struct("<iiii")  # MongoDB Wire Protocol, "Standard Message Header": length, id, answers, opcode
_OP_MSG = 2013
_MAX_REPLY_BYTES = 48_000_000

# Parts of the driver's text, with what they mean. The text itself is not passed on.
_TLS = {
    TlsCause.OTHER_NAME: "its certificate is not for the name or address in the URL",
    TlsCause.EXPIRED: "its certificate has expired",
    TlsCause.NOT_VALID_YET: "its certificate is not valid yet",
    TlsCause.UNTRUSTED: "its certificate is of no authority that is trusted here; name that with tlsCAFile=",
    TlsCause.INVALID: "its certificate is not valid",
    TlsCause.CLIENT_UNTRUSTED: "it does not trust the client's certificate",
    TlsCause.CLIENT_UNNAMED: "it wants a certificate of the client; name that with tlsCertificateKeyFile=",
    TlsCause.NO_VERSION: "its versions of TLS are not ours",
    TlsCause.NO_TLS: "it speaks no TLS; leave tls=true out",
}
_WIRE = ("wire version", "its version of MongoDB does not go with this driver's")
_PASSING = (
    ("Name or service not known", "no host of that name is known"),
    ("nodename nor servname", "no host of that name is known"),
    ("No address associated", "no host of that name is known"),
    ("Temporary failure in name resolution", "the name service does not answer"),
    ("Connect call failed", "nobody listens there"),
    ("refused", "nobody listens there"),
    ("unreachable", "there is no way to it"),
    ("timed out", "it does not answer in time"),
)
_SET = re.compile(r"replica set named '(.*)' but this node belongs to a set named '(.*)'")

Address = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one server, or all, cannot be used; `lasts` if waiting cannot mend it."""

    text: str
    lasts: bool = False

    def as_error(self) -> ConfigurationError | Retry:
        return ConfigurationError(f"MongoDB cannot be used: {self.text}.") if self.lasts else Retry(self.text)


_UNASKED = Cause("")


@dataclass(frozen=True, slots=True)
class Topology:
    """What the driver knows: its word for the whole, and each server's error, None while there is none."""

    kind: str
    set_name: str
    servers: Mapping[Address, str | None]
    is_usable: bool

    @classmethod
    def of(cls, description: Any) -> "Topology":
        servers = description.server_descriptions()
        return cls(
            description.topology_type_name,
            description.replica_set_name or "",
            {address: _text(one.error) for address, one in servers.items()},
            any(one.is_server_type_known for one in servers.values()),
        )

    @property
    def silent(self) -> list[Address]:
        """Servers of which nothing is known that says what is wrong."""
        return [address for address, text in self.servers.items() if text is None or "closed" in text]


def _text(error: object) -> str | None:
    return None if error is None else str(error)


def cause_of(topology: Topology, asked: Mapping[Address, Cause | None]) -> Cause | None:
    """Why no server can be used, or None if that is not known. `asked` is what silent servers were found to be."""
    if not topology.servers and topology.set_name:
        return Cause(f"no host in its URL is of the replica set {topology.set_name!r}; check replicaSet=", lasts=True)
    if topology.is_usable:
        return Cause("there is no primary") if topology.kind == "ReplicaSetNoPrimary" else None
    causes: list[Cause] = []
    for address, text in topology.servers.items():
        cause = _cause(text, asked.get(address, _UNASKED))
        if cause is None:
            return None
        causes.append(Cause(f"{':'.join(str(part) for part in address if part)}: {cause.text}", cause.lasts))
    # One server that may come back is enough to wait for.
    return next((cause for cause in causes if not cause.lasts), causes[0] if causes else None)


def _cause(text: str | None, asked: Cause | None) -> Cause | None:
    if asked is not None and asked is not _UNASKED:
        return asked
    if text is None:
        return None if asked is _UNASKED else Cause("it takes connections, and does not answer")
    if found := _SET.search(text):
        theirs = f"it is of the replica set {found[2]!r}" if found[2] != "None" else "it is of no replica set"
        return Cause(f"{theirs}, not of {found[1]!r}; check replicaSet=", lasts=True)
    if (tls := tls_cause(text)) is not None:
        return Cause(_TLS[tls], lasts=True)
    for part, meaning in (_WIRE, *_PASSING):
        if part in text:
            return Cause(meaning, lasts=part is _WIRE[0])
    return Cause("it hangs up")


async def asked(servers: Iterable[Address], *, with_tls: bool) -> dict[Address, Cause | None]:
    """What servers are that take a connection and say nothing of use over it; None where that is not clear."""
    addresses = list(servers)
    return dict(zip(addresses, await asyncio.gather(*(_ask(one, with_tls=with_tls) for one in addresses)), strict=True))


async def _ask(address: Address, *, with_tls: bool) -> Cause | None:
    host, port = address
    if port is None:
        return None  # a socket of this machine
    has_tls, greeted, pinged = await asyncio.gather(
        asyncio.to_thread(speaks_tls, host, port),
        asyncio.to_thread(answer, host, port, _hello()),
        asyncio.to_thread(answer, host, port, b"PING\r\n\r\n"),
    )
    if with_tls and not has_tls and _is_message(greeted):
        return Cause(_TLS[TlsCause.NO_TLS], lasts=True)
    if not with_tls and has_tls and not _is_message(greeted):
        return Cause("it wants TLS; add tls=true", lasts=True)
    if not has_tls and any(reply and not _is_message(reply) for reply in (greeted, pinged)):
        return Cause("it does not speak MongoDB's protocol; check host and port", lasts=True)
    return None


def _hello() -> bytes:
    body = struct.pack("<iB", 0, 0) + bson.encode({"hello": 1, "$db": "admin"})
    return _HEADER.pack(_HEADER.size + len(body), 1, 0, _OP_MSG) + body


def _is_message(reply: bytes) -> bool:
    return len(reply) >= _HEADER.size and _HEADER.size <= _HEADER.unpack_from(reply)[0] < _MAX_REPLY_BYTES


def in_words(error: errors.ConnectionFailure) -> str:
    """A connection's fault, where nothing more is known."""
    if isinstance(error, errors.NotPrimaryError):
        return "the server is no primary any more"
    if isinstance(error, errors.NetworkTimeout | errors.WaitQueueTimeoutError):
        return "no answer in time"
    return "the connection broke"


def srv_error(error: errors.ConfigurationError) -> ConfigurationError | Retry:
    """What is wrong with a URL, as the driver finds out when it connects: mongodb+srv is looked up in the DNS then."""
    text = str(error)
    if "DNS" in text or "answer" in text:
        return ConfigurationError("MongoDB cannot be used: the DNS knows no mongodb+srv of that host; check the URL.")
    if "lifetime expired" in text:
        return Retry("the name service does not answer")
    return ConfigurationError(f"MongoDB cannot be used as the URL says ({type(error).__name__}); check it.")
