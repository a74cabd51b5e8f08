from ingest_service.sinks.redis.sink import RedisSink as RedisSink
