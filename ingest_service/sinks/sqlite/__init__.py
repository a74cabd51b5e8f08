from ingest_service.sinks.sqlite.sink import SQLiteSink as SQLiteSink
