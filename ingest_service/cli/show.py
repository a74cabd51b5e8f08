"""The command `show`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ingest_service.cli.common import Config, Dataset, To, execute, output, say, settings_of

if TYPE_CHECKING:
    from ingest_service.audit.holdings import Holding, KnownItem
    from ingest_service.config import Settings


def show(
    user: Annotated[
        str, typer.Argument(metavar="USER", help="A user's id as it stands in the files of the data set, or a UUID.")
    ],
    to: To = None,
    dataset: Dataset = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many rows of each sink.")] = 20,
    config: Config = None,
    titles: Annotated[
        bool, typer.Option("--titles", help="With the titles of videos, where the sink has them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a sink.")] = False,
) -> None:
    """What each sink holds of a user, newest first; or of an item, where the data set is about items."""
    holdings = execute(_show(user, settings_of({"to": to or None, "dataset": dataset}, config), titles=titles))
    with output():
        for holding in holdings:
            for line in [json.dumps(holding.as_json(limit))] if as_json else holding.lines(user, limit):
                say(line)


async def _show(user: str, settings: "Settings", *, titles: bool) -> "list[Holding | KnownItem]":
    import asyncio

    from ingest_service.audit.holdings import held_by
    from ingest_service.pipeline.run import sinks_of

    dataset = await asyncio.to_thread(settings.dataset_named)
    user_id = dataset.stored_id(user)
    sinks = sinks_of(settings.sink_urls(), dataset)
    return [await held_by(sink, user_id, dataset.schema, titles=titles) for sink in sinks]
