"""What every section works with: the options, generated files, stores, and the commands to compare."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import stores
from benchmarks.measure import ROOT, CommandFailedError, Side, Subject, interleave
from benchmarks.stores import Store


@dataclass
class Bench:
    """One invocation: everything it makes lies in `work` and goes with it; servers start when first used."""

    rows: int
    pairs: int
    work: Path
    stack: ExitStack
    skipped: list[str] = field(default_factory=list)

    @cached_property
    def redis(self) -> Store:
        return self.stack.enter_context(stores.redis(self.work))

    @cached_property
    def redis_cluster(self) -> Store:
        return self.stack.enter_context(stores.redis_cluster(self.work))

    @cached_property
    def dynamodb(self) -> Store:
        return self.stack.enter_context(stores.null_dynamodb())

    @cached_property
    def mongodb(self) -> Store:
        return self.stack.enter_context(stores.mongodb())

    @cached_property
    def postgresql(self) -> Store:
        return self.stack.enter_context(stores.postgresql(self.work))

    @cached_property
    def parquet(self) -> Store:
        return stores.parquet(self.work)

    @cached_property
    def sqlite(self) -> Store:
        return stores.sqlite(self.work)

    def file(self, name: str = "iso.csv", **options: Any) -> Path:
        """A generated file, made once; the options are those of benchmarks.generate."""
        options = {"rows": self.rows} | options
        path = self.work / f"{options['rows']}-{options.get('bad', 0)}-{name}"
        if not path.exists():
            self.say(f"generating {path.name}")
            flags = [f"--{option}={value}" for option, value in options.items()]
            command = [sys.executable, "-m", "benchmarks.generate", str(path), *flags]
            subprocess.run(command, cwd=ROOT, check=True)
        return path

    def movielens(self, rows: int) -> Path:
        """A folder with an archive of so many ratings, its ratings.csv beside it, and the movie id map."""
        folder = self.work / f"movielens-{rows}"
        if not folder.exists():
            self.say(f"generating {folder.name}")
            command = [sys.executable, "-m", "benchmarks.generate_movielens", str(folder), "--rows", str(rows)]
            subprocess.run(command, cwd=ROOT, check=True)
        return folder

    def movielens_step(self, folder: Path, *words: str) -> list[str]:
        """A command `movielens …` on such a folder."""
        settings = {
            "GCS_BUCKET_NAME": folder.as_uri(),
            "MOVIELENS_ZIP_FILENAME": "ml-bench.zip",
            "MONGODB_URI": f"{self.mongodb.url}&timeout_s=300",  # `popular` reads all ratings there, without an index
            "HF_MODEL_NAME": os.environ.get("HF_MODEL_NAME", ""),
            "INGEST_MOVIE_ID_MAP": str(folder / "movie_id_map.json"),
            "INGEST_STATE_DIR": str(self.work / "state"),
        }
        given = [f"{name}={value}" for name, value in settings.items() if value]
        return ["env", *given, *ingest_service(), "movielens", *words]

    def ours(
        self,
        file: Path,
        store: Store,
        *,
        name: str = "ingest-service",
        rows: int | None = None,
        records: int | None = None,
        sample_every_s: float | None = None,
    ) -> Subject:
        """A run of ingest-service; `records`, where not all rows, is how many of them the store must get."""
        rows = rows or self.rows
        state = self.work / "state"

        def fresh() -> None:
            store.clear()
            shutil.rmtree(state, ignore_errors=True)

        command = [*ingest_service(), "run", str(file), "--to", store.url]
        return Subject(
            name=name,
            command=[*command, "--json", "--restart", "--state-dir", str(state)],
            rows=rows,
            server_pid=store.pid,
            before=fresh,
            after=holds(store, rows if records is None else records),
            sample_every_s=sample_every_s,
        )

    def peer(
        self, name: str, module: str, store: Store, *words: str, rows: int, python: Path = Path(sys.executable)
    ) -> Subject:
        """A script from benchmarks/peers on the first rows of the same file."""
        rows = min(rows, self.rows)
        where = [str(self.file()), "--to", store.url, "--limit", str(rows)]
        return Subject(
            name=f"{name} ({rows:,} rows)",
            command=[str(python), "-m", f"benchmarks.peers.{module}", *where, *words],
            rows=rows,
            server_pid=store.pid,
            before=store.clear,
            after=holds(store, rows),
        )

    def redpanda_connect(self, config: str, store: Store, *, rows: int, **variables: str) -> Subject | None:
        """Redpanda Connect with a configuration from benchmarks/peers, on the first rows; None where there is none.

        It is no package of a registry: have it on the path, or in .cache/servers/redpanda-connect.
        """
        binary = shutil.which("redpanda-connect", path=f"{os.environ['PATH']}:{ROOT}/.cache/servers/redpanda-connect")
        if binary is None:
            self.skip("Redpanda Connect is neither on the path nor in .cache/servers/redpanda-connect")
            return None
        file = self.work / f"first-{rows}.csv"
        if not file.exists():
            with self.file().open("rb") as whole, file.open("wb") as first:
                first.writelines(islice(whole, rows + 1))
        settings = [f"{name}={value}" for name, value in {"FILE": str(file), **variables}.items()]
        return Subject(
            name=f"Redpanda Connect ({rows:,} rows)",
            command=["env", *settings, binary, "run", str(ROOT / "benchmarks" / "peers" / config)],
            rows=rows,
            server_pid=store.pid,
            before=store.clear,
            after=holds(store, rows),
        )

    def compare(self, *subjects: Subject) -> list[Side]:
        self.say(f"measuring {self.pairs} times each: {', '.join(subject.name for subject in subjects)}")
        return interleave(subjects, self.pairs)

    def skip(self, what: str) -> None:
        self.skipped.append(what)
        self.say(f"SKIPPED: {what}")

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


def ingest_service() -> list[str]:
    """The command as users call it: the console script where it is installed, else the module."""
    script = Path(sys.executable).with_name("ingest-service")
    return [str(script)] if script.exists() else [sys.executable, "-m", "ingest_service"]


def holds(store: Store, records: int) -> Callable[[], None]:
    def check() -> None:
        if records <= store.exact_up_to and (count := store.count()) != records:
            raise CommandFailedError(f"{store.url} holds {count:,} records, not {records:,}")

    return check
