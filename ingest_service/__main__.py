"""`python -m ingest_service`."""

from ingest_service.cli.app import main

if __name__ == "__main__":
    main()
