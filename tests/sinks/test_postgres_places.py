"""PostgreSQL as users meet it: servers that cannot be used, told by the cause; rights, poolers, tables of others."""

import asyncio
import json
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import trustme
import yaml

from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.sinks.base import Written
from ingest_service.sinks.postgres import PostgresSink
from ingest_service.sinks.postgres.copy_rows import HEADER as COPY_HEADER
from ingest_service.sinks.postgres.copy_rows import TRAILER, numeric
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions
from ingest_service.sinks.urls import sink_at
from tests.conftest import found
from tests.datasets.test_own_fields import AT, HARD_IDS, KEPT, KEPT_ROW, RAW_ITEM, RAW_OWNER
from tests.datasets.test_schema_file import TIME
from tests.helpers import HEADER, UNREACHABLE, Cli, opened, postgresql, until
from tests.servers import CANARY_PASSWORD, PostgreSQL, find_pgbouncer

ROWS = interactions(300)
BUDGET_S = 60  # what waiting cannot mend must not take it
PLAIN = """user_id uuid NOT NULL, "timestamp" timestamptz NOT NULL, video_id uuid NOT NULL,
           event_type text, device text, session_id text"""
KEY = 'PRIMARY KEY (user_id, "timestamp", video_id)'


async def refusal(url: str) -> str:
    """Why the sink cannot be opened, told long before the budget is spent."""
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as refused:
        async with opened(f"{url}{'&' if '?' in url else '?'}retry_budget_s={BUDGET_S}"):
            pass
    assert time.monotonic() - began < BUDGET_S / 2
    assert CANARY_PASSWORD not in str(refused.value)
    return str(refused.value)


async def stored(url: str) -> None:
    """It takes rows."""
    async with opened(url) as sink:
        assert await sink.store(chunk_of(ROWS)) == Written(300)
        await sink.flush()
        assert await sink.store(chunk_of(ROWS)) == Written(300)
        await sink.flush()


@pytest.fixture
def pairs(cli: Cli) -> Path:
    return cli.file("pairs.csv", f"{HEADER}\n" + "".join(f"{i % 7},{i},{FIRST_MS + i}\n" for i in range(100)))


# --- reaching it ------------------------------------------------------------------------------------


@pytest.mark.fault(77)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((CANARY_PASSWORD, "wrong"), "it refuses the user or the password"),
        ((f":{CANARY_PASSWORD}@", "@"), "it wants a password"),
        (("/postgres?", "/nowhere?"), "it has no such database"),
        (("schema=", "sslmode=verify-full&schema="), "sslrootcert names no file|no authority that is trusted"),
        (("schema=", "sslrootcert=/nowhere.pem&sslmode=verify-ca&schema="), "sslrootcert names no file"),
    ],
)
async def test_what_cannot_be_used_is_told_at_once(
    postgresql_schema_url: str, change: tuple[str, str], says: str
) -> None:
    """By its cause, and without the password."""
    text = await refusal(postgresql_schema_url.replace(*change))
    assert any(one in text for one in says.split("|")), text


@pytest.mark.fault(77)
async def test_another_kind_of_server(redis_url: str, tmp_path: Path) -> None:
    """A port of something else."""
    port = redis_url.rpartition(":")[2].partition("/")[0]
    assert "does not speak PostgreSQL's protocol" in await refusal(f"postgresql://127.0.0.1:{port}/db")


async def test_a_server_that_is_away_ends_the_run_in_its_time() -> None:
    """Past the retry budget the sink is unavailable: exit code 69."""
    with pytest.raises(SinkUnavailable, match="nobody listens there"):
        async with opened(f"postgresql://{UNREACHABLE}/db?retry_budget_s=0.3"):
            pass


@pytest.mark.fault(77)
async def test_tls_is_verified(postgresql_schema_url: str, postgresql_authority: trustme.CA, tmp_path: Path) -> None:
    """With the authority's certificate all is well; with another's, or by another name, it is refused."""
    mine, other = tmp_path / "mine.pem", tmp_path / "other.pem"
    postgresql_authority.cert_pem.write_to_path(mine)
    trustme.CA().cert_pem.write_to_path(other)
    verified = f"{postgresql_schema_url}&sslmode=verify-full&sslrootcert="
    await stored(f"{verified}{mine}")
    assert "no authority that is trusted here" in await refusal(f"{verified}{other}")
    by_name = f"{verified}{mine}".replace("@127.0.0.1:", "@localhost:")
    assert "not for the name or address in the URL" in await refusal(by_name)


async def test_what_psql_knows_is_known(
    postgresql_schema_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PG… variables, a service and the file of passwords, as libpq reads them."""
    address = psycopg.conninfo.conninfo_to_dict(postgresql_schema_url.partition("?")[0])
    schema = postgresql_schema_url.rpartition("=")[2]
    for name in ("host", "port", "user"):
        monkeypatch.setenv(f"PG{name.upper()}", str(address[name]))
    monkeypatch.setenv("PGDATABASE", "postgres")
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"127.0.0.1:{address['port']}:postgres:postgres:{CANARY_PASSWORD}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    await stored(f"postgresql://?schema={schema}")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    assert "wants a password" in await refusal(f"postgresql://?schema={schema}")
    monkeypatch.setenv("PGPASSWORD", CANARY_PASSWORD)
    await stored(f"postgres:///postgres?schema={schema}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://localhost/db?tabel=x", "besides libpq's own it knows: .*table"),
        ("postgresql://localhost/db?consumers=0", "'consumers'"),
        ("postgresql://u:p%w@localhost/db", "%XX"),
        ("postgresql://localhost:port/db", "port"),
        ("postgresql://localhost/db?table=", "'table'"),
    ],
)
def test_a_wrong_url_is_explained(url: str, message: str) -> None:
    """What is wrong with a URL is said before anything is connected."""
    with pytest.raises(ConfigurationError, match=message):
        sink_at(url)


def test_the_drivers_own_parameters_are_passed_on() -> None:
    """Several hosts, credentials, a socket: what libpq's URIs can say stays as it is."""
    sink = sink_at("postgres://u:p%40w@a:1,b:2/db?sslmode=require&table=events&options=-c%20jit%3Doff")
    assert isinstance(sink, PostgresSink)
    assert sink._session._uri == "postgresql://u:p%40w@a:1,b:2/db?sslmode=require&options=-c%20jit%3Doff"
    assert (sink.place.name, sink.place.server) == ("public.events", "a:1,b:2/db")


# --- rights and poolers -----------------------------------------------------------------------------


@pytest.fixture
def loader(postgresql_schema_url: str) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """The URL of a user who may do no more than connect, and the connection of one who may all."""
    name = postgresql_schema_url.rpartition("=")[2]
    with postgresql(postgresql_schema_url) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{CANARY_PASSWORD}'")
        try:
            yield postgresql_schema_url.replace("//postgres:", f"//{name}:"), connection
        finally:
            connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_the_least_rights(
    cli: Cli, pairs: Path, postgresql_schema_url: str, loader: tuple[str, psycopg.Connection[Any]]
) -> None:
    """Those of docs/POSTGRES.md, no less: `check` says what is missing, and a load with them ends well."""
    url, admin = loader
    schema = url.rpartition("=")[2]

    def says() -> str:
        outcome = cli.here("check", "--to", url)
        assert outcome.code in (0, 69)
        return outcome.stdout

    assert "may not be used by this user; GRANT USAGE" in says()
    admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO {schema}")
    assert "is missing, and this user may make none; let one who may run `check --create`" in says()
    refused = cli.here("run", pairs, "--to", url)
    assert (refused.code, "42501" in refused.message) == (78, True)
    assert cli.here("check", "--to", postgresql_schema_url, "--create").code == 0
    assert "GRANT SELECT, INSERT, UPDATE on it" in says()
    admin.execute(f"GRANT SELECT, INSERT, UPDATE ON interactions, ingest_checkpoints TO {schema}")
    assert cli.here("check", "--to", url).code == 0
    for extra in ((), ("--restart",), ("--checkpoint", "file:checkpoints")):
        assert cli.load(pairs, "--to", url, *extra).counts("postgresql")["written"] == 100
    assert cli.here("verify", pairs, "--to", url).code == 0
    lacking = cli.here("run", pairs, "--to", url, "--dataset", "movielens", "--restart")
    assert lacking.code == 78


async def test_through_a_pooler_in_transaction_mode(
    postgresql_server: PostgreSQL, postgresql_schema_url: str, tmp_path: Path
) -> None:
    """Nothing is left in a session that the next transaction would need, and sinks side by side do not mix."""
    others = [interaction(1_000 + i, i) for i in range(50)]
    with found(lambda: find_pgbouncer(tmp_path, postgresql_server)) as pooler:
        url = f"{pooler.url}?{postgresql_schema_url.partition('?')[2]}"
        await stored(url)
        async with opened(url) as one, opened(url) as other:
            assert await one.checkpoints.swap("one", None, "0")
            assert await other.checkpoints.swap("other", None, "0")
            for number in range(3):
                await asyncio.gather(one.store(chunk_of(ROWS[:200])), other.store(chunk_of(others)))
                assert await one.checkpoints.swap("one", str(number), str(number + 1))
                assert await other.checkpoints.swap("other", str(number), str(number + 1))
    with postgresql(postgresql_schema_url) as connection:
        assert connection.execute("SELECT count(*) FROM interactions").fetchone() == (350,)


class SmallDisk(PostgreSQL):
    """One with a place `small` of 3 MiB, on a disk of its own that nobody else sees."""

    def command(self) -> list[str]:
        owner = pwd.getpwnam("postgres").pw_uid
        script = f'mount -t tmpfs -o size=3m,mode=700,uid={owner} tmpfs "{self.small}" && exec "$@"'
        self.small.mkdir(exist_ok=True)
        return ["unshare", "-m", "sh", "-euc", script, "sh", *super().command()]

    @property
    def small(self) -> Path:
        return self.folder / "small"


def small_disk(folder: Path) -> SmallDisk:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("NO RIGHT: this machine lets nobody mount in a namespace of their own (unshare -m)")
    return found(lambda: SmallDisk(folder, "fsync=off", "shared_buffers=1MB"))


@pytest.mark.fault(78)
async def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """Up to the budget, and it is said; with room again the same process goes on."""
    with small_disk(tmp_path) as server:
        seen = Path(f"/proc/{server.pid}/root{server.small}")
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{server.small}'")
        (seen / "full").write_bytes(bytes(2 << 20))
        url = f"{server.url}?options={quote('-c default_tablespace=small')}"
        rows = interactions(6_000)
        async with opened(f"{url}&retry_budget_s=3") as sink:
            with pytest.raises(SinkUnavailable, match="the server's disk is full"):
                await sink.store(chunk_of(rows))
        async with opened(url) as sink:
            writing = asyncio.create_task(sink.store(chunk_of(rows)))
            await until(lambda: sink.retrier.retries)
            (seen / "full").unlink()
            assert await writing == Written(6_000)
            await sink.flush()


# --- tables of others -------------------------------------------------------------------------------


@pytest.mark.fault(79)
@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (f"CREATE TABLE interactions ({PLAIN}, {KEY})", None),
        (f"CREATE TABLE interactions (id bigserial PRIMARY KEY, {PLAIN}, UNIQUE (video_id, user_id, timestamp))", None),
        (f"CREATE TABLE interactions ({PLAIN.replace('uuid', 'text')}, {KEY})", None),
        (f"CREATE TABLE interactions ({PLAIN}, tenant text NOT NULL DEFAULT 'x', {KEY})", None),
        (f"CREATE TYPE device AS ENUM ('mobile'); CREATE TABLE interactions ({PLAIN}, {KEY});"
         "ALTER TABLE interactions ALTER device TYPE device USING NULL", None),
        (f"CREATE TABLE interactions ({PLAIN})", "no unique index on user_id, timestamp, video_id"),
        (f"CREATE TABLE interactions ({PLAIN}); CREATE UNIQUE INDEX ON interactions (user_id, timestamp, video_id)"
         " WHERE device IS NULL", "no unique index on"),
        ("CREATE TABLE interactions (user_id uuid, video_id uuid)", "lacks the columns timestamp, event_type"),
        (f"CREATE TABLE interactions ({PLAIN}, tenant text NOT NULL, {KEY})", "wants a value for the column tenant"),
        (f"CREATE TABLE interactions ({PLAIN.replace('timestamptz', 'timestamp')}, {KEY})", "of type timestamp, and"),
        (f"CREATE TABLE interactions ({PLAIN.replace('video_id uuid', 'video_id bigint')}, {KEY})", "of type int8"),
        (f"CREATE TABLE interactions ({PLAIN.replace('device text', 'device text GENERATED ALWAYS AS (1) STORED')},"
         f"{KEY})", "computes the column device"),
        (f"CREATE TABLE other ({PLAIN}); CREATE VIEW interactions AS TABLE other", "is no table of its own"),
        (f"CREATE UNLOGGED TABLE interactions ({PLAIN}, {KEY})", "would be empty after a crash"),
        (f"CREATE TABLE interactions ({PLAIN}, {KEY}); CREATE RULE quiet AS ON INSERT TO interactions"
         " WHERE NEW.device = 'tv' DO INSTEAD NOTHING", "has the rule quiet"),
        (f"CREATE TABLE interactions ({PLAIN}, {KEY}) PARTITION BY RANGE (timestamp);"
         "CREATE TABLE old PARTITION OF interactions FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')", None),
    ],
)  # fmt: skip
def test_a_table_that_others_made(
    cli: Cli, pairs: Path, postgresql_schema_url: str, statements: str, says: str
) -> None:
    """It takes rows, again and again, and `verify` finds them; or it is told before a row is sent."""
    url = postgresql_schema_url
    with postgresql(url) as connection:
        connection.execute(statements)
    checked = cli.here("check", "--to", url)
    assert checked.code == (69 if says else 0), checked.stdout
    if says:
        assert says in checked.stdout
        refused = cli.here("run", pairs, "--to", url)
        assert (refused.code, says in refused.message) == (78, True)
        return
    for _ in range(2):
        assert cli.load(pairs, "--to", url, "--restart").counts("postgresql")["written"] == 100
    verified = cli.here("verify", pairs, "--to", url, "--json")
    assert (verified.code, verified.report["sinks"]["postgresql"]["compared"]) == (0, 100)


@pytest.mark.fault(79)
def test_check_makes_a_key(cli: Cli, pairs: Path, postgresql_schema_url: str) -> None:
    """When it is asked to, since it locks a large table for long; what it warns of is told with the run."""
    with postgresql(postgresql_schema_url) as connection:
        connection.execute(f"CREATE TABLE interactions ({PLAIN}); CREATE UNIQUE INDEX one ON interactions (session_id)")
    assert cli.here("check", "--to", postgresql_schema_url, "--create").code == 0
    report = cli.load(pairs, "--to", postgresql_schema_url).report["sources"][0]["sinks"]["postgresql"]
    assert "has the unique index one; of rows with the same values" in report["warnings"][0]
    assert (report["written"], report["dead"]) == (7, 93)


@pytest.mark.fault(79)
def test_rows_that_no_partition_takes(cli: Cli, postgresql_schema_url: str) -> None:
    """They alone are dead letters, and land once there is one."""
    with postgresql(postgresql_schema_url) as connection:
        connection.execute(
            f"CREATE TABLE interactions ({PLAIN}, {KEY}) PARTITION BY RANGE (timestamp);"
            "CREATE TABLE new PARTITION OF interactions FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')"
        )
    cli.file("pairs.csv", f"{HEADER}\n1,1,{FIRST_MS}\n1,2,1000000000000\n1,3,{FIRST_MS}\n")
    assert cli.load("pairs.csv", "--to", postgresql_schema_url).counts("postgresql")["written"] == 2
    (letter,) = cli.dead_letters
    assert (letter["stage"], letter["code"], letter["line"]) == ("postgresql", "refused", 3)
    with postgresql(postgresql_schema_url) as connection:
        connection.execute("CREATE TABLE others PARTITION OF interactions DEFAULT")
        (letters,) = cli.folder.rglob("dead-letters.jsonl")
        assert cli.here("replay", letters, "--to", postgresql_schema_url).code == 0
        assert connection.execute("SELECT count(*) FROM interactions").fetchone() == (3,)
    assert cli.here("verify", "pairs.csv", "--to", postgresql_schema_url).code == 0


# --- data sets of one's own -------------------------------------------------------------------------


def test_fields_have_types_that_fit(cli: Cli, postgresql_schema_url: str) -> None:
    """Ids of any text, truths, decimals, lists and times: readable by SQL, and the same records at the API."""
    url = postgresql_schema_url
    schema = {"name": "own", "dialect": {"delimiter": "\t", "header": False, "quoteChar": ""}}
    cli.file("own.yaml", yaml.safe_dump(schema | {"schema": {"fields": [RAW_OWNER, RAW_ITEM, TIME, *KEPT]}}))
    rest = "\t".join((AT, *KEPT_ROW.split(";")))
    rows = [f"{user}\t{item}\t{rest}" for user in ("u", *HARD_IDS) for item in HARD_IDS]
    cli.file("rows.tsv", "\n".join(rows) + "\n")
    for _ in range(2):
        counts = cli.load("rows.tsv", "--dataset", "own.yaml", "--to", url, "--restart").counts("postgresql")
        assert (counts["written"], counts["dead"]) == (len(rows), 0)
    with postgresql(url) as connection:
        connection.execute("SET timezone = 'UTC'")
        kept = "SELECT seen, liked, price, genres, born, bought FROM interactions"
        (values,) = set(map(repr, connection.execute(kept).fetchall()))
        ids = connection.execute("SELECT user_id, video_id FROM interactions").fetchall()
    times = datetime(1980, 3, 5, tzinfo=UTC), datetime(2020, 3, 5, tzinfo=UTC)
    utc = str(times[0].tzinfo)
    assert values.replace("zoneinfo.ZoneInfo(key='UTC')", "datetime.timezone.utc") == repr(
        (True, True, Decimal("19.90"), ["Comedy", "Café"], *times)
    ), utc
    assert sorted(ids) == sorted(tuple(row.split("\t")[:2]) for row in rows)
    verified = cli.here("verify", "rows.tsv", "--dataset", "own.yaml", "--to", url, "--json")
    assert (verified.code, verified.report["sinks"]["postgresql"]["compared"]) == (0, len(rows))


def test_data_sets_share_a_table_as_far_as_its_key_goes(cli: Cli, pairs: Path, postgresql_schema_url: str) -> None:
    """What one has beside gets a column; one with a longer key wants a table of its own."""
    to = ("--to", postgresql_schema_url)
    cli.load(pairs, *to)
    ratings = cli.file("ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.5,1583366400\n1,2,0.5,1583366401\n")
    tags = cli.file("tags.csv", "userId,movieId,tag,timestamp\n1,1,fun,1583366400\n1,1,dull,1583366400\n")
    cli.load(ratings, *to, "--dataset", "movielens")
    with postgresql(postgresql_schema_url) as connection:
        rated = connection.execute("SELECT rating FROM interactions WHERE rating IS NOT NULL ORDER BY 1").fetchall()
    assert rated == [(0.5,), (4.5,)]
    refused = cli.here("run", tags, *to, "--dataset", "movielens-tags")
    assert (refused.code, "lacks the column tag" in refused.message) == (78, True)
    own = ("--to", f"{postgresql_schema_url}&table=tags")
    assert cli.load(tags, *own, "--dataset", "movielens-tags").counts("postgresql")["written"] == 2
    for file, name, place in ((pairs, "microlens", to), (ratings, "movielens", to), (tags, "movielens-tags", own)):
        assert cli.here("verify", file, "--dataset", name, *place).code == 0


@pytest.mark.parametrize(
    "text", ["0", "-0", "0.00", "1", "-1", "19.90", "0.0001", "0.00001", "12345678.9", "10000", "1e3", "99990000.0001"]
)
def test_a_decimal_is_what_postgres_reads(postgresql_url: str, text: str) -> None:
    """Its digits and its places, however they lie in groups of four."""
    text = f"{Decimal(text):f}"
    made = numeric(text)
    row = b"\x00\x01" + len(made).to_bytes(4, "big") + made
    with psycopg.connect(postgresql_url) as connection:
        connection.execute("CREATE TEMP TABLE numbers (number numeric)")
        with connection.cursor().copy("COPY numbers FROM STDIN (FORMAT binary)") as copy:
            copy.write(COPY_HEADER + row + TRAILER)
        wanted = connection.execute("SELECT %s::numeric::text", (text,)).fetchone()
        assert connection.execute("SELECT number::text FROM numbers").fetchone() == wanted


def test_a_preview_needs_no_server(cli: Cli, pairs: Path) -> None:
    """It shows what would be stored."""
    outcome = cli.here("preview", pairs, "--to", f"postgresql://{UNREACHABLE}/db", "-n", "2")
    assert outcome.code == 0
    assert "'event_type': 'click'" in outcome.stdout
    assert json.dumps(FIRST_MS) not in outcome.stdout


def test_without_the_extra_it_is_said() -> None:
    """Who has not installed psycopg is told how."""
    script = """
import sys
sys.modules["psycopg"] = None
from ingest_service.sinks.urls import sink_at
sink_at("postgresql://localhost/db")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ConfigurationError: PostgreSQL needs psycopg; install ingest-service[postgres]." in done.stderr
