def main() -> None:
    """The console script. A command's imports take a while, in which it can be told to stop already."""
    from ingest_service.runtime.early import stop_at_once

    stop_at_once()
    from ingest_service.cli.app import main as run

    run()
