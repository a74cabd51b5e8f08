from ingest_service.sinks.mongodb.sink import MongoDBSink as MongoDBSink
