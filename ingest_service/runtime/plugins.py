"""What packages, this one among them, have registered by entry points: sinks, data sets, steps."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any


@cache
def _all() -> Any:
    """Read once, when somebody asks: it looks into every package that is installed. Its class is Python 3.11's own."""
    return entry_points()


def registered(group: str) -> Mapping[str, EntryPoint]:
    """By name; nothing is imported before its `load`."""
    return {entry.name: entry for entry in _all().select(group=f"ingest_service.{group}")}
