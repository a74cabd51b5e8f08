"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option("--config", help="A TOML file; by default ingest.toml, if it is here.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
