"""Names that a file may give: of stored fields, and of time zones."""

from zoneinfo import ZoneInfo

from ingest_service.rows.interaction import INTERACTION

NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"  # of a stored field: every store takes it as it is
TAKEN = frozenset((*INTERACTION.texts, "event_key", "epoch_ms", "expires_at", "body", "id", "_id"))


def known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except Exception as error:  # of several kinds, for a name that is none or leads elsewhere
        raise ValueError("there is no such time zone") from error
    return name
