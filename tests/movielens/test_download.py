"""The archive comes into the bucket whole and right, or not at all."""

import hashlib
import io
import os
import random
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest

from ingest_service.config import load_settings
from ingest_service.errors import ConfigurationError, LeaseHeld, LocalIOError, SourceNotFound
from ingest_service.movielens.settings import MovieLensSettings
from ingest_service.movielens.steps.download import Downloaded, download
from ingest_service.sources import sources_named
from ingest_service.sources.object_store import Address, put_whole
from tests.buckets import Moto, ObjectServer, find_s3
from tests.helpers import Cli, finish
from tests.servers import ServerMissingError

NAME = "ml-test.zip"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """20 MB that do not compress, so that it takes several ranges and several parts."""
    path = tmp_path_factory.mktemp("archive") / NAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ml-test/README.txt", random.Random(1).randbytes(12_000_000))
        file.writestr("ml-test/movies.csv", "movieId,title,genres\n1,Heat (1995),Action\n" * 1000)
        file.writestr("ml-test/ratings.csv", random.Random(2).randbytes(8_000_000))
    return path.read_bytes()


@pytest.fixture
def published(archive: bytes) -> Iterator[ObjectServer]:
    with ObjectServer({f"/datasets/{NAME}": archive}) as server:
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    try:
        server = find_s3(tmp_path_factory.mktemp("s3"))
    except ServerMissingError as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"NO SERVER: {error}", pytrace=False)
        pytest.skip(f"NO SERVER: {error}")
    with server:
        server.make_bucket("movies")
        yield server


@pytest.fixture(params=["file", "s3", "gs", "gs-plain"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of each kind; a name without a scheme is one of Google's."""
    if request.param == "file":
        yield (tmp_path / "bucket").as_uri()
        return
    if request.param == "s3":
        s3: Moto = request.getfixturevalue("s3")
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        yield f"s3://movies/{tmp_path.name}"
        return
    with ObjectServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield "gs://movies/raw" if request.param == "gs" else "movies"


@pytest.fixture
def settings(bucket: str, published: ObjectServer) -> MovieLensSettings:
    return MovieLensSettings.of(
        load_settings({"gcs_bucket_name": bucket, "movielens_url": f"{published.url}/datasets/{NAME}"})
    )


def stored(settings: MovieLensSettings) -> bytes | None:
    """What is in the bucket under the archive's name."""
    bucket = settings.gcs_bucket_name
    address = Address.of(f"{bucket if '://' in bucket else f'gs://{bucket}'}/{NAME}")
    try:
        return bytes(obstore.get(address.store(), address.path).bytes())
    except FileNotFoundError:
        return None


async def test_the_archive_is_copied_once(settings: MovieLensSettings, published: ObjectServer, archive: bytes) -> None:
    """Byte by byte, by ranges; a second run says that it is there, and fetches nothing."""
    first = await download(settings)
    assert (first.was_there, first.size, first.sha256) == (False, len(archive), hashlib.sha256(archive).hexdigest())
    assert stored(settings) == archive
    assert first.archive.endswith(f"/{NAME}")
    published.ranges.clear()
    assert await download(settings) == Downloaded(first.archive, was_there=True)
    assert published.ranges == []


async def test_a_member_is_read_by_its_ranges(settings: MovieLensSettings, archive: bytes) -> None:
    """Of an archive in a bucket only the member and the directory are fetched."""
    where = await download(settings)
    (source,) = sources_named(f"{where.archive}#movies.csv")
    with source.open() as stream:
        start = b""
        while len(start) < 27:
            start += stream.read(27 - len(start))
        assert start == b"movieId,title,genres\n1,Heat"
    assert source.size() == 1000 * len("movieId,title,genres\n1,Heat (1995),Action\n")
    assert source.etag


def test_other_members_are_not_fetched(published: ObjectServer, archive: bytes) -> None:
    """No range touches the 20 MB beside the member."""
    (source,) = sources_named(f"{published.url}/datasets/{NAME}#movies.csv")
    with source.open() as stream:
        while stream.read(1 << 20):
            pass
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        start, after = (file.getinfo(f"ml-test/{name}").header_offset for name in ("movies.csv", "ratings.csv"))
        directory = file.start_dir
    of_member = [(first, last) for _, first, last in published.ranges if first < directory]
    assert of_member
    assert all(start <= first < last <= after for first, last in of_member)


@pytest.mark.parametrize("cuts", [1, 4])
async def test_a_broken_transfer_goes_on(
    settings: MovieLensSettings, published: ObjectServer, archive: bytes, cuts: int
) -> None:
    """Replies that break off are asked for again by range; what was there stays."""
    published.cuts = cuts
    await download(settings)
    assert stored(settings) == archive
    assert sum(first == 0 for _, first, _ in published.ranges) <= cuts + 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-30], "not a zip archive"),
        (lambda data: data[: len(data) // 2], "not a zip archive"),
        (lambda data: b"<html>Not found</html>" * 1000, "not a zip archive"),
        (lambda data: b"", "not a zip archive"),
    ],
    ids=["short", "half", "a page", "empty"],
)
async def test_what_is_no_archive_is_not_stored(
    settings: MovieLensSettings, published: ObjectServer, archive: bytes, spoil: Callable[[bytes], bytes], message: str
) -> None:
    """What is published broken is an error and leaves nothing; once it is mended, the same run ends well."""
    published.objects[f"/datasets/{NAME}"] = spoil(archive)
    with pytest.raises(LocalIOError, match=message):
        await download(settings)
    assert stored(settings) is None
    published.objects[f"/datasets/{NAME}"] = archive
    await download(settings)
    assert stored(settings) == archive


async def test_a_wrong_checksum_is_not_stored(settings: MovieLensSettings, archive: bytes) -> None:
    """With INGEST_MOVIELENS_SHA256 only that archive is taken."""
    right = hashlib.sha256(archive).hexdigest()
    wrong = settings.model_copy(update={"movielens_sha256": "0" * 64})
    with pytest.raises(LocalIOError, match=right):
        await download(wrong)
    assert stored(settings) is None
    await download(settings.model_copy(update={"movielens_sha256": right.upper()}))
    assert stored(settings) == archive


@pytest.mark.parametrize("bucket", ["file"], indirect=True)
async def test_a_source_that_stays_broken_is_an_error(settings: MovieLensSettings, published: ObjectServer) -> None:
    """A source that always breaks off ends the step, and nothing is there."""
    published.cuts = 1000
    with pytest.raises(LocalIOError, match="run again"):
        await download(settings)
    assert stored(settings) is None


async def test_what_is_not_published_is_said(settings: MovieLensSettings, published: ObjectServer) -> None:
    """A wrong MOVIELENS_URL is exit code 66."""
    published.objects.clear()
    with pytest.raises(SourceNotFound, match=NAME):
        await download(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gcs_bucket_name": ""}, "GCS_BUCKET_NAME"),
        ({"gcs_bucket_name": "b", "movielens_url": "https://h/"}, "MOVIELENS_ZIP_FILENAME"),
        ({"gcs_bucket_name": "b", "movielens_zip_filename": "../x.zip"}, "MOVIELENS_ZIP_FILENAME"),
        ({"gcs_bucket_name": "ftp://b"}, "ftp"),
        ({"gcs_bucket_name": "file://host/b"}, "three slashes"),
    ],
)
async def test_wrong_settings_are_named(changes: dict[str, str], message: str) -> None:
    """What is wrong with the places is said before anything is fetched."""
    with pytest.raises(ConfigurationError, match=message):
        await download(load_settings(changes))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_download_leaves_nothing_that_looks_whole(
    tmp_path: Path, published: ObjectServer, archive: bytes, how: signal.Signals
) -> None:
    """Killed in the middle, the archive is not there; the same command again brings it."""
    cli = Cli(tmp_path)
    environment = {
        "GCS_BUCKET_NAME": (tmp_path / "bucket").as_uri(),
        "MOVIELENS_URL": f"{published.url}/datasets/{NAME}",
    }
    published.wait_s = 0.3
    process = cli.start("movielens", "download", **environment)  # type: ignore[arg-type]
    while len(published.ranges) < 2:  # then what the first one brought is being written
        time.sleep(0.01)
    process.send_signal(how)
    outcome = finish(process)
    assert outcome.code == (75 if how == signal.SIGTERM else -how), outcome.stderr
    assert not (tmp_path / "bucket" / NAME).exists()
    published.wait_s = 0
    assert cli.run("movielens", "download", **environment).code == 0
    assert (tmp_path / "bucket" / NAME).read_bytes() == archive
    assert [path.name for path in (tmp_path / "bucket").iterdir()] == [NAME]


def test_a_file_is_seen_whole_and_two_writers_do_not_mix(tmp_path: Path) -> None:
    """It is not there before its last piece is; a second writer is told that the first is at work."""
    address = Address.of((tmp_path / "object").as_uri())

    def pieces() -> Iterator[bytes]:
        yield b"first"
        assert not (tmp_path / "object").exists()
        with pytest.raises(LeaseHeld):
            put_whole(address, iter([b"second"]))
        yield b" and last"

    put_whole(address, pieces())
    assert (tmp_path / "object").read_bytes() == b"first and last"
