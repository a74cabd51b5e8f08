"""Parquet files in a folder."""

from ingest_service.sinks.parquet.sink import ParquetSink as ParquetSink
