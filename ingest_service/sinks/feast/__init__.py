from ingest_service.sinks.feast.dynamodb import FeastDynamoDBSink as FeastDynamoDBSink
from ingest_service.sinks.feast.redis import FeastSink as FeastSink
