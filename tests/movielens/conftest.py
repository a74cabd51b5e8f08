"""An archive as GroupLens packs it, a model, and settings that lead to servers of the test's own."""

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ingest_service.config import load_settings
from ingest_service.movielens.settings import MovieLensSettings
from tests.movielens.model import make_model
from tests.servers import ROOT

_MODEL = os.environ.get("INGEST_TEST_MODEL", "")
MOVIES = [
    (1, "Toy Story (1995)", "Adventure|Animation|Children|Comedy|Fantasy"),
    (2, '"Great Performances" Cats, The (1998)', "Musical"),
    (3, "11'09\"01 - September 11 (2002)", "Drama"),
    (4, "Cité des enfants perdus, La (1995) ", "Drama|Fantasy"),
    (5, "Babylon 5", "Sci-Fi"),
    (6, "Fawlty Towers (1975-1979)", "(no genres listed)"),
    (7, "Toy Story (1995)", "Adventure"),
]


@dataclass
class World:
    """Where everything is that a step needs; `settings(name=value)` are the settings for it."""

    folder: Path
    fields: dict[str, Any]

    def settings(self, **changes: Any) -> MovieLensSettings:
        return MovieLensSettings.of(load_settings(self.fields | changes))

    @property
    def environment(self) -> dict[str, str]:
        """The same for a command: plain names where there are such."""
        plain = {"gcs_bucket_name", "mongodb_uri", "redis_url", "hf_model_name", "movielens_url"}
        return {
            name.upper() if name in plain else f"INGEST_{name.upper()}": str(value)
            for name, value in self.fields.items()
        }

    @property
    def archive(self) -> Path:
        return self.folder / "bucket" / "ml-test.zip"

    def write(self, movies: list[tuple[int, str, str]] = MOVIES, ratings: str = "") -> None:
        """The archive in the bucket, and where it is published."""
        text = "movieId,title,genres\r\n"
        for movie_id, title, genres in movies:
            quoted = '"' + title.replace('"', '""') + '"' if '"' in title or "," in title else title
            text += f"{movie_id},{quoted},{genres}\r\n"
        pack(self.folder / "ml-test.zip", {"movies.csv": text, "ratings.csv": ratings or ratings_text(300)})
        self.archive.parent.mkdir(exist_ok=True)
        self.archive.write_bytes((self.folder / "ml-test.zip").read_bytes())


def ratings_text(users: int) -> str:
    """Each user rates three of the movies, of which one does not exist."""
    rows = ["userId,movieId,rating,timestamp\n"]
    for user in range(1, users + 1):
        for place, movie in enumerate((1 + user % 7, 1 + (user + 3) % 7, 999)):
            rows.append(f"{user},{movie},{(1 + (user + place) % 10) / 2},{1_500_000_000 + 1_000 * user + place}\n")
    return "".join(rows)


def pack(path: Path, files: dict[str, str]) -> None:
    """A zip with a folder named after it, as GroupLens makes them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {"README.txt": "x" * 50_000, **files, "tags.csv": "userId,movieId,tag,timestamp\n"}.items():
            archive.writestr(f"{path.stem}/{name}", text)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def world(
    tmp_path: Path,
    mongodb_db_url: str,
    redis_db_url: str,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """A small archive in a bucket of files, with a store of each kind, and this folder to be in."""
    monkeypatch.chdir(tmp_path)
    fields = {
        "gcs_bucket_name": (tmp_path / "bucket").as_uri(),
        "movielens_url": (tmp_path / "ml-test.zip").as_uri(),
        "mongodb_uri": mongodb_db_url,
        "redis_url": redis_db_url,
        "hf_model_name": str(tiny_model),
        "movie_id_map": str(tmp_path / "movie_id_map.json"),
        "state_dir": str(tmp_path / "state"),
    }
    found = World(tmp_path, fields)
    found.write()
    before = dict(os.environ)
    yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def real_model() -> Path:
    """all-MiniLM-L6-v2: INGEST_TEST_MODEL, or where it lies beside the checkout. Optional, so CI skips as well."""
    folder = Path(_MODEL or ROOT.parent / "shared" / "models" / "all-MiniLM-L6-v2")
    if not folder.is_dir():
        pytest.skip("NO MODEL: ../shared/models/all-MiniLM-L6-v2 is not beside this checkout")
    return folder
