from ingest_service.sinks.dynamodb.sink import DynamoDBSink as DynamoDBSink
