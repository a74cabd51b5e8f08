"""What `verify` compares of a sink of a view; polars is imported when it does."""

from typing import TYPE_CHECKING

from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Schema
from ingest_service.sinks.feast.view import View

if TYPE_CHECKING:
    import polars as pl


class OfView:
    """Each entity's newest record, as the view has it."""

    view: View

    def in_own_form(self, columns: Columns) -> "pl.DataFrame":
        from ingest_service.sinks.feast.readback import in_own_form

        return in_own_form(self.view, columns)

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.feast.readback import newest

        return newest(frame)
