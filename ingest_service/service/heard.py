"""What a run may tell its service, in a form that is checked: nothing else that comes over its pipe is believed."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Kind = Literal["progress", "report", "reason"]
_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0)]


class _Told(BaseModel):
    """Further fields pass: the page and the API show them as they are."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)


class _SinkNow(_Told):
    rows_written: _Count
    merged: _Count
    dead: _Count
    in_flight: _Count
    retries: _Count
    throttled: _Count
    concurrency: _Share
    p50_ms: _Share | None
    p99_ms: _Share | None
    watermark: _Count


class _Progress(_Told):
    source: str
    timestamp: str  # by which the page makes rates of rows
    offset: _Count
    percent: _Share | None
    rows_read: _Count
    rows_rejected: _Count
    eta_s: _Share | None
    queue_depth: dict[str, _Count]
    rss_mb: _Share
    sinks: dict[str, _SinkNow]


class _Step(_Told):
    """Of a step of MovieLens that is no stream of rows."""

    step: str
    percent: _Share | None = None


class _SinkThen(_Told):
    read: _Count
    rejected: _Count
    written: _Count
    merged: _Count
    dead: _Count
    retries: _Count
    throttled: _Count


class _Report(_Told):
    source: str
    balanced: bool
    sinks: dict[str, _SinkThen]


class Reason(_Told):
    """Why the run ended as it did: a sentence, and the class of the error."""

    reason: str
    kind: str = ""


def understood(line: bytes) -> tuple[Kind, dict[str, Any]]:
    """The kind of an event, and the event. ValueError if it is none."""
    try:
        event = json.loads(line)
        kind = event.pop("event")
        if kind == "progress":
            (_Step if "step" in event else _Progress).model_validate(event)
        elif kind == "report":
            _Report.model_validate(event)
        elif kind == "reason":
            Reason.model_validate(event)
        else:
            raise ValueError("no event of this kind")
    except (ValidationError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(type(error).__name__) from None
    return kind, event
