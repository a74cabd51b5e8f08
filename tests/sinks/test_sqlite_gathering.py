"""Chunks that wait and are stored together: in which order, how many, and what readers, kills and stops see of it."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Field, FieldKind
from ingest_service.rows.texts import Texts
from ingest_service.sinks.gathering import Gathering
from ingest_service.sinks.sqlite import packed
from ingest_service.sinks.sqlite.packed import Packed, merged
from ingest_service.sinks.testing.rows import FIRST_MS, columns_of, interaction
from tests.helpers import HEADER, Cli, finish, sqlite_rows, until, wait_for_event, write_pairs

OWNERS = ["", "a", "user_001", "user_001b", "user_002", "user_0", "é" * 5, "\0" * 9, "z" * 40]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def columns(owners: Sequence[str], sessions: Sequence[str]) -> Columns:
    rows = [interaction(1, number) for number in range(len(owners))]
    made = columns_of(rows, user_id=owners, session_id=sessions)
    numbers = {"weight": np.arange(len(owners)) / 3, "place": np.arange(len(owners)) - 5}
    fields = [Field("weight", FieldKind.FLOAT), Field("place", FieldKind.INT)]
    return replace(made, schema=made.schema.extended("numbered", *fields), numbers=numbers)


def told(rows: Columns) -> list[tuple[object, ...]]:
    texts = [texts.to_list() for texts in rows.texts.values()]
    return list(zip(*texts, *(numbers.tolist() for numbers in rows.numbers.values()), strict=True))


# --- order ------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.tuples(st.sampled_from(OWNERS), TEXTS), min_size=1, max_size=30), min_size=1, max_size=6))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_runs_become_one_in_the_order_of_their_owners(runs: list[list[tuple[str, str]]]) -> None:
    """Every row once and as it was; rows of one owner in the order in which they came, over the borders of blocks."""
    chunks = [columns([owner for owner, _ in run], [session for _, session in run]) for run in runs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "LEAST_ROWS", 4)
        parts = [told(part) for part in merged([Packed.of(chunk) for chunk in chunks])]
    found = [row for part in parts for row in part]
    came = [row for chunk in chunks for row in told(chunk)]
    assert sorted(found) == sorted(came)
    for owner in OWNERS:
        assert [row for row in found if row[0] == owner] == [row for row in came if row[0] == owner]
    wide = [str(row[0]).encode()[:8] for row in found if len(str(row[0]).encode()) >= 8]
    assert len(wide) < len(found) or wide == sorted(wide)


def test_many_chunks_take_a_fraction_of_their_memory() -> None:
    """And only a block of each is unpacked at a time."""
    rng = np.random.default_rng(1)
    users = [f"00000000-0000-4000-8000-{user:012d}" for user in rng.integers(0, 1_000, 20_000).tolist()]
    chunk = columns(users, [f"session_{user[-6:]}" for user in users])
    one = Packed.of(chunk)
    assert one.n_bytes < 60 * one.n
    assert sum(texts.buffer.nbytes + texts.starts.nbytes for texts in chunk.texts.values()) > 3 * one.n_bytes
    assert max(len(part) for part in one.unpacked()) <= packed.LEAST_ROWS
    assert max(len(part) for part in merged([one] * 8)) <= 8 * packed.LEAST_ROWS


def test_one_text_for_all_stays_one() -> None:
    """Over all runs, so that it is handed to SQLite once a statement and not with each row."""
    chunk = columns(["a" * 8, "b" * 8], ["x", "y"])
    chunk = replace(chunk, texts={**chunk.texts, "device": Texts.constant("mobile", 2)})
    again = replace(chunk, texts={**chunk.texts, "device": Texts.constant("mobile", 2)})
    for part in merged([Packed.of(chunk), Packed.of(again)]):
        assert (part.texts["device"].buffer.tobytes(), set(part.texts["device"].to_list())) == (b"mobile", {"mobile"})


# --- what gathers -----------------------------------------------------------------------------------


class Store:
    """Notes what it is given together, and takes its time: until `go` is set."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go = asyncio.Event()
        self.fails = False

    async def __call__(self, runs: Sequence[Packed]) -> None:
        self.calls.append([run.n for run in runs])
        await self.go.wait()
        if self.fails:
            raise OSError("the store fails here")


def chunk_of_size(n: int) -> Packed:
    return Packed.of(columns(["a" * 8] * n, ["x"] * n))


async def test_what_comes_meanwhile_is_stored_together() -> None:
    """The first at once; the next ones in one go, in their order, once it is done."""
    store = Store()
    gathering = Gathering(store, 100)
    tasks: list[asyncio.Future[None]] = []
    for n in range(1, 6):
        tasks.append(asyncio.create_task((await gathering.take(chunk_of_size(n)))()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
    assert store.calls == [[1]]
    store.go.set()
    await asyncio.gather(*tasks)
    assert store.calls == [[1], [2, 3, 4, 5]]


@pytest.mark.parametrize("limit", ["rows", "bytes"])
async def test_more_than_its_measure_does_not_gather(limit: str) -> None:
    """What is being stored counts, too; a chunk that is larger than the measure goes alone."""
    store = Store()
    gathering = Gathering(store, 10 if limit == "rows" else 1 << 30)
    sizes = [4, 4, 4, 50]
    if limit == "bytes":
        gathering.most_bytes = sum(chunk_of_size(size).n_bytes for size in sizes[:2]) + 1
    taken: list[int] = []

    async def one(n: int) -> None:
        stored = await gathering.take(chunk_of_size(n))
        taken.append(n)
        await stored()

    tasks = [asyncio.create_task(one(size)) for size in sizes]
    for _ in range(20):
        await asyncio.sleep(0)
    assert taken == [4, 4]
    store.go.set()
    await asyncio.gather(*tasks)
    assert sorted(taken) == sorted(sizes)
    assert [50] in store.calls


async def test_what_failed_or_was_cancelled_waits_no_more() -> None:
    """Its rows are not settled, so they come again; the others' are stored."""
    store = Store()
    gathering = Gathering(store, 100)
    first, second, third = [asyncio.ensure_future((await gathering.take(chunk_of_size(n)))()) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first,))
    assert first.cancelled()
    store.fails = True
    store.go.set()
    with pytest.raises(OSError, match="fails here"):
        await second
    store.fails = False
    await asyncio.gather(third, return_exceptions=True)
    stored = await gathering.take(chunk_of_size(4))
    await stored()
    assert store.calls[-1] == [4]


# --- whole runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "checkpoint"),
    [
        ("sqlite-merge:2", "sink"),
        ("sqlite-inserted:3", "sink"),
        ("sqlite-inserted:4", "file:checkpoints"),
        ("sqlite-merged:1", "file:checkpoints"),
        ("sqlite-merged:2", "sink"),
    ],
)
@pytest.mark.fault(1, 61)
def test_killed_while_chunks_are_stored_together(cli: Cli, place: str, checkpoint: str) -> None:
    """The next run ends with the rows and counts of a clean one, in a file that held rows of a file that overlaps."""
    earlier = write_pairs(cli.folder / "earlier.csv", 5_000, blocks=1, seed=2)
    pairs = write_pairs(cli.folder / "pairs.csv", 20_000, blocks=8)
    for name in ("clean.db", "rows.db"):
        cli.load(earlier.path, "--to", f"sqlite:///{name}", "--state-dir", f"{name}.state")
    clean = cli.load(pairs.path, "--to", "sqlite:///clean.db", "--state-dir", "clean.db.state")
    to = ("--to", "sqlite:///rows.db", "--state-dir", "rows.db.state", "--checkpoint", checkpoint)
    killed = cli.run("run", pairs.path, *to, INGEST_TEST_FAULT_POINT=place)
    assert killed.code == -signal.SIGKILL
    outcome = cli.load(pairs.path, *to)
    assert outcome.counts("sqlite") == clean.counts("sqlite")
    assert sqlite_rows(cli.folder / "rows.db") == sqlite_rows(cli.folder / "clean.db")


@pytest.mark.fault(61)
def test_readers_see_every_row_of_the_checkpoint(cli: Cli) -> None:
    """In each of their snapshots, while chunks are being stored together."""
    lines = [f"{number % 700},{number},{FIRST_MS + number}{'':>{400}}" for number in range(60_000)]
    path = cli.file("pairs.csv", "\n".join([HEADER, *lines, ""]))
    process = cli.start("run", path, "--to", "sqlite:///rows.db")
    wait_for_event(process, lambda event: event["event"] == "progress")
    seen = set()
    with contextlib.closing(sqlite3.connect(cli.folder / "rows.db", isolation_level=None)) as reader:
        while process.poll() is None:
            reader.execute("BEGIN")
            bodies = reader.execute("SELECT body FROM ingest_checkpoints").fetchall()
            ((n_rows,),) = reader.execute("SELECT count(*) FROM interactions").fetchall()
            reader.execute("COMMIT")
            promised = max((json.loads(body)["counts"]["written"] for (body,) in bodies), default=0)
            assert promised <= n_rows
            seen.add(promised)
    assert finish(process).code == 0
    assert len(seen) > 1


async def test_a_source_that_is_slow_does_not_let_rows_wait(cli: Cli) -> None:
    """Rows of a pipe that then stays silent are there for other programs, though nothing more comes."""
    process = cli.start("run", "-", "--to", "sqlite:///rows.db")
    assert process.stdin is not None
    padding = "n" * 4_000
    process.stdin.write("\n".join([f"{HEADER},note", *(f"1,{n},{FIRST_MS + n},{padding}" for n in range(5_000))]))
    process.stdin.flush()
    wait_for_event(process, lambda event: event["event"] == "progress" and event["sinks"]["sqlite"]["watermark"] > 1e6)
    await until(lambda: len(sqlite_rows(cli.folder / "rows.db")) > 1_000)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("checkpoint", ["sink", "file:checkpoints"])
@pytest.mark.fault(3, 61)
def test_a_stop_ends_what_is_stored_together(cli: Cli, checkpoint: str) -> None:
    """Within the time that a stop has, however much is left of it, and nothing goes on after; the next run has all."""
    pairs = write_pairs(cli.folder / "pairs.csv", 12_000, blocks=6)
    place = ("--checkpoint", checkpoint)
    process = cli.start("run", pairs.path, "--to", "sqlite:///rows.db?rate=200", *place)
    # It shows how far it is with them, too, though none is settled.
    wait_for_event(
        process,
        lambda event: (
            event["event"] == "progress"
            and event["sinks"]["sqlite"]["rows_written"] == 0
            and (event["percent"] or 0) > 1
        ),
    )
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        pytest.fail("it does not end")
    assert finish(process).code == 75
    cli.load(pairs.path, "--to", "sqlite:///rows.db", *place)
    cli.load(pairs.path, "--to", "sqlite:///clean.db", "--state-dir", "clean")
    assert sqlite_rows(cli.folder / "rows.db") == sqlite_rows(cli.folder / "clean.db")
