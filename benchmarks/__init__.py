"""Measures ingest_service beside the scripts and tools that would do the same job: `python -m benchmarks`."""
