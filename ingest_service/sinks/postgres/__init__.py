from ingest_service.errors import ConfigurationError

try:
    import psycopg  # noqa: F401 (whether it is there, and finds its libpq)
except ImportError:
    raise ConfigurationError("PostgreSQL needs psycopg; install ingest-service[postgres].") from None

from ingest_service.sinks.postgres.sink import PostgresSink as PostgresSink
