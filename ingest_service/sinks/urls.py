"""Sinks by URL: its parts, the options in its query, and the class that is registered for its scheme."""

from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from pydantic import BaseModel, ValidationError

from ingest_service.errors import ConfigurationError
from ingest_service.runtime.plugins import registered
from ingest_service.sinks.base import AnySink

_LIMITS = ("rate", "wcu")


def split_url(url: str) -> SplitResult:
    """A sink URL in parts; ConfigurationError if it has no valid host."""
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc.rpartition("@")[2]:  # MongoDB takes several hosts, each with a port of its own
            _ = parts.port  # is only looked at when it is asked for
    except ValueError:
        if "://arn:" in url:
            raise ConfigurationError(
                "A DynamoDB URL takes the table's name rather than its ARN: dynamodb://interactions?region=eu-west-1."
            ) from None
        raise ConfigurationError(
            "A sink URL has no valid host or port; in a password, write / as %2F, # as %23 and ? as %3F."
        ) from None
    return parts


def parse_options(url: str, options: type[BaseModel]) -> tuple[SplitResult, Any]:
    """A sink URL in parts, its query checked against `options`; what is wrong with it is named."""
    parts = split_url(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    try:
        return parts, options.model_validate(query)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(options.model_fields))
            raise ConfigurationError(f"{parts.scheme}:// has no option {name!r}; it knows: {known}.") from None
        raise ConfigurationError(f"Option {name!r} of {parts.scheme}:// is wrong: {first['msg']}.") from None


def shared_by(url: str, n: int) -> str:
    """The URL for one of `n` workers, which together keep to the limits that it sets: rows and units a second."""
    parts = split_url(url)
    query = [
        (name, repr(float(value) / n) if name in _LIMITS and _is_number(value) else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return parts._replace(query=urlencode(query)).geturl() if n > 1 and parts.query else url


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False  # whoever reads it says so


def sink_at(url: str) -> AnySink:
    """The sink that a URL names, not yet open."""
    scheme = split_url(url).scheme
    known = registered("sinks")
    if scheme not in known:
        raise ConfigurationError(
            f"There is no sink for {scheme or 'that'}:// URLs; there are: {', '.join(sorted(known))}."
        )
    sink: AnySink = known[scheme].load()(url)
    return sink
