"""What rows would meet in a collection that somebody else has made: by its options and indexes."""

from collections.abc import Iterator, Mapping
from typing import Any

from ingest_service.sinks.base import Finding

_OWN_KEYS = ({"_id"}, {"user_id", "event_key"})  # a unique index that has one of these holds no two records apart


def survey(name: str, collection: Mapping[str, Any], indexes: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """`collection` as `listCollections` gives it, empty if there is none yet; `indexes` by name."""
    what = f"collection {name}"
    if refusal := _refusal(collection):
        return [Finding(what, False, f"{refusal}; name another one with ?collection=.")]
    return [Finding(what, True, detail, True) for detail in _warnings(collection.get("options", {}), indexes)]


def _refusal(collection: Mapping[str, Any]) -> str | None:
    options = collection.get("options", {})
    kind = collection.get("type", "collection")
    if kind == "view" or "viewOn" in options:
        return "is a view, which cannot be written to"
    if kind == "timeseries" or "timeseries" in options:
        return "is a time series, which would have a row that is written again twice"
    if options.get("capped"):
        return "is capped, and would drop its oldest rows"
    return None


def _warnings(options: Mapping[str, Any], indexes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if options.get("validator") and options.get("validationAction", "error") == "error":
        yield "has a validator; rows that it refuses become dead letters."
    locale = options.get("collation", {}).get("locale", "simple")
    if locale != "simple":
        yield (
            f"compares texts by the rules of {locale!r}, so that what is read back by ranges of _id "
            "(verify, recent, history) may lack rows."
        )
    if "expireAfterSeconds" in options:
        yield f"drops its documents {options['expireAfterSeconds']} s after the time in their _id."
    for name, index in indexes.items():
        fields = {field for field, _ in index["key"]}
        if index.get("unique") and not any(key <= fields for key in _OWN_KEYS):
            yield f"has the unique index {name}; of rows with the same values all but one become dead letters."
        if "expireAfterSeconds" in index:
            yield f"has the index {name}, which drops documents {index['expireAfterSeconds']} s after the time in it."
