"""Loads interaction files into the stores behind a recommender: fast, resumable, every row accounted for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest_service.api import InteractionStore as InteractionStore
    from ingest_service.api import MicroLensIngestor as MicroLensIngestor
    from ingest_service.api import MicroLensPairsReader as MicroLensPairsReader
    from ingest_service.errors import IngestError as IngestError
    from ingest_service.pipeline.report import Report as Report
    from ingest_service.pipeline.run import ingest as ingest
    from ingest_service.pipeline.run import work as work
    from ingest_service.rows.interaction import Device as Device
    from ingest_service.rows.interaction import EventType as EventType
    from ingest_service.rows.interaction import VideoInteraction as VideoInteraction
    from ingest_service.sinks.base import Sink as Sink

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
    "work": "pipeline.run",
}

__all__ = [*_HOME]  # noqa: PLE0604 (they are strings)


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used: `--help` should not wait for polars."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
