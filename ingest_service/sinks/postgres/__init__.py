from ingest_service.sinks.postgres.sink import PostgresSink as PostgresSink
