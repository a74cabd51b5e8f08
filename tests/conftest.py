"""Fixtures that every test may use: real servers, names of one's own in them, and a clean environment."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import botocore.session
import psycopg
import pymongo
import pytest
import redis
import trustme
from blockbuster import blockbuster_ctx

from tests.buckets import Moto, find_s3
from tests.helpers import CANARY_AWS_SECRET, Cli
from tests.servers import (
    ROOT,
    PostgreSQL,
    Server,
    ServerMissingError,
    find_chromium,
    find_dynamodb,
    find_earlier,
    find_mongodb,
    find_postgresql,
    find_promtool,
    find_redis,
)

_REDIS_ADDRESS = os.environ.get("INGEST_TEST_REDIS_URL", "")
_MONGODB_ADDRESS = os.environ.get("INGEST_TEST_MONGODB_URI", "")
_DYNAMODB_ADDRESS = os.environ.get("INGEST_TEST_DYNAMODB_URL", "")

_OUR_NAMES = {
    "LOG_LEVEL",
    "GCS_BUCKET_NAME",
    "MONGODB_URI",
    "MOVIELENS_URL",
    "MOVIELENS_ZIP_FILENAME",
    "HF_MODEL_NAME",
    "HF_DEVICE",
    "EMBEDDING_BATCH_SIZE",
    "REDIS_URL",
    "TRACEPARENT",
}
_CLAIM_S = 3600
_SERVED = {
    "redis_url",
    "dynamodb_url",
    "mongodb_url",
    "postgresql_url",
    "chromium",
    "promtool",
    "moto",
}  # the others begin with one of these

T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-servers", action="store_true", help="leave out what needs a server or a browser")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--without-servers"):
        needing = [item for item in items if _SERVED & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in set(needing)]
    # The longest begin first: begun last, one of them would run alone while the other workers wait.
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True, scope="session")
def no_servers_unless_wanted(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --without-servers, a test that starts one by itself is skipped too."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--without-servers"):
            patch.setattr(Server, "start", lambda _: pytest.skip("needs a server"))
        yield


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """Neither a developer's settings nor credentials reach a test or what it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("INGEST_", "AWS_", "GOOGLE_", "OTEL_", "PG")) or name in _OUR_NAMES:
                patch.delenv(name)
        # DynamoDB Local takes keys of letters and digits only.
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", CANARY_AWS_SECRET)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")  # the name that botocore reads
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="session")
def redis_url(clean_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Redis. It may hold other things: most tests want `redis_db_url`."""
    if _REDIS_ADDRESS:
        yield _REDIS_ADDRESS
        return
    yield from _url_of(find_redis, tmp_path_factory.mktemp("redis"))


@pytest.fixture
def redis_db_url(redis_url: str) -> Iterator[str]:
    """A database of Redis that is empty at first, and emptied afterwards."""
    if _REDIS_ADDRESS:
        yield from _borrowed_database(redis_url)
        return
    url = _with_database(redis_url, 1)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    yield url


@pytest.fixture(scope="session")
def dynamodb_url(clean_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a real DynamoDB API."""
    if _DYNAMODB_ADDRESS:
        yield _DYNAMODB_ADDRESS
        return
    yield from _url_of(find_dynamodb, tmp_path_factory.mktemp("dynamodb"))


@pytest.fixture
def table(dynamodb_url: str) -> Iterator[str]:
    """A table name of this test's own; at the end every table whose name begins with it is deleted."""
    name = f"test_{uuid.uuid4().hex}"
    yield name
    client: Any = botocore.session.get_session().create_client("dynamodb", endpoint_url=dynamodb_url)
    try:
        for page in client.get_paginator("list_tables").paginate():
            for found in page["TableNames"]:
                if found.startswith(name):
                    client.delete_table(TableName=found)
    finally:
        client.close()


@pytest.fixture(scope="session")
def mongodb_url(clean_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server of MongoDB's protocol, without a database."""
    if _MONGODB_ADDRESS:
        yield _MONGODB_ADDRESS.rstrip("/")
        return
    yield from _url_of(find_mongodb, tmp_path_factory.mktemp("mongodb"))


@pytest.fixture
def mongodb_db_url(mongodb_url: str) -> Iterator[str]:
    """A database of this test's own; the driver stays with the address even where the server names others."""
    url = f"{mongodb_url}/test_{uuid.uuid4().hex}"
    yield f"{url}?directConnection=true"
    if not _MONGODB_ADDRESS:
        return  # it goes with its server; to drop it would take longer than many a test
    with pymongo.MongoClient[dict[str, Any]](mongodb_url, directConnection=True) as client:
        client.drop_database(url.rpartition("/")[2])


@pytest.fixture(scope="session")
def postgresql_authority() -> trustme.CA:
    """Who vouches for the PostgreSQL of the tests."""
    return trustme.CA()


@pytest.fixture(scope="session")
def postgresql_server(
    clean_environment: None, tmp_path_factory: pytest.TempPathFactory, postgresql_authority: trustme.CA
) -> Iterator[PostgreSQL]:
    """A real PostgreSQL. It takes TLS from those who ask."""
    folder = tmp_path_factory.mktemp("postgresql")
    with found(lambda: find_postgresql(folder, "fsync=off", tls=postgresql_authority)) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_url(postgresql_server: PostgreSQL) -> str:
    """Its address, as its superuser."""
    return postgresql_server.url


@pytest.fixture
def postgresql_schema_url(postgresql_url: str) -> Iterator[str]:
    """A schema of this test's own, empty at first."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield f"{postgresql_url}?schema={name}"
        connection.execute(f"SET client_min_messages = error; DROP SCHEMA {name} CASCADE")


@pytest.fixture(scope="session")
def moto(clean_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """A server of S3's protocol. Clients find it by its `environment`."""
    with found(lambda: find_s3(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """Its certificate, as users name it."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a real browser."""
    return found(find_chromium)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command, in a folder of the test's own; what it started is ended."""
    found = Cli(tmp_path)
    yield found
    found.close()


@pytest.fixture
def no_blocking() -> Iterator[None]:
    """A blocking call (file, socket, sleep, lock, SQLite) on the event loop raises BlockingError."""
    with blockbuster_ctx():
        yield


@pytest.fixture(scope="session")
def ml_latest_small() -> Path:
    """MovieLens latest-small, where it lies beside the checkout; an optional input, so CI skips as well."""
    folder = ROOT.parent / "shared" / "data" / "ml-latest-small"
    if not folder.is_dir():
        pytest.skip("NO DATA: ../shared/data/ml-latest-small is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def earlier() -> Path:
    """The command of version 0.1.0."""
    return found(find_earlier)


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of Prometheus's own tool."""
    return found(find_promtool)


def _url_of(find: Callable[[Path], Server], folder: Path) -> Iterator[str]:
    with found(lambda: find(folder)) as server:
        yield server.url


def found(find: Callable[[], T]) -> T:
    try:
        return find()
    except ServerMissingError as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"NO SERVER: {error}", pytrace=False)
        pytest.skip(f"NO SERVER: {error}")


def _with_database(url: str, number: int) -> str:
    return urlsplit(url)._replace(path=f"/{number}").geturl()


def _borrowed_database(url: str) -> Iterator[str]:
    """Lend an empty database of a Redis that is not ours, claimed so that no second test run takes it too."""
    with redis.Redis.from_url(url) as owner:
        for number in range(15, 0, -1):
            claim = f"ingest-test:database:{number}"
            if not owner.set(claim, "claimed", nx=True, ex=_CLAIM_S):
                continue
            try:
                with redis.Redis.from_url(_with_database(url, number)) as client:
                    if client.dbsize():
                        continue  # somebody else's data
                    yield _with_database(url, number)
                    # It was empty, so what is here now the test made. Not FLUSHDB: accounts may lack it.
                    for key in client.scan_iter(count=1000):
                        client.delete(key)
                    return
            finally:
                owner.delete(claim)
    pytest.fail("every database of INGEST_TEST_REDIS_URL from 1 to 15 holds something or is claimed")
