"""What a Redis URL says: where the servers are, how to log in and encrypt, and the options."""

import ssl
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from pydantic import Field
from redis.asyncio.retry import Retry as RedisRetry
from redis.backoff import NoBackoff

from ingest_service.errors import ConfigurationError
from ingest_service.sinks.base import SinkOptions

# Host and port; or the path of a unix socket and 0.
Address = tuple[str, int]

PORT = 6379
SENTINEL_PORT = 26379
_CONNECT_S = 10.0


class ServerOptions(SinkOptions):
    """What every sink in Redis takes."""

    evict: Literal["refuse", "allow"] = Field(
        "refuse", description="'allow' for a cache: the server may drop keys for want of memory"
    )
    replicas: int | None = Field(
        None, ge=0, le=16, description="how many must have a chunk too; with a Sentinel 1, else 0"
    )
    db: int | None = Field(None, ge=0, description="the database's number, where the path does not say it")
    timeout_s: float = Field(30, gt=0, description="a connection that moves nothing for so long is given up")
    ca_file: str = Field("", description="a file of certificates to trust for rediss://, instead of the system's")
    cert_file: str = Field("", description="a client certificate for rediss://")
    key_file: str = Field("", description="its key, unless it is in the same file")
    sentinel_username: str = Field("", description="who asks the Sentinels")
    sentinel_password: str = Field("", description="if they want one")


class RedisOptions(ServerOptions):
    recent_limit: int = Field(100, ge=1, description="interactions kept for each user")
    recent_ttl_s: int = Field(86_400, ge=1, description="a user's interactions expire so long after the last write")
    prefix: str = Field(
        "", max_length=100, pattern=r"^[A-Za-z0-9_.:/-]*$", description="begins each key, checkpoints' too"
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL's servers are. With `service` the addresses are of Sentinels, which know the primary of that name."""

    addresses: tuple[Address, ...]
    database: int
    service: str
    is_encrypted: bool
    is_socket: bool

    @classmethod
    def of(cls, parts: SplitResult, db: int | None) -> "Place":
        """ConfigurationError if the URL names no place."""
        scheme, _, kind = parts.scheme.partition("+")
        path = unquote(parts.path)
        if kind == "unix":
            if parts.netloc.rpartition("@")[2] or not path.strip("/"):
                raise ConfigurationError("A URL of a unix socket looks like redis+unix:///run/redis.sock?db=0.")
            return cls(((path, 0),), db or 0, "", False, True)
        service, _, database = path.strip("/").partition("/") if kind == "sentinel" else ("", "", path.strip("/"))
        hosts = parts.netloc.rpartition("@")[2].split(",") if kind == "sentinel" else [parts.netloc.rpartition("@")[2]]
        addresses = tuple(_address(host, SENTINEL_PORT if kind else PORT) for host in hosts)
        is_number = (database or "0").isdecimal()
        if not all(host for host, _ in addresses) or not is_number or (kind == "sentinel" and not service):
            like = "redis+sentinel://host:26379,host2/service/0" if kind else "redis://host:6379/0"
            raise ConfigurationError(f"A Redis URL looks like {like}, the last part being the database's number.")
        if database and db not in (None, int(database)):
            raise ConfigurationError("The URL names two databases, in its path and with ?db=; leave one out.")
        return cls(addresses, int(database or db or 0), service, scheme == "rediss", False)


def with_database(url: str, number: int) -> str:
    """The same place, but for the database."""
    parts = urlsplit(url)
    kind = parts.scheme.partition("+")[2]
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name != "db"]
    if kind == "unix":
        return parts._replace(query=urlencode([*query, ("db", str(number))])).geturl()
    service = f"/{parts.path.strip('/').partition('/')[0]}" if kind == "sentinel" else ""
    return parts._replace(path=f"{service}/{number}", query=urlencode(query)).geturl()


def _address(text: str, default_port: int) -> Address:
    if "," in text:
        raise ConfigurationError("A Redis URL names one host; several are for Sentinels, redis+sentinel://….")
    try:
        parts = urlsplit(f"//{text}")
        return parts.hostname or "", parts.port or default_port
    except ValueError:
        raise ConfigurationError("A Redis URL has no valid host or port.") from None


def connection_options(place: Place, options: ServerOptions) -> dict[str, Any]:
    """How redis-py's connections encrypt and wait, wherever they go. No wait is longer than the sink's budget."""
    wait_s = min(options.timeout_s, options.retry_budget_s)
    common: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": True,
        "socket_timeout": wait_s,
        "socket_connect_timeout": min(wait_s, _CONNECT_S),
        # redis-py would resend a whole pipeline whose reply was lost; the sink's retrier decides that.
        "retry": RedisRetry(NoBackoff(), 0),
    }
    if place.is_encrypted:
        common |= {
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            "ssl_ca_certs": options.ca_file or None,
            "ssl_certfile": options.cert_file or None,
            "ssl_keyfile": options.key_file or None,
        }
    return common


def login(parts: SplitResult, place: Place) -> dict[str, Any]:
    return {
        "db": place.database,
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
    }


def require_tls_files(place: Place, options: ServerOptions) -> None:
    """ConfigurationError unless certificates and key can be used. Blocks."""
    named = {name: getattr(options, name) for name in ("ca_file", "cert_file", "key_file")}
    if not place.is_encrypted:
        if wrong := next((name for name, path in named.items() if path), None):
            raise ConfigurationError(f"Option {wrong!r} is for TLS; use rediss:// instead of redis://.")
        return
    if options.key_file and not options.cert_file:
        raise ConfigurationError("Option 'key_file' needs 'cert_file', the certificate that the key is of.")
    for name, path in named.items():
        if path:
            _require_readable(name, path)
    context = ssl.create_default_context()
    try:
        if options.ca_file:
            context.load_verify_locations(options.ca_file)
    except ssl.SSLError:
        raise ConfigurationError("The ca_file has no certificates in PEM form.") from None
    try:
        if options.cert_file:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(options.cert_file, options.key_file or None, password="")
    except ssl.SSLError:
        raise ConfigurationError(
            "The cert_file and key_file are no certificate with its own, unencrypted key in PEM form."
        ) from None


def _require_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):  # noqa: PTH123 - only whether it can be
            pass
    except OSError as error:
        raise ConfigurationError(f"The {name} cannot be read ({error.strerror}).") from None
