"""The command `serve`."""

from typing import Annotated

import typer

from ingest_service.cli.common import Config, execute, settings_of
from ingest_service.errors import ConfigurationError


def serve(
    config: Config = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="Where to listen; any but loopback needs a token. By default 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="8080 by default; 0 for one that is free.")
    ] = None,
) -> None:
    """Run as a service: files come in by API, inbox and schedule; see docs/SERVE.md."""
    flags = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings_of({"serve": flags or None}, config)
    try:
        from ingest_service.service.serve import serve as run
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The service needs {error.name}; get it with: pip install 'ingest-service[serve]'."
        ) from None
    execute(run(settings, config))
