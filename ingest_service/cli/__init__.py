from ingest_service.cli.app import main as main
