"""What a PostgreSQL URL says: libpq's own parameters and ours stand in one query."""

from urllib.parse import parse_qsl, quote, urlencode, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field

from ingest_service.errors import ConfigurationError
from ingest_service.sinks.base import SinkOptions
from ingest_service.sinks.urls import parse_options, split_url

_NAME = r"^[^\x00]{1,63}$"  # PostgreSQL cuts off what is longer


class PostgresOptions(SinkOptions):
    table: str = Field("interactions", pattern=_NAME, description="where the rows go")
    item_table: str = Field("items", pattern=_NAME, description="where what is known of items goes")
    schema_name: str = Field("public", alias="schema", pattern=_NAME, description="where the tables are")
    timeout_s: float = Field(30, gt=0, description="a request without an answer for so long is given up")


_OURS = {field.alias or name for name, field in PostgresOptions.model_fields.items()}


def parse(url: str) -> tuple[str, PostgresOptions]:
    """The URL as libpq takes it, and our options."""
    parts = split_url(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    ours = urlencode([(name, value) for name, value in query if name in _OURS])
    # Not with + for a blank, which libpq takes as it stands.
    theirs = urlencode([(name, value) for name, value in query if name not in _OURS], quote_via=quote)
    _, options = parse_options(urlunsplit((parts.scheme, "host", "", ours, "")), PostgresOptions)
    uri = f"postgresql://{parts.netloc}{parts.path}{'?' if theirs else ''}{theirs}"
    try:
        conninfo_to_dict(uri)
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            f"A {parts.scheme}:// URL is wrong, or has a parameter that nobody knows; besides libpq's own it knows: "
            f"{', '.join(sorted(_OURS))}. In a password, write special characters as %XX."
        ) from None
    return uri, options


def postgres_url_with(url: str, **options: str) -> str:
    """The URL with some of our options set, whatever it said about them."""
    parts = split_url(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in options]
    changed = urlencode([*query, *options.items()], quote_via=quote)
    netloc_and_path = f"{parts.scheme}://{parts.netloc}{parts.path}"
    return f"{netloc_and_path}?{changed}"
