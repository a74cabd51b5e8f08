"""What a run may tell its service, in a form that is checked: nothing else that comes over its pipe is believed."""

import json
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from ingest_service.pipeline.progress import Progress, StepProgress
from ingest_service.pipeline.report import StreamReport
from ingest_service.runtime.process import Reason

Event: TypeAlias = Progress | StepProgress | StreamReport | Reason

_PROGRESS, _STEP = TypeAdapter(Progress), TypeAdapter(StepProgress)
_REPORT, _REASON = TypeAdapter(StreamReport), TypeAdapter(Reason)
_TIME = TypeAdapter(str)


@dataclass(frozen=True, slots=True)
class Told:
    """An event and its time, by which the page makes rates of rows."""

    event: Event
    at: str


def understood(line: bytes) -> Told:
    """ValueError if it is no event."""
    try:
        told = json.loads(line)
        return Told(_event(told["event"], told), _TIME.validate_python(told["timestamp"]))
    except (ValidationError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(type(error).__name__) from None


def _event(kind: object, told: dict[str, object]) -> Event:
    if kind == "progress":
        return _STEP.validate_python(StepProgress.fields(told)) if "step" in told else _PROGRESS.validate_python(told)
    if kind == "report":
        return _REPORT.validate_python(StreamReport.fields(told))
    if kind == "reason":
        return _REASON.validate_python(told)
    raise ValueError("no event of this kind")
