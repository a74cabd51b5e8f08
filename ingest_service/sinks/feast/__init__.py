from ingest_service.sinks.feast.sink import FeastSink as FeastSink
