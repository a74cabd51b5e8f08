"""Features as they are written, under `x-features` in a schema file or `[[feature]]` in a configuration.

`seen.py` computes them.
"""

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from ingest_service.datasets.names import NewName

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_Duration: TypeAlias = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}[smhd]$")]


def micros_in(duration: str) -> int:
    """`30m` is half an hour."""
    number, unit = re.findall(r"[0-9]+|[a-z]", duration)
    return int(number) * _SECONDS[unit] * 1_000_000


class _Feature(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    derive: NewName | None = None  # the field; by default it is named like the feature

    feature: str

    @property
    def name(self) -> str:
        return self.derive or self.feature


class Count(_Feature):
    """position: 1 for the user's first record; the others: how many there were before this one."""

    feature: Literal["position", "user_count", "item_count"]


class Gap(_Feature):
    """Seconds since the user's latest record before; -1 for the first."""

    feature: Literal["gap"]


class Session(_Feature):
    """1 for the user's first session; another begins after a gap that is longer."""

    feature: Literal["session"]
    gap: _Duration


class Popularity(_Feature):
    """How many records of the item there were before, each of which counts half after each half-life."""

    feature: Literal["popularity"]
    half_life: _Duration


Feature: TypeAlias = Annotated[Count | Gap | Session | Popularity, Field(discriminator="feature")]
ITEM_FEATURES = ("item_count", "popularity")
TIME_FEATURES = ("gap", "session", "popularity")


class FeaturesOfSettings(BaseModel):
    """What a configuration has under `[[feature]]`."""

    feature: tuple[Feature, ...] = Field(max_length=100)
