"""Inboxes, look by look: what is complete is announced once, and what is loaded is moved or marked."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import pytest
import redis
from blockbuster import blockbuster_ctx
from obstore.store import S3Store

from ingest_service.config import InboxSettings, ServeSettings, load_settings
from ingest_service.errors import LocalIOError
from ingest_service.service.commands import Commands
from ingest_service.service.desk import Desk
from ingest_service.service.forks import Forks
from ingest_service.service.inbox import Inbox
from ingest_service.service.known_sinks import Sinks
from ingest_service.service.live import Live
from ingest_service.service.runs import Run, Runs
from ingest_service.service.workers import Workers
from ingest_service.sinks.testing.rows import interaction
from ingest_service.telemetry.prometheus import Exposition
from tests.buckets import Moto, find_s3
from tests.helpers import sqlite_rows, write_pairs
from tests.service.conftest import Service, eventually

ROWS = "user,item,timestamp\n1,2,1583366400000\n"


@dataclass
class Stage:
    """An inbox over a real store; runs end when the test says so."""

    folder: Path
    runs: Runs
    desk: Desk
    settings: InboxSettings
    inbox: Inbox

    @property
    def sources(self) -> list[str]:
        """The names of what was announced, oldest first."""
        return [run.task.name.rpartition("/")[2] for run in reversed(self.runs.page(None, 500, None))]

    def end(self, code: int = 0) -> Run:
        run = self.runs.take()
        assert run is not None
        state: Any = "failed" if code else "done"
        return self.runs.finish(run.number, state, exit_code=code, reason=None, progress=None, report=None)

    async def look(self) -> None:
        with blockbuster_ctx():  # nothing of it may hold up the event loop
            await self.inbox.look()

    def restart(self) -> None:
        """What a new process knows."""
        self.inbox = Inbox(self.settings, self.desk)

    def names(self) -> set[str]:
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}


@asynccontextmanager
async def staged(tmp_path: Path, url: str, **inbox: Any) -> AsyncIterator[Stage]:
    settings = InboxSettings(name="in", url=url, **inbox)
    whole = load_settings({"state_dir": tmp_path / "state", "serve": ServeSettings(inbox=[settings])})
    runs, live, sinks = Runs(tmp_path / "state", keep=1000), Live(), Sinks.of(whole)
    desk = Desk(whole, runs, live, Workers(runs, live, Exposition(), Commands(sinks.urls, None), Forks(), 1), sinks)
    try:
        yield Stage(Path(url), runs, desk, settings, Inbox(settings, desk))
    finally:
        runs.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


async def test_a_stable_file_is_announced_once(tmp_path: Path, folder: Path) -> None:
    """Not while it grows, but when it has stood still; and not again, neither later nor by a new process."""
    async with staged(tmp_path, str(folder), stable_s=0.2) as stage:
        for _ in range(3):  # it grows at each look
            with (folder / "a.csv").open("a") as file:
                file.write(ROWS)
            await stage.look()
            await asyncio.sleep(0.07)
        assert stage.sources == []
        await asyncio.sleep(0.2)
        for _ in range(2):
            await stage.look()
        assert stage.sources == ["a.csv"]
        stage.restart()
        await stage.look()
        await asyncio.sleep(0.2)
        await stage.look()
        assert stage.sources == ["a.csv"]


async def test_a_file_that_was_replaced_is_another_one(tmp_path: Path, folder: Path) -> None:
    """Under the same name, after its run or before: what is there now is announced too."""
    async with staged(tmp_path, str(folder), complete="rename") as stage:
        (folder / "a.csv").write_text(ROWS)
        await stage.look()
        stage.end()
        await stage.look()
        (folder / ".new").write_text(ROWS * 2)
        (folder / ".new").rename(folder / "a.csv")
        await stage.look()
        assert stage.sources == ["a.csv", "a.csv"]


async def test_only_what_is_meant_is_taken(tmp_path: Path, folder: Path) -> None:
    """Hidden and unfinished names, links, folders, pipes and what does not match the pattern are passed over."""
    (tmp_path / "outside.csv").write_text(ROWS)
    for name in ("a.csv", ".b.csv", "c.csv.part", "d.csv.tmp", "e.txt", "f.csv.done", "g.csv.loaded"):
        (folder / name).write_text(ROWS)
    (folder / "link.csv").symlink_to(tmp_path / "outside.csv")
    (folder / "sub.csv").mkdir()
    os.mkfifo(folder / "pipe.csv")
    (folder / os.fsdecode(b"caf\xe9.csv")).write_text(ROWS)
    async with staged(tmp_path, str(folder), complete="rename", pattern="*.csv") as stage:
        await stage.look()
        assert sorted(stage.sources) == ["a.csv", os.fsdecode(b"caf\xe9.csv")]


async def test_a_done_marker_says_that_a_file_is_complete(tmp_path: Path, folder: Path) -> None:
    """Not before it is there; and one that is older than the file is about an earlier file."""
    async with staged(tmp_path, str(folder), complete="done-marker", afterwards="move") as stage:
        (folder / "a.csv").write_text(ROWS)
        await stage.look()
        assert stage.sources == []
        (folder / "a.csv.done").touch()
        os.utime(folder / "a.csv.done", (1, 1))
        await stage.look()
        assert stage.sources == []
        (folder / "a.csv.done").touch()
        await stage.look()
        assert stage.sources == ["a.csv"]
        run = stage.end()
        await stage.look()
        assert stage.names() == {f"done/{run.created_at[:19].replace('-', '').replace(':', '')}-{run.id}-a.csv"}


@pytest.mark.parametrize("restart_at", ["announced", "done", "never"])
async def test_a_loaded_file_is_moved_whatever_happens(tmp_path: Path, folder: Path, restart_at: str) -> None:
    """Also where the service was killed after the announcement, or between the end of the run and the move."""
    async with staged(tmp_path, str(folder), complete="rename", afterwards="move") as stage:
        (folder / "a.csv").write_text(ROWS)
        await stage.look()
        assert stage.names() == {"a.csv"}
        if restart_at == "announced":
            stage.restart()
        stage.end()
        if restart_at == "done":
            stage.restart()
        await stage.look()
        assert len(stage.sources) == 1
        (moved,) = stage.names()
        assert moved.startswith("done/") and moved.endswith("-a.csv")
        await stage.look()
        assert len(stage.sources) == 1


async def test_a_file_that_came_meanwhile_is_not_moved(tmp_path: Path, folder: Path) -> None:
    """What took the place of a loaded file stays, and is announced and moved in its turn."""
    async with staged(tmp_path, str(folder), complete="rename", afterwards="move") as stage:
        (folder / "a.csv").write_text(ROWS)
        await stage.look()
        stage.end()
        (folder / "a.csv").write_text(ROWS * 2)
        await stage.look()
        assert stage.names() == {"a.csv"} and len(stage.sources) == 2
        stage.end()
        await stage.look()
        (moved,) = stage.names()
        assert (folder / moved).read_text() == ROWS * 2


async def test_a_loaded_file_is_marked(tmp_path: Path, folder: Path) -> None:
    """It stays, with a marker beside it that names its run; one whose run failed has none."""
    async with staged(tmp_path, str(folder), complete="rename", afterwards="marker") as stage:
        (folder / "a.csv").write_text(ROWS)
        (folder / "b.csv").write_text(ROWS)
        await stage.look()
        first, _ = stage.end(), stage.end(65)
        await stage.look()
        assert len(stage.names()) == 3
        (marker,) = (name for name in stage.names() if name.endswith(".loaded"))
        assert f'"run": "{first.id}"' in (folder / marker).read_text()
        stage.restart()
        await stage.look()
        assert len(stage.sources) == 2, "neither the marked one nor the failed one is loaded again by itself"


async def test_what_may_pass_is_tried_at_the_next_look(tmp_path: Path, folder: Path) -> None:
    """A file that could not be announced, for the disk was full, is announced when it can be."""
    async with staged(tmp_path, str(folder), complete="rename") as stage:
        (folder / "a.csv").write_text(ROWS)
        stage.runs._writer.execute("PRAGMA query_only = ON")
        with pytest.raises(LocalIOError):
            await stage.look()
        stage.runs._writer.execute("PRAGMA query_only = OFF")
        await stage.look()
        assert stage.sources == ["a.csv"]


async def test_other_content_of_the_same_size_and_time_is_another_file(tmp_path: Path, folder: Path) -> None:
    """Whether it was written into the file, or another file was put in its place."""
    async with staged(tmp_path, str(folder), complete="rename") as stage:
        path = folder / "a.csv"
        path.write_text(ROWS)
        await stage.look()
        for content in (ROWS.replace("1,2,", "3,4,"), ROWS.replace("1,2,", "5,6,")):
            before = path.stat()
            if "5,6," in content:
                (folder / ".new").write_text(content)
                (folder / ".new").rename(path)
            else:
                path.write_text(content)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            stage.end()
            await stage.look()
        assert stage.sources == ["a.csv"] * 3


async def test_a_writer_who_pauses_loses_nothing(tmp_path: Path, folder: Path) -> None:
    """A file that seemed complete stays as long as it is open for writing, and what is written on is announced."""
    async with staged(tmp_path, str(folder), stable_s=0.1, afterwards="move") as stage:
        with (folder / "a.csv").open("w") as file:
            file.write(ROWS)
            file.flush()
            await stage.look()
            await asyncio.sleep(0.2)
            await stage.look()
            stage.end()
            await stage.look()
            assert stage.names() == {"a.csv"}, "its run is done, but somebody is not"
            file.write("3,4,1583366400000\n")
        await stage.look()
        await asyncio.sleep(0.2)
        await stage.look()
        assert stage.sources == ["a.csv", "a.csv"]
        stage.end()
        await stage.look()
        (moved,) = stage.names()
        assert moved.startswith("done/") and (folder / moved).read_text().endswith("3,4,1583366400000\n")


async def test_a_file_that_is_written_on_after_its_move_comes_back(tmp_path: Path, folder: Path) -> None:
    """Under its name, so that its stream goes on; unless another file has that by now."""
    async with staged(tmp_path, str(folder), stable_s=0.1, afterwards="move") as stage:
        for name in ("a.csv", "b.csv"):
            (folder / name).write_text(ROWS)
        await stage.look()
        await asyncio.sleep(0.2)
        await stage.look()
        stage.end()
        stage.end()
        await stage.look()
        moved = sorted(stage.names())
        assert [name[-5:] for name in moved] == ["a.csv", "b.csv"]
        (folder / "b.csv").write_text(ROWS * 2)
        for name in moved:
            with (folder / name).open("a") as file:
                file.write("3,4,1583366400000\n")
        await stage.look()
        assert stage.names() == {"a.csv", "b.csv", moved[1]}
        assert (folder / "a.csv").read_text().endswith("3,4,1583366400000\n")
        assert (folder / "b.csv").read_text() == ROWS * 2
        await asyncio.sleep(0.2)
        await stage.look()
        assert stage.sources[2:] == ["a.csv", "b.csv"]


async def test_a_file_that_meets_a_bug_is_left_alone(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused until it is another one; the others are announced."""
    async with staged(tmp_path, str(folder), complete="rename") as stage:
        source = stage.inbox._place.source
        monkeypatch.setattr(stage.inbox._place, "source", lambda name: source(name) if "b" in name else 1 // 0)
        for name in ("a.csv", "b.csv"):
            (folder / name).write_text(ROWS)
        await stage.look()
        await stage.look()
        assert stage.sources == ["b.csv"]


async def test_an_inbox_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder that is not there is an error that says so, and no end of the service."""
    async with staged(tmp_path, str(tmp_path / "missing")) as stage:
        with pytest.raises(LocalIOError):
            await stage.look()


# --- prefixes of objects --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3(clean_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with find_s3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.mark.parametrize("afterwards", ["move", "marker"])
@pytest.mark.parametrize("complete", ["rename", "done-marker"])
async def test_objects_below_a_prefix(tmp_path: Path, s3: Moto, afterwards: str, complete: str) -> None:
    """The same as in a folder: announced once, moved or marked when loaded; a replaced object is another one."""
    bucket = f"{afterwards}-{complete}"
    s3.make_bucket(bucket)
    store = S3Store(bucket, client_options={"allow_http": True})

    def names() -> set[str]:
        return {meta["path"] for metas in obstore.list(store) for meta in metas}

    url = f"s3://{bucket}/in/"
    async with staged(tmp_path, url, complete=complete, afterwards=afterwards) as stage:
        obstore.put(store, "in/a b.csv", ROWS.encode())
        obstore.put(store, "in/deeper/c.csv", ROWS.encode())
        await stage.look()
        if complete == "done-marker":
            assert stage.sources == []
            obstore.put(store, "in/a b.csv.done", b"")
            await stage.look()
        assert stage.sources == ["a%20b.csv"]
        stage.restart()
        await stage.look()
        assert len(stage.sources) == 1
        run = stage.end()
        await stage.look()
        if afterwards == "move":
            created = run.created_at[:19].replace("-", "").replace(":", "")
            assert names() == {f"in/done/{created}-{run.id}-a b.csv", "in/deeper/c.csv"}
        else:
            assert "in/a b.csv.loaded" in names()
        obstore.put(store, "in/a b.csv", ROWS.encode() * 2)
        obstore.put(store, "in/a b.csv.done", b"")
        await stage.look()
        assert len(stage.sources) == 2


# --- the whole service ----------------------------------------------------------------------------


def test_files_that_are_dropped_are_loaded(service: Service, tmp_path: Path) -> None:
    """Of a service that is killed on the way each file is loaded once, and ends in `done`."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    service.start(
        'to = ["lite"]\n[sinks]\nlite = "sqlite:///lite.db"\n'
        '[[serve.inbox]]\nname = "drop"\nurl = "in"\npattern = "*.csv"\ncomplete = "rename"\nafterwards = "move"\n'
    )
    for number in range(3):
        write_pairs(tmp_path / "new", 200, seed=number)
        (tmp_path / "new").rename(inbox / f"{number}.csv")
    while not (runs := service.get("/v1/runs")["runs"]):
        time.sleep(0.05)
    assert runs[0]["origin"] == "inbox:drop"
    service.kill()
    service.start()
    for run in service.get("/v1/runs")["runs"]:
        assert service.until(run, "done", "failed")["state"] == "done"
    deadline = time.monotonic() + 60
    while list(inbox.glob("*.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(path.name[-5:] for path in (inbox / "done").iterdir()) == ["0.csv", "1.csv", "2.csv"]
    assert service.get("/v1/runs")["counts"]["done"] == 3
    assert len(sqlite_rows(tmp_path / "lite.db")) > 300


INBOX = (
    'to = ["lite"]\n{more}[sinks]\nlite = "sqlite:///lite.db"\n'
    '[[serve.inbox]]\nname = "drop"\nurl = "in"\ncomplete = "rename"\nafterwards = "{afterwards}"\n'
)


def put(service: Service, name: str, *rows: str) -> None:
    """Put a file in its place in the inbox, as writers do."""
    new = service.folder / "new"
    new.write_text("\n".join(["user,item,timestamp", *rows, ""]))
    new.rename(service.folder / "in" / name)


def ended_runs(service: Service, n: int) -> list[dict[str, Any]]:
    """The first `n` runs, oldest first, once there are so many and they have ended."""
    runs = eventually(lambda: service.get("/v1/runs")["runs"], lambda found: len(found) >= n)
    return [service.until(run, "done", "failed") for run in reversed(runs)]


def test_the_next_file_of_a_name_is_loaded_too(service: Service, tmp_path: Path) -> None:
    """Replaced by the next day's file, longer or shorter, it begins anew; appended to, it goes on."""
    (tmp_path / "in").mkdir()
    service.start(INBOX.format(more="", afterwards="keep"))
    first = [f"{user},1,1583366400000" for user in range(100)]
    put(service, "daily.csv", *first)
    assert ended_runs(service, 1)[0]["state"] == "done"
    for number, rows in ((2, [f"{user},2,1583366400000" for user in range(200)]), (3, ["7,3,1583366400000"])):
        put(service, "daily.csv", *rows)
        run = ended_runs(service, number)[-1]
        assert (run["state"], run["report"]["sources"][0]["rows_now"]) == ("done", len(rows)), run
    with (tmp_path / "in" / "daily.csv").open("a") as file:
        file.write("8,3,1583366400000\n")
    run = ended_runs(service, 4)[-1]
    assert (run["state"], run["attempt"], run["report"]["sources"][0]["rows_now"]) == ("done", 1, 1)
    assert len(sqlite_rows(tmp_path / "lite.db")) == 100 + 200 + 2


def test_a_refused_file_stays_where_it_is(service: Service, tmp_path: Path) -> None:
    """A run that ends in 65 is failed with its reason, also after a restart, and its file is not moved."""
    (tmp_path / "in").mkdir()
    service.start(INBOX.format(more='max_rejects = "10%"\n', afterwards="move"))
    put(service, "bad.csv", *["x"] * 50)
    put(service, "good.csv", "1,2,1583366400000")
    bad, good = sorted(ended_runs(service, 2), key=lambda run: str(run["source"]))
    assert (bad["state"], bad["exit_code"], good["state"]) == ("failed", 65, "done")
    assert "50 of 50 rows were refused" in bad["reason"]
    service.stop()
    service.start()
    eventually(lambda: not (tmp_path / "in" / "good.csv").exists())
    assert [path.name for path in (tmp_path / "in").iterdir() if path.is_file()] == ["bad.csv"]
    assert service.get("/v1/runs")["counts"]["failed"] == 1


def test_a_file_that_a_sink_refuses_whole_stays_too(service: Service, tmp_path: Path, redis_db_url: str) -> None:
    """The rows were good and Redis took none: failed with what it says, not done and moved away."""
    (tmp_path / "in").mkdir()
    with redis.Redis.from_url(redis_db_url) as client:
        client.set(f"recent:{{{interaction(1, 2).user_id}}}", "no sorted set")
    service.start(INBOX.format(more="", afterwards="move").replace("sqlite:///lite.db", redis_db_url))
    put(service, "refused.csv", "1,2,1583366400000", "1,3,1583366400000")
    (run,) = ended_runs(service, 1)
    assert (run["state"], run["exit_code"]) == ("failed", 65)
    assert "lite refuses all 2 rows that it was given" in run["reason"]
    assert (tmp_path / "in" / "refused.csv").exists()
