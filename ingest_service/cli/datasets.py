"""`datasets`: what can be loaded by name."""

import json
from typing import Any

import typer

from ingest_service.cli.common import AsJson, output


def datasets(as_json: AsJson = False) -> None:
    """List the data sets that are known by name, with their columns, sizes and pages."""
    from ingest_service.datasets.catalogue import known_datasets

    found = known_datasets()
    with output():
        for one in found:
            typer.echo(json.dumps(one) if as_json else "\n".join(_lines(one)))


def _lines(one: dict[str, Any]) -> list[str]:
    lines = [f"{one['name']}: {one['title']}" if one["title"] else one["name"]]
    lines.append(f"  {one['format']}: {', '.join(one['columns'])}")
    if one["rows"]:
        lines.append("  " + "; ".join(f"{name} {rows:,} rows" for name, rows in one["rows"].items()))
    return [*lines, *(f"  {text}" for text in (one["description"], one["homepage"]) if text)]
