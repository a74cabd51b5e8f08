"""`export-dynamodb`: files with exactly the items of a load, whatever happens while they are written."""

import asyncio
import gzip
import json
import shlex
import sys
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

from ingest_service.analysis.export import Exported, Progress, export
from ingest_service.analysis.places import ExportPlace
from ingest_service.config import load_settings
from ingest_service.errors import Stopped
from ingest_service.pipeline.run import jobs_of
from ingest_service.sinks.dynamodb import imports
from ingest_service.sinks.dynamodb.sink import DynamoDBSink
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.buckets import Moto
from tests.helpers import (
    CANARY_AWS_SECRET,
    HEADER,
    Cli,
    Outcome,
    create_tables,
    dynamodb_at,
    dynamodb_client,
    dynamodb_items,
    write_pairs,
)

Item = dict[str, dict[str, str]]
NOTES = """
name: notes
schema:
  fields:
    - {name: user, type: string, x-role: owner, x-stored: raw}
    - {name: item, type: string, x-role: item, x-stored: raw}
    - {name: at, type: integer, x-role: time, x-unit: ms}
    - {name: weight, type: number, x-keep: true}
    - {name: note, type: string, x-keep: true}
"""


@pytest.fixture(scope="module")
def s3(moto: Moto) -> Iterator[Moto]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in moto.environment.items():
            patch.setenv(name, value)
        moto.make_bucket("exports")
        yield moto


def exported(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    outcome = cli.here("export-dynamodb", *arguments, "--json")
    assert outcome.code == 0, outcome.stderr
    return outcome.report


def refused(cli: Cli, *arguments: str | Path) -> tuple[int, str]:
    outcome = cli.here("export-dynamodb", *arguments)
    return outcome.code, outcome.message


def items_of(folder: Path) -> list[list[Item]]:
    """Of each file, as they stand there."""
    return [
        [json.loads(line)["Item"] for line in gzip.decompress(path.read_bytes()).splitlines()]
        for path in sorted(folder.glob("data/*"))
    ]


def by_key(files: list[list[Item]]) -> dict[tuple[str, str], Item]:
    """A key that is there twice is a mistake."""
    items = [item for file in files for item in file]
    found = {(item["user_id"]["S"], item["event_key"]["S"]): item for item in items}
    assert len(found) == len(items)
    return found


def in_numbers(items: dict[tuple[str, str], Item]) -> dict[tuple[str, str], dict[str, Any]]:
    """DynamoDB writes 1e+3 as 1000."""
    return {
        key: {**item, "weight": Decimal(item["weight"]["N"])} if "weight" in item else item
        for key, item in items.items()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def notes(cli: Cli, rows: list[str]) -> tuple[Path, str]:
    file = cli.file("notes.csv", "user,item,at,weight,note\n" + "\n".join(rows) + "\n")
    return file, f"--dataset={cli.file('notes.yaml', NOTES)}"


@pytest.mark.parametrize("options", [{}, {"ttl_s": 86_400_000_000}])
def test_the_items_are_those_of_a_load(cli: Cli, dynamodb_url: str, table: str, options: dict[str, int]) -> None:
    """Of a file with refused rows and keys that come again in later blocks; the dead letters are a run's, too."""
    pairs = write_pairs(cli.folder / "pairs.csv", 2_000, blocks=3)
    url = dynamodb_at(dynamodb_url, table, **options)
    report = exported(cli, pairs.path, f"--to={url}", "--into=out")
    letters = cli.dead_letters
    asyncio.run(create_tables(url))
    cli.load(pairs.path, f"--to={url}")
    stored = dynamodb_items(dynamodb_url, table)
    assert by_key(items_of(cli.folder / "out")) == stored
    assert (report["read"], report["rejected"], report["items"]) == (2_000, len(pairs.bad), len(stored))
    assert report["records"] == report["items"] + report["replaced"] + report["dead"]
    assert report["replaced"] > 0
    assert [letter["line"] for letter in letters] == [line for line, _, _ in pairs.bad]
    assert cli.dead_letters == letters, "the run had to keep none again"


def test_what_dynamodb_refuses_is_refused(cli: Cli, dynamodb_url: str, table: str) -> None:
    """Too large, numbers out of range. Texts outside ASCII or with marks are not, nor the largest and least numbers."""
    good = [f'u{n % 3},"i{n}""-é",{FIRST_MS + n},{n - 3}.5,"{n}\\ ""quoted"" ☂"' for n in range(40)]
    bad = [
        f"u,i,{FIRST_MS},1,{'n' * 410_000}",
        f"u,j,{FIRST_MS},1e126,n",
        f"u,k,{FIRST_MS},-1e-131,n",
    ]
    edge = [f"u,l,{FIRST_MS},9.9e125,n", f"u,m,{FIRST_MS},1e-130,n", f"u,n,{FIRST_MS},0,n"]
    file, dataset = notes(cli, [*good, *bad, *edge])
    url = dynamodb_at(dynamodb_url, table)
    report = exported(cli, file, dataset, f"--to={url}", "--into=out")
    letters = {letter["line"]: (letter["stage"], letter["code"]) for letter in cli.dead_letters}
    asyncio.run(create_tables(url))
    cli.load(file, dataset, f"--to={url}")
    assert in_numbers(by_key(items_of(cli.folder / "out"))) == in_numbers(dynamodb_items(dynamodb_url, table))
    assert (report["items"], report["dead"]) == (43, 3)
    codes = ["item_too_large", "refused", "refused"]
    assert letters == {42 + n: ("dynamodb", code) for n, code in enumerate(codes)}
    with dynamodb_client(dynamodb_url) as client:
        for number in ("1e126", "-1e-131"):
            item = {"user_id": {"S": "u"}, "event_key": {"S": "k"}, "weight": {"N": number}}
            with pytest.raises(client.exceptions.ClientError, match="ValidationException"):
                client.put_item(TableName=table, Item=item)


def test_of_equal_keys_the_last_row_is_exported(cli: Cli) -> None:
    """Wherever they are: in one block, in blocks far apart, in another file; and keys that only look alike are two."""
    filling = [f"u{n},i,{FIRST_MS + n},1,{'x' * 3_000}" for n in range(6_000)]
    rows = [f"a,i,{FIRST_MS},1,first", *filling, f"a,i,{FIRST_MS},2,second", f"a,i,{FIRST_MS},3,third"]
    file, dataset = notes(cli, [*rows, f"b,i,{FIRST_MS},1,first"])
    later = cli.file("of-later.csv", f"user,item,at,weight,note\nb,i,{FIRST_MS},1,later\n")
    report = exported(cli, file, later, dataset, "--into=out")
    found = by_key(items_of(cli.folder / "out"))
    said = {user: item["note"]["S"] for (user, _), item in found.items() if user in "ab"}
    assert said == {"a": "third", "b": "later"}
    assert (report["items"], report["replaced"]) == (6_002, 3)


def test_dynamodb_imports_the_files(cli: Cli, s3: Moto) -> None:
    """The printed command, as its server takes it, makes the table with all the items: nothing else is imported."""
    file = write_pairs(cli.folder / "pairs.csv", 1_000).path
    local = exported(cli, file, "--into=out")
    report = exported(cli, file, "--to=dynamodb://pairs?region=us-east-1", "--into=s3://exports/to/pairs/")
    words = shlex.split(report["command"])
    assert words[:3] == ["aws", "dynamodb", "import-table"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--region"] == "us-east-1"
    with dynamodb_client(s3.url) as client:
        begun = client.import_table(
            S3BucketSource=json.loads(options["--s3-bucket-source"]),
            InputFormat=options["--input-format"],
            InputCompressionType=options["--input-compression-type"],
            TableCreationParameters=json.loads(options["--table-creation-parameters"]),
        )["ImportTableDescription"]
        while begun["ImportStatus"] == "IN_PROGRESS":
            begun = client.describe_import(ImportArn=begun["ImportArn"])["ImportTableDescription"]
    assert (begun["ImportStatus"], begun["ErrorCount"]) == ("COMPLETED", 0)
    assert (begun["ProcessedItemCount"], begun["ImportedItemCount"]) == (report["items"], report["items"])
    assert dynamodb_items(s3.url, "pairs") == by_key(items_of(cli.folder / "out"))
    assert report["import_bytes"] == local["import_bytes"]


# Kills itself while it writes its n-th object, of which half is out; few items make a file.
KILLED = """
import os, signal, sys
from ingest_service.analysis import places
from ingest_service.cli.app import main
from ingest_service.sinks.dynamodb import imports
imports.MAX_FILE_BYTES = 700_000
put, left = places.put_whole, [int(os.environ.get("AT", "0"))]
def cut(pieces):
    yield next(pieces)
    os.kill(os.getpid(), signal.SIGKILL)
def killing(address, pieces):
    left[0] -= 1
    put(address, cut(pieces) if left[0] == 0 else pieces)
places.put_whole = killing
main()
"""


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_killed_export_goes_on(cli: Cli, tmp_path: Path, place: str, request: pytest.FixtureRequest) -> None:
    """Killed while it writes any of its objects: what is there then stays, and in the end all is as without a kill."""
    file = write_pairs(tmp_path / "pairs.csv", 12_000).path
    few = Cli(cli.folder, (sys.executable, "-c", KILLED))
    if place == "s3":
        request.getfixturevalue("s3")
    base = f"s3://exports/{tmp_path.name}" if place == "s3" else str(tmp_path)

    def export(into: str, **environment: str) -> Outcome:
        return few.run("export-dynamodb", file, f"--into={base}/{into}", "--json", **environment)

    def found(into: str) -> dict[str, bytes]:
        if place == "folder":
            return contents(tmp_path / into)
        store = S3Store("exports", client_options={"allow_http": True})
        prefix = f"{tmp_path.name}/{into}/"
        names = [one["path"] for some in obstore.list(store, prefix=prefix) for one in some]
        return {name.removeprefix(prefix): bytes(obstore.get(store, name).bytes()) for name in names}

    whole = export("whole").report
    assert whole["files"] == whole["files_written"] == len(found("whole")) - 2 > 3
    for at in range(1, whole["files"] + 3):
        into = f"killed-{at}"
        assert export(into, AT=str(at)).code == -9
        before = {name: data for name, data in found(into).items() if not name.endswith(".part")}
        assert "manifest.json" not in before
        assert len(before) == at - 1
        report = export(into).report
        assert found(into) == found("whole")
        assert before.items() <= found(into).items()
        assert report["files_written"] == whole["files"] - max(0, at - 2)
    assert export("whole").report["files_written"] == 0


async def test_a_stop_leaves_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for while files are written; the same export then writes the others."""
    monkeypatch.setattr(imports, "MAX_FILE_ITEMS", 20_000)
    rows = "".join(f"{n % 500},{n},{FIRST_MS + n}\n" for n in range(150_000))
    (tmp_path / "pairs.csv").write_text(f"{HEADER}\n{rows}")
    settings = load_settings({"state_dir": tmp_path / "state"})
    stop = asyncio.Event()

    async def go(progress: Progress) -> Exported:
        jobs, sink = jobs_of([str(tmp_path / "pairs.csv")], settings), DynamoDBSink("dynamodb://table")
        return await export(jobs, sink, ExportPlace(str(tmp_path / "out")), stop, progress)

    def stop_while_writing(step: str, **_: object) -> None:
        if step == "writing":
            stop.set()

    with pytest.raises(Stopped, match="same command goes on"):
        await go(stop_while_writing)
    n_whole = len(items_of(tmp_path / "out"))
    assert n_whole > 0
    stop.clear()
    made = await go(lambda **_: None)
    assert made.written == len(made.files) - n_whole > 0
    assert len(by_key(items_of(tmp_path / "out"))) == made.items == 150_000


def test_a_place_that_is_taken_is_refused(cli: Cli, tmp_path: Path) -> None:
    """With what is somebody else's, or another export; nothing in it changes."""
    file = write_pairs(tmp_path / "pairs.csv", 300).path
    into = tmp_path / "out"
    (into / "data").mkdir(parents=True)
    for name in ("report.txt", "data/00001.json", "manifest.json"):
        (into / name).write_text("theirs")
        assert refused(cli, file, f"--into={into}")[0] == 78
        assert contents(into) == {name: b"theirs"}
        (into / name).unlink()
    exported(cli, file, f"--into={into}")
    before = contents(into)
    code, says = refused(cli, file, f"--into={into}", "--to=dynamodb://table?ttl_s=5")
    assert (code, "other options" in says) == (78, True)
    with file.open("a") as more:
        more.write(f"9,9,{FIRST_MS},\n")
    assert refused(cli, file, f"--into={into}")[0] == 78
    (into / "export.json").write_text("{}")
    assert "not written by this program" in refused(cli, file, f"--into={into}")[1]
    (into / "export.json").write_bytes(before["export.json"])
    assert contents(into) == before


def test_what_comes_beside_it_meanwhile_is_not_imported(cli: Cli, tmp_path: Path) -> None:
    """An object that another put below data/ is one too many; the export is not said to be complete."""
    file = write_pairs(tmp_path / "pairs.csv", 300).path
    exported(cli, file, f"--into={tmp_path / 'out'}")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "data" / "00002.json.gz").write_bytes(b"")
    assert "Something else" in refused(cli, file, f"--into={tmp_path / 'out'}")[1]
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_import_costs_what_was_estimated(cli: Cli) -> None:
    """Its bytes before they are compressed, to the byte where no key comes again, with and without expiry."""
    rows = [f"u{n},i,{FIRST_MS + n},{n}.25,{'é' * (n % 50)}n" for n in range(2_000)]
    file, dataset = notes(cli, rows)
    for n, to in enumerate(("--to=dynamodb://table", "--to=dynamodb://table?ttl_s=1000")):
        sizes = json.loads(cli.here("estimate", file, dataset, to, "--json").stdout)["sinks"]["dynamodb"]
        report = exported(cli, file, dataset, to, f"--into=out-{n}")
        assert sizes["import_bytes"] == report["import_bytes"] > 0
        assert sizes["usd_import_from_s3"] == round(report["import_bytes"] / (1 << 30) * 0.15, 4)


def test_files_are_within_the_limits_of_an_import(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """In items and in bytes; records that need more files than it takes are refused before one is written."""
    file = write_pairs(cli.folder / "pairs.csv", 20_000).path
    whole = exported(cli, file, "--into=whole")
    assert whole["files"] == 1
    monkeypatch.setattr(imports, "MAX_FILE_ITEMS", 6_500)
    monkeypatch.setattr(imports, "MAX_BYTES", 1_000)
    report = exported(cli, file, "--into=items")
    sizes = [len(items) for items in items_of(cli.folder / "items")]
    assert len(sizes) == report["files"] == 4
    assert max(sizes) <= 6_500
    assert by_key(items_of(cli.folder / "items")) == by_key(items_of(cli.folder / "whole"))
    assert "more than the 1,000 bytes" in report["warnings"][0]
    monkeypatch.setattr(imports, "MAX_FILES", 3)
    assert "3 files at most" in refused(cli, file, "--into=none")[1]
    assert not (cli.folder / "none").exists()


def test_a_file_sorted_by_user_makes_no_busy_partition(cli: Cli) -> None:
    """Neighbours in the files are of different users, nearly all."""
    rows = "".join(f"{n // 500},{n},{FIRST_MS + n}\n" for n in range(10_000))
    exported(cli, cli.file("pairs.csv", f"{HEADER}\n{rows}"), "--into=out")
    (items,) = items_of(cli.folder / "out")
    users = [item["user_id"]["S"] for item in items]
    assert sum(a == b for a, b in pairwise(users)) < 0.1 * len(users)


def test_rows_that_nearly_all_are_refused_are_no_export(cli: Cli) -> None:
    """As for a run, by the user's limit and without one; the letters are kept, and nothing is written."""
    file = cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n" + "x,y,z\n" * 3)
    code, says = refused(cli, file, "--into=out", "--max-rejects=2")
    assert (code, "3 of 4 rows" in says) == (65, True)
    assert not (cli.folder / "out").exists()
    assert len(cli.dead_letters) == 3
    assert refused(cli, cli.file("bad.csv", f"{HEADER}\nx,y,z\n"), "--into=out")[0] == 65
    assert exported(cli, file, "--into=out", "--max-rejects=3")["items"] == 1


def test_mistakes_are_said(cli: Cli) -> None:
    """A place from which DynamoDB cannot import, a sink of another kind, standard input, no rows, items."""
    file = cli.file("pairs.csv", f"{HEADER}\n")
    for arguments, code, says in (
        ((file, "--into=gs://bucket/x"), 78, "from S3"),
        ((file, "--into=s3:///x"), 78, "from S3"),
        ((file, f"--into=s3://key:{CANARY_AWS_SECRET}@bucket/x"), 78, "from S3"),
        ((file, f"--into={file}"), 78, "no folder"),
        ((file, "--into=out", "--to=sqlite:///x.db"), 78, "is none"),
        (("-", "--into=out"), 2, "Standard input"),
        ((file, "--into=out"), 78, "no row"),
        ((file, "--into=out", "--dataset=microlens-titles"), 78, "items"),
    ):
        found, message = refused(cli, *arguments)
        assert (found, says in message) == (code, True), message
    assert not (cli.folder / "out").exists()


def test_no_bucket_is_said(cli: Cli, s3: Moto) -> None:
    """Before a row is read."""
    code, says = refused(cli, cli.file("pairs.csv", f"{HEADER}\n1,2,3\n"), "--into=s3://nowhere/x")
    assert (code, "no such bucket" in says) == (78, True)
    assert not cli.dead_letters
