"""`python -m ingest_service`."""

from ingest_service.cli import main

if __name__ == "__main__":
    main()
