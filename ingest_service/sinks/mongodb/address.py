"""What a MongoDB URL says: the driver's own options and ours stand in one query."""

import warnings
from urllib.parse import parse_qsl, urlencode, urlunsplit

from pydantic import Field
from pymongo import errors, uri_parser

from ingest_service.errors import ConfigurationError
from ingest_service.sinks.base import SinkOptions
from ingest_service.sinks.urls import parse_options, split_url

_NAME = r"^[^.$\x00]+(\.[^.$\x00]+)*$"  # of a collection; the driver takes no other


class MongoDBOptions(SinkOptions):
    collection: str = Field("interactions", pattern=_NAME, description="where the documents go")
    item_collection: str = Field("items", pattern=_NAME, description="where what is known of items goes")
    checkpoint_collection: str = Field("ingest_checkpoints", pattern=_NAME, description="where checkpoints are kept")
    concurrency: int = Field(4, ge=1, le=64, description="bulk writes in flight at once, at most")
    timeout_s: float = Field(30, gt=0, description="a request without an answer for so long is given up")


def mongodb_url_with(url: str, **options: object) -> str:
    """The URL with some of our options set, whatever it said about them."""
    parts = split_url(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in options]
    return urlunsplit(parts._replace(query=urlencode([*query, *options.items()])))


def parse(url: str) -> tuple[str, str, MongoDBOptions]:
    """The driver's own URI, the database's name, and our options: the query holds both kinds."""
    parts = split_url(url)
    database = parts.path.strip("/")
    if not parts.netloc or not database or "/" in database:
        raise ConfigurationError("A MongoDB URL names the database: mongodb://localhost:27017/movielens.")
    query = parse_qsl(parts.query, keep_blank_values=True)
    ours = urlencode([(name, value) for name, value in query if name in MongoDBOptions.model_fields])
    theirs = urlencode([(name, value) for name, value in query if name not in MongoDBOptions.model_fields])
    _, options = parse_options(urlunsplit((parts.scheme, "host", "", ours, "")), MongoDBOptions)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the driver only warns of an option that it does not know
            # Not as mongodb+srv, which would ask the DNS.
            uri_parser.parse_uri(urlunsplit(("mongodb", parts.netloc, parts.path, theirs, "")))
    except OSError as error:
        raise ConfigurationError(
            f"A file that a {parts.scheme}:// URL names cannot be read ({error.strerror}): check tlsCAFile and such."
        ) from None
    except (errors.PyMongoError, ValueError, UserWarning) as error:
        known = ", ".join(sorted(MongoDBOptions.model_fields))
        raise ConfigurationError(
            f"A {parts.scheme}:// URL is wrong ({type(error).__name__}); besides MongoDB's own options it knows: "
            f"{known}. In a password, write special characters as %XX."
        ) from None
    return urlunsplit((parts.scheme, parts.netloc, parts.path, theirs, "")), database, options
