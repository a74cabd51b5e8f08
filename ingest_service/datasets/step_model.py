"""Steps as they are written, under `x-transform` in a schema file or `[[transform]]` in a configuration.

`steps.py` takes them.
"""

from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    Tag,
)

from ingest_service.datasets.names import NewName, known_zone


def _ascending(edges: tuple[int | float, ...]) -> tuple[int | float, ...]:
    if any(one >= other for one, other in pairwise(edges)):
        raise ValueError("edges ascend")
    return edges


_Edge: TypeAlias = Annotated[int, Field(strict=True, ge=-(1 << 53), le=1 << 53)] | FiniteFloat
_Zone: TypeAlias = Annotated[str, AfterValidator(known_zone)]


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FilterStep(_Step):
    filter: str = Field(min_length=1)


class ExpressionStep(_Step):
    derive: NewName
    expression: str = Field(alias="as", min_length=1)
    otherwise: StrictBool | Annotated[int, Field(strict=True, ge=-(1 << 63), lt=1 << 63)] | FiniteFloat | str | None = (
        None
    )


class PartStep(_Step):
    derive: NewName
    part: Literal["hour", "weekday", "day", "month", "date"]
    zone: _Zone = "UTC"


class BucketStep(_Step):
    derive: NewName
    bucket: str
    edges: Annotated[tuple[_Edge, ...], Field(min_length=1, max_length=1000), AfterValidator(_ascending)]


class LookupStep(_Step):
    """A value by the record's item, out of a CSV file. `otherwise`: of an item that is not there."""

    derive: NewName
    lookup: str = Field(min_length=1)
    take: str = Field(min_length=1)
    item: str = "item"  # the column of ids
    kind: Literal["text", "integer", "number"] = "text"
    otherwise: str | StrictInt | FiniteFloat


class HashStep(_Step):
    hash: str
    key: str = Field(pattern=r"^[A-Z_][A-Z0-9_]{0,99}$")  # the environment variable that has it


class DropStep(_Step):
    drop: str


class RenameStep(_Step):
    rename: str
    to: NewName


class TruncateStep(_Step):
    truncate: str
    to: int = Field(ge=1)


class TruncateTimeStep(_Step):
    truncate: str
    to: Literal["minute", "hour", "day"]
    zone: _Zone = "UTC"


def _kind(step: Any) -> str:
    known = ("filter", "as", "part", "bucket", "lookup", "hash", "drop", "rename", "truncate")
    said = step if isinstance(step, dict) else {}
    if "truncate" in said and isinstance(said.get("to"), str):
        return "truncate time"
    return next((name for name in known if name in said), "filter")


Step: TypeAlias = Annotated[
    Annotated[FilterStep, Tag("filter")]
    | Annotated[ExpressionStep, Tag("as")]
    | Annotated[PartStep, Tag("part")]
    | Annotated[BucketStep, Tag("bucket")]
    | Annotated[LookupStep, Tag("lookup")]
    | Annotated[HashStep, Tag("hash")]
    | Annotated[DropStep, Tag("drop")]
    | Annotated[RenameStep, Tag("rename")]
    | Annotated[TruncateStep, Tag("truncate")]
    | Annotated[TruncateTimeStep, Tag("truncate time")],
    Discriminator(_kind),
]


class StepsOfSettings(BaseModel):
    """What a configuration has under `[[transform]]`."""

    transform: tuple[Step, ...] = Field(max_length=100)
