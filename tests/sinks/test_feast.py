"""Feast's online store in a real Redis: what a run leaves there, which row counts, and what is refused."""

import asyncio
import json
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis

from ingest_service.errors import ConfigurationError
from ingest_service.formats.memory import BLOCK_BYTES
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.sinks.base import AnySink, Written
from ingest_service.sinks.feast.values import field_hash
from ingest_service.sinks.testing import Kit, Stored, sink  # noqa: F401 (a fixture)
from ingest_service.sinks.testing.keeping import (  # noqa: F401 (of the contract, what holds for one record a user)
    test_a_damaged_checkpoint_is_refused,
    test_a_watermark_is_found_by_the_next_runner,
    test_a_zombie_is_fenced,
    test_an_epoch_stays,
    test_checkpoints_change_by_compare_and_swap,
    test_checkpoints_of_streams_are_apart,
    test_of_many_swaps_at_once_one_is_made,
)
from ingest_service.sinks.testing.reading import (  # noqa: F401
    test_a_sink_that_is_down_is_unhealthy,
    test_check_finds_everything_in_order,
    test_close_is_safe_at_any_time,
    test_health_is_told_by_name,
)
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions, store
from ingest_service.sinks.testing.writing import (  # noqa: F401
    test_a_cancellation_is_never_swallowed,
    test_an_empty_chunk_is_nothing_to_write,
)
from ingest_service.sinks.urls import sink_at
from tests.helpers import UNREACHABLE, Cli
from tests.servers import ROOT, find_redis
from tests.sinks.test_redis import restricted
from tests.sinks.test_redis_cluster import Cluster, running  # noqa: F401 (a fixture)
from tests.test_recovery import kill_again_and_again

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("feast_golden.json").read_text())
TIME = b"_ts:taste"
RATINGS = "entity=user_id:INT64&features=rating:FLOAT,video_id:INT64"
OF_CHUNKS = "entity=user_id:STRING&features=session_id"

Hashes = dict[bytes, dict[bytes, bytes]]


def feast(redis_url: str, options: str, *, view: str = "taste") -> str:
    return f"feast+{redis_url}?project=shop&view={view}&{options}"


def hashes(url: str) -> Hashes:
    """Everything in the database but what is kept beside the rows."""
    with redis.Redis.from_url(url) as client:
        keys = [key for key in client.scan_iter(count=1000) if not key.startswith(b"feast:")]
        return {key: client.hgetall(key) for key in keys}


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def moment(micros: int) -> bytes:
    seconds, fraction = divmod(micros, 1_000_000)
    text = b"\x08" + varint(seconds) if seconds else b""
    return text + (b"\x10" + varint(fraction * 1_000) if fraction else b"")


def key_of_number(user: int) -> bytes:
    return bytes.fromhex("010000000200000007000000") + b"user_id" + struct.pack("<IIq", 4, 8, user) + b"shop"


def key_of_text(user: str) -> bytes:
    head = bytes.fromhex("010000000200000007000000") + b"user_id"
    return head + struct.pack("<II", 2, len(user.encode())) + user.encode() + b"shop"


def rated(user: int, movie: int, rating: float, seconds: int) -> tuple[bytes, dict[bytes, bytes]]:
    """What is in Redis of a user whose newest rating this is."""
    return key_of_number(user), {
        TIME: moment(seconds * 1_000_000),
        field_hash("taste", "rating"): b"\x35" + struct.pack("<f", rating),
        field_hash("taste", "video_id"): b"\x20" + varint(movie),
    }


def of_record(record: VideoInteraction, view: str = "taste") -> tuple[bytes, dict[bytes, bytes]]:
    """The same of a record that went in with OF_CHUNKS."""
    micros = int(record.timestamp.timestamp() * 1_000_000)
    session = record.session_id.encode()
    return key_of_text(str(record.user_id)), {
        f"_ts:{view}".encode(): moment(micros),
        field_hash(view, "session_id"): b"\x12" + varint(len(session)) + session,
    }


def ratings(path: Path, rows: list[tuple[int, int, float, int]], note: str = "") -> Path:
    lines = [f"{user},{movie},{rating},{seconds},{note}" for user, movie, rating, seconds in rows]
    path.write_text("\n".join(["userId,movieId,rating,timestamp,note", *lines]) + "\n")
    return path


def some_ratings(n: int, users: int, seed: int) -> list[tuple[int, int, float, int]]:
    """In no order of time, and many at one time."""
    rng = random.Random(seed)
    return [
        (rng.randrange(1, users), rng.randrange(1, 300), rng.randrange(1, 11) / 2, rng.randrange(1, n // 20))
        for _ in range(n)
    ]


def newest_of(*files: list[tuple[int, int, float, int]]) -> Hashes:
    """By a loop: of each user the newest, of equal times the later row."""
    found: dict[int, tuple[int, int, float, int]] = {}
    for row in (row for rows in files for row in rows):
        if row[0] not in found or row[3] >= found[row[0]][3]:
            found[row[0]] = row
    return dict(rated(*row) for row in found.values())


# --- the contract ---------------------------------------------------------------------------------


class FeastKit(Kit):
    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self.url = feast(redis_url, OF_CHUNKS)
        self.down_url = feast(f"redis://{UNREACHABLE}/0", f"{OF_CHUNKS}&retry_budget_s=0.2")

    def stored(self) -> Stored:
        return {(key.hex(), ""): found for key, found in hashes(self.redis_url).items()}

    def remove(self, record: VideoInteraction) -> None:
        raise NotImplementedError

    def exact(self, record: VideoInteraction) -> object:
        return of_record(record)[1]


@pytest_asyncio.fixture
async def kit(redis_db_url: str) -> Kit:
    return FeastKit(redis_db_url)


@pytest.mark.parametrize("delay_s", [0, 0.005, 0.05])
async def test_a_cancelled_write_leaves_the_sink_usable(kit: FeastKit, sink: AnySink, delay_s: float) -> None:  # noqa: F811
    """Wherever a write was cancelled, the same chunk can be written next, and what follows it, too."""
    rows = interactions(1500, users=600)
    writing = asyncio.create_task(sink.store(chunk_of(rows[:1000])))
    await asyncio.sleep(delay_s)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    for part in (rows[:1000], rows[1000:]):
        await store(sink, chunk_of(part))
    assert hashes(kit.redis_url) == dict(of_record(row) for row in rows)


async def test_each_row_is_accounted_for(kit: FeastKit, sink: AnySink) -> None:  # noqa: F811
    """One row a user is written, the others are merged into it; odd texts and microseconds are as they were."""
    rows = interactions(200)
    rows += [
        interaction(1, 1, 9_214_646_399_999),
        interaction(2, 2, 9_214_646_399_998, session_id='a "quoted" \\ text\r\n\x01 é 𝄞 and }'),
        interaction(3, 3, 9_000_000_000_000, session_id=""),
        interaction(4, 4).model_copy(
            update={"timestamp": interaction(4, 4, FIRST_MS * 2).timestamp.replace(microsecond=7)}
        ),
    ]
    assert await store(sink, chunk_of(rows)) == Written(7, len(rows) - 7)
    assert hashes(kit.redis_url) == dict(of_record(row) for row in rows)


# --- which row counts -----------------------------------------------------------------------------


def test_the_newest_rating_of_each_user_counts(redis_db_url: str, cli: Cli) -> None:
    """Within a file and across files, whatever order they come in; at one time the later row, and the later run."""
    url = feast(redis_db_url, RATINGS)
    one, two = some_ratings(4_000, 300, 1), some_ratings(4_000, 400, 2)
    for name, rows in (("one.csv", one), ("two.csv", two), ("again.csv", one)):
        cli.load(ratings(cli.folder / name, rows), "--dataset", "movielens", "--to", url)
    assert hashes(redis_db_url) == newest_of(one, two, one)


@pytest.mark.parametrize("new_us", [row["time_us"] for row in GOLDEN["rows"]["INT64"]])
async def test_times_are_compared_as_feast_keeps_them(kit: FeastKit, sink: AnySink, new_us: int) -> None:  # noqa: F811
    """What Feast has written of a later event stays; of an earlier one or of one at the same time it is replaced."""
    record = interaction(1, 1)
    chunk = chunk_of([record])
    chunk.columns.times[:] = new_us
    key, own = of_record(record)
    own[TIME] = moment(new_us)
    before_1970 = b"\x08" + varint(-5)
    olds = {bytes.fromhex(row["hash"][TIME_OF_GOLDEN]): row["time_us"] for row in GOLDEN["rows"]["INT64"]}
    for old, old_us in {**olds, before_1970: -5_000_000, b"\x08\x80": -1}.items():
        there = {TIME: old, field_hash("taste", "session_id"): b"\x12\x00", b"other": b"stays"}
        with redis.Redis.from_url(kit.redis_url) as client:
            client.delete(key)
            client.hset(key, mapping=there)
        assert await store(sink, chunk) == Written(1)
        expected = there if old_us > new_us else {**there, **own}
        assert hashes(kit.redis_url) == {key: expected}, (old_us, new_us)


TIME_OF_GOLDEN = f"_ts:{GOLDEN['view']}".encode().hex()


async def test_a_server_that_forgets_scripts_is_written_to(kit: FeastKit, sink: AnySink) -> None:  # noqa: F811
    """It may be flushed, or another one since a failover."""
    for row in interactions(3, users=3):
        with redis.Redis.from_url(kit.redis_url) as client:
            client.script_flush()
        assert await store(sink, chunk_of([row])) == Written(1)
    assert len(hashes(kit.redis_url)) == 3


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.fault(1)
def test_killed_runs_leave_what_one_run_does(redis_db_url: str, cli: Cli) -> None:
    """After kills at random moments the next run ends with each user's newest rating."""
    rows = some_ratings(8_000, 1_000, 3)
    path = ratings(cli.folder / "ratings.csv", rows, note="x" * (6 * BLOCK_BYTES // 8_000))
    url = feast(redis_db_url, RATINGS)
    assert kill_again_and_again(cli, 6, 2, path, "--dataset", "movielens", "--to", f"{url}&rate=1500") > 1
    outcome = cli.run_with(path, "--dataset", "movielens", "--to", url)
    assert hashes(redis_db_url) == newest_of(rows)
    counts = outcome.counts("feast")
    assert counts["written"] + counts["merged"] == 8_000


def test_views_are_loaded_apart(redis_db_url: str, cli: Cli) -> None:
    """Each view, and each choice of features, has checkpoints of its own, and so have the interactions beside."""
    path = ratings(cli.folder / "ratings.csv", [(1, 7, 4.5, 100), (2, 8, 3.0, 100)])
    urls = [
        redis_db_url,
        feast(redis_db_url, RATINGS),
        feast(redis_db_url, RATINGS, view="other"),
        feast(redis_db_url, f"{RATINGS},device"),
    ]
    for url in urls:
        cli.load(path, "--dataset", "movielens", "--to", url)
    with redis.Redis.from_url(redis_db_url) as client:
        fields = client.hgetall(key_of_number(1))
    device = {field_hash("taste", "device"): b"\x12\x07unknown"}
    other = {
        name.replace(b"taste", b"other"): value for name, value in rated(1, 7, 4.5, 100)[1].items() if name == TIME
    }
    other |= {
        field_hash("other", "rating"): b"\x35" + struct.pack("<f", 4.5),
        field_hash("other", "video_id"): b"\x20\x07",
    }
    assert fields == rated(1, 7, 4.5, 100)[1] | device | other


def test_a_data_set_of_ones_own_goes_in(redis_db_url: str, cli: Cli) -> None:
    """Fields by their kinds, ids as texts, and times of their own."""
    schema = {
        "name": "visits",
        "schema": {
            "fields": [
                {"name": "who", "x-role": "owner", "x-stored": "raw"},
                {"name": "what", "x-role": "item"},
                {"name": "at", "type": "integer", "x-role": "time", "x-unit": "s"},
                {"name": "n", "type": "integer", "x-keep": True},
                {"name": "share", "type": "number", "x-keep": True},
                {"name": "is_new", "type": "boolean", "x-keep": True},
                {"name": "since", "type": "datetime", "x-keep": True},
            ]
        },
    }
    cli.file("visits.json", json.dumps(schema))
    cli.file("visits.csv", "who,what,at,n,share,is_new,since\nann é,a,100,-7,0.25,true,2020-03-05T00:00:00Z\n")
    url = feast(redis_db_url, "entity=user_id:STRING&features=n,share,is_new,since,user_id")
    cli.load("visits.csv", "--dataset", "visits.json", "--to", url)
    expected = {
        "n": b"\x20" + varint(-7),
        "share": b"\x29" + struct.pack("<d", 0.25),
        "is_new": b"\x38\x01",
        "since": b"\x40" + varint(1_583_366_400),
        "user_id": b"\x12\x06" + "ann é".encode(),
    }
    found = {field_hash("taste", name): value for name, value in expected.items()} | {TIME: b"\x08\x64"}
    assert hashes(redis_db_url) == {key_of_text("ann é"): found}


# --- what is refused ------------------------------------------------------------------------------


async def test_a_key_of_another_kind_refuses_its_own_rows_only(kit: FeastKit, sink: AnySink) -> None:  # noqa: F811
    rows = interactions(30, users=10)
    key, _ = of_record(rows[3])
    with redis.Redis.from_url(kit.redis_url) as client:
        client.set(key, "something else")
        written = await store(sink, chunk_of(rows))
        assert client.get(key) == b"something else"
        client.delete(key)
    assert (written.written, written.merged) == (9, 20)
    assert [(row.raw, row.code, row.stage) for row in written.dead] == [(b"row 23", "wrong_type", "feast")]
    assert hashes(kit.redis_url) == {name: found for name, found in map(of_record, rows) if name != key}


def test_a_number_that_does_not_fit_is_a_dead_letter(redis_db_url: str, cli: Cli) -> None:
    """The newest of the others counts."""
    path = ratings(cli.folder / "ratings.csv", [(1, 7, 4.5, 100), (1, 2**31, 3.0, 200), (2, 2**31 - 1, 1.0, 100)])
    url = feast(redis_db_url, "entity=user_id:INT64&features=video_id:INT32")
    cli.load(path, "--dataset", "movielens", "--to", url)
    assert [(letter["line"], letter["code"]) for letter in cli.dead_letters] == [(3, "out_of_range")]
    movies = {key: found[field_hash("taste", "video_id")] for key, found in hashes(redis_db_url).items()}
    assert movies == {key_of_number(1): b"\x18\x07", key_of_number(2): b"\x18" + varint(2**31 - 1)}


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (["run"], "entity=user_id:INT64&features=colour", "has no field 'colour'"),
        (["run"], "entity=user_id:INT64", "'features' of feast+redis:// is wrong: Field required"),
        (["run"], f"{RATINGS}&consumers=2", "'consumers' of feast+redis:// is wrong"),
        (["run"], f"{RATINGS}&prefix=a", "has no option 'prefix'"),
        (["crash-test"], RATINGS, "feast is a kind of sink that"),
    ],
)
def test_what_is_not_done_is_said_in_a_sentence(
    redis_db_url: str, cli: Cli, command: list[str], options: str, message: str
) -> None:
    path = ratings(cli.folder / "ratings.csv", [(1, 7, 4.5, 100)])
    outcome = cli.here(*command, path, "--dataset", "movielens", "--to", feast(redis_db_url, options))
    assert outcome.code == 78
    assert message in outcome.stdout + outcome.stderr
    assert hashes(redis_db_url) == {}


def test_check_looks_at_the_features(redis_db_url: str, cli: Cli) -> None:
    """With a source it knows the data set."""
    path = ratings(cli.folder / "ratings.csv", [(1, 7, 4.5, 100)])
    assert cli.here("check", path, "--dataset", "movielens", "--to", feast(redis_db_url, RATINGS)).code == 0
    outcome = cli.here(
        "check", path, "--dataset", "movielens", "--to", feast(redis_db_url, "entity=user_id:INT64&features=colour")
    )
    assert outcome.code == 69 and "has no field 'colour'" in outcome.stdout


def test_the_rights_of_the_page_suffice(tmp_path: Path, cli: Cli) -> None:
    """A user with these and no others checks, loads and resumes."""
    page = (ROOT / "docs" / "FEAST.md").read_text()
    (rights,) = re.findall(r"Rights: `(.*?)` on `~\*`", page)
    path = ratings(cli.folder / "ratings.csv", [(1, 7, 4.5, 100)])
    with find_redis(tmp_path) as server:
        arguments = (path, "--dataset", "movielens", "--to", feast(restricted(server, *rights.split()), RATINGS))
        for command in ("check", "run", "run", "status", "verify"):
            outcome = cli.here(command, *arguments)
            assert outcome.code == 0, outcome.stdout + outcome.stderr
        assert hashes(server.url) == dict([rated(1, 7, 4.5, 100)])


async def test_a_cluster_is_refused(running: Cluster) -> None:  # noqa: F811
    """Its other nodes hold keys that the first would not take."""
    refused = sink_at(feast(running.url, RATINGS))
    with pytest.raises(ConfigurationError, match="this one is a cluster"):
        await refused.open()
    await refused.close()


def test_workers_load_it_in_order(cli: Cli, redis_db_url: str) -> None:
    """Of two rows of one time the later one wins, wherever they stand: the source is not divided for it."""
    rows = [(n % 40, n, 0.5 + n % 9 / 2, 1_600_000_000) for n in range(20_000)]
    path = ratings(cli.folder / "ratings.csv", rows, note="n" * 120)
    command = (path, "--dataset", "movielens", "--to", feast(redis_db_url, RATINGS))
    cli.run_with(*command)
    before = hashes(redis_db_url)
    cli.run_with(*command, "--workers", "2", "--shard-mb", "1", "--restart")
    assert hashes(redis_db_url) == before and len(before) == 40
