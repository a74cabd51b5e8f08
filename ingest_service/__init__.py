"""Loads interaction files into the stores behind a recommender: fast, resumable, every row accounted for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest_service.api import InteractionStore, MicroLensIngestor, MicroLensPairsReader
    from ingest_service.errors import IngestError
    from ingest_service.pipeline.report import Report
    from ingest_service.pipeline.run import ingest
    from ingest_service.rows.interaction import Device, EventType, VideoInteraction
    from ingest_service.sinks.base import Sink

_HOME = {
    "Device": "rows.interaction",
    "EventType": "rows.interaction",
    "IngestError": "errors",
    "InteractionStore": "api",
    "MicroLensIngestor": "api",
    "MicroLensPairsReader": "api",
    "Report": "pipeline.report",
    "Sink": "sinks.base",
    "VideoInteraction": "rows.interaction",
    "ingest": "pipeline.run",
}

__all__ = [
    "Device",
    "EventType",
    "IngestError",
    "InteractionStore",
    "MicroLensIngestor",
    "MicroLensPairsReader",
    "Report",
    "Sink",
    "VideoInteraction",
    "ingest",
]


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used: `--help` should not wait for polars."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
