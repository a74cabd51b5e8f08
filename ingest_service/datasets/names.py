"""Names that a file may give: of stored fields, and of time zones."""

from typing import Annotated, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field

from ingest_service.rows.interaction import INTERACTION

NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"  # of a stored field: every store takes it as it is
TAKEN = frozenset((*INTERACTION.texts, "event_key", "epoch_ms", "expires_at", "body", "id", "_id"))


def _free_name(name: str) -> str:
    if name.lower() in TAKEN:
        raise ValueError(f"{name!r} is a field of every record; choose another name")
    return name


NewName: TypeAlias = Annotated[str, Field(pattern=NAME), AfterValidator(_free_name)]


def known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except Exception as error:  # of several kinds, for a name that is none or leads elsewhere
        raise ValueError("there is no such time zone") from error
    return name
