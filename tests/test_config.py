"""Settings: what beats what, and that a wrong one is named."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest_service.config import DEFAULT_SINK, load_settings, stream_named
from ingest_service.errors import ConfigurationError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, and an environment that is as before afterwards (a .env file adds to it)."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def test_defaults() -> None:
    """With nothing set it is SQLite in this folder, checkpoints in the sink, MicroLens."""
    found = load_settings()
    assert (found.to, found.dataset, found.checkpoint_dir) == ([DEFAULT_SINK], "microlens", None)
    assert (found.limit, found.max_rejects, found.log_level) == (None, None, "INFO")


def test_flags_beat_the_environment_beats_the_file_beats_the_defaults(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer wins over the next; a flag that is None was not given."""
    (folder / "ingest.toml").write_text('limit = 1\ndataset = "file"\nstate_dir = "file"\nmax_rejects = "1%"\n')
    monkeypatch.setenv("INGEST_LIMIT", "2")
    monkeypatch.setenv("INGEST_STATE_DIR", "environment")
    found = load_settings({"limit": 3, "state_dir": None})
    assert (found.limit, str(found.state_dir), found.dataset, found.checkpoint) == (3, "environment", "file", "sink")
    assert found.max_rejects == "1%"
    assert load_settings().limit == 2


def test_a_named_file_is_read_instead_of_the_one_here(folder: Path) -> None:
    """--config takes the place of ingest.toml."""
    (folder / "ingest.toml").write_text("limit = 1\n")
    (folder / "other.toml").write_text('dataset = "other"\n')
    found = load_settings(file=folder / "other.toml")
    assert (found.limit, found.dataset) == (None, "other")


def test_lists_and_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks are a list in TOML and words in the environment; columns are a table, nested names, or JSON."""
    (folder / "ingest.toml").write_text('to = ["sqlite:///a.db", "redis"]\n[columns]\nuser = "uid"\n')
    assert load_settings().to == ["sqlite:///a.db", "redis"]
    assert load_settings().columns == {"user": "uid"}
    monkeypatch.setenv("INGEST_TO", "sqlite:///b.db  redis://h/0?a=b,c")
    monkeypatch.setenv("INGEST_COLUMNS__USER", "who")
    assert load_settings().to == ["sqlite:///b.db", "redis://h/0?a=b,c"]
    assert load_settings().columns["user"] == "who"


@pytest.mark.parametrize("layer", ["environment", "dotenv", "file"])
@pytest.mark.parametrize(("name", "field"), [("LOG_LEVEL", "log_level"), ("REDIS_URL", "redis_url")])
def test_plain_names_work(folder: Path, monkeypatch: pytest.MonkeyPatch, layer: str, name: str, field: str) -> None:
    """LOG_LEVEL and REDIS_URL count as they are, from the process or a .env file, and as settings in TOML."""
    value = "debug" if field == "log_level" else "redis://h:1/0"
    if layer == "environment":
        monkeypatch.setenv(name, value)
    elif layer == "dotenv":
        (folder / ".env").write_text(f"{name}={value}\n")
    else:
        (folder / "ingest.toml").write_text(f'{field} = "{value}"\n')
    found = load_settings({"to": ["redis"]})
    assert (found.log_level if field == "log_level" else found.sink_urls()[0]) == value


def test_a_plain_name_beats_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LOG_LEVEL in the environment wins over log_level in the file."""
    (folder / "ingest.toml").write_text('log_level = "debug"\nredis_url = "redis://file/0"\n')
    monkeypatch.setenv("LOG_LEVEL", "error")
    monkeypatch.setenv("REDIS_URL", "redis://environment/0")
    found = load_settings({"to": ["redis"]})
    assert found.log_level == "error"
    assert found.sink_urls() == ["redis://environment/0"]


@pytest.mark.parametrize(("name", "field"), [("LOG_LEVEL", "log_level"), ("REDIS_URL", "redis_url")])
def test_plain_names_work_with_the_prefix_too_or_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str
) -> None:
    """INGEST_LOG_LEVEL is not silently ignored."""
    monkeypatch.setenv(f"INGEST_{name}", "redis://h/0" if field == "redis_url" else "error")
    try:
        found = load_settings()
    except ConfigurationError:
        return
    assert found.log_level == "error" or found.redis_url is not None


def test_a_dotenv_file_counts_as_environment_but_real_variables_win(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS's own names in it reach the process too."""
    (folder / ".env").write_text("INGEST_LIMIT=5\nINGEST_DATASET=dotenv\nAWS_PROFILE=me\nAWS_REGION=nowhere\n")
    monkeypatch.setenv("INGEST_DATASET", "real")
    before = os.environ["AWS_REGION"]
    found = load_settings()
    assert (found.limit, found.dataset) == (5, "real")
    assert os.environ["AWS_PROFILE"] == "me"
    assert os.environ["AWS_REGION"] == before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("limits = 5", "limits"),
        ("limit = 0", "limit"),
        ("limit = 'many'", "limit"),
        ("to = []", "to"),
        ("to = 5", "to"),
        ("max_rejects = '5 %'", "max_rejects"),
        ("max_rejects = '-1'", "max_rejects"),
        ("checkpoint = 'folder'", "checkpoint"),
        ("checkpoint = 'file:'", "checkpoint"),
        ("log_level = 'loud'", "(?i)log_level"),
        ("[columns]\nuser = 5", "columns"),
        ("limit = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_named(folder: Path, text: str, named: str) -> None:
    """An unknown key, an impossible value or a broken file is a ConfigurationError that names it."""
    (folder / "ingest.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=named):
        load_settings()


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    """A configuration that was asked for must be there, and be text."""
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        load_settings(file=folder / "none.toml")
    (folder / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"binary\.toml"):
        load_settings(file=folder / "binary.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(file=folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("INGEST_LIMITS", "5"), ("INGEST_", "x"), ("INGEST_LIMIT", "-5"), ("INGEST_MAX_REJECTS", "x"), ("INGEST_TO", " ")],
)
@pytest.mark.parametrize("layer", ["environment", "dotenv"])
def test_a_wrong_variable_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, layer: str, name: str, value: str
) -> None:
    """An unknown INGEST_ name or an impossible value is a ConfigurationError that names it."""
    if layer == "environment":
        monkeypatch.setenv(name, value)
    else:
        (folder / ".env").write_text(f"{name}='{value}'\n")
    with pytest.raises(ConfigurationError, match=f"(?i){name.removeprefix('INGEST_')}"):
        load_settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the settings' repr nor an error about them holds a password."""
    monkeypatch.setenv("REDIS_URL", "redis://:canary-password@h/0")
    assert "canary" not in repr(load_settings())
    monkeypatch.setenv("INGEST_LIMIT", "canary-value")
    with pytest.raises(ConfigurationError) as wrong:
        load_settings()
    assert "canary" not in str(wrong.value)


def test_the_short_name_redis_needs_an_address() -> None:
    """`--to redis` without REDIS_URL says what to set."""
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        load_settings({"to": ["redis"]}).sink_urls()


def test_checkpoints_in_a_folder() -> None:
    """`file:DIR` names the folder."""
    assert load_settings({"checkpoint": "file:a/b"}).checkpoint_dir == Path("a/b")


@pytest.mark.parametrize(
    "uri",
    ["file:///a/pairs.csv", "file:///a/../x", "stdin:", "file:///", "file:///a.zip#b/c d.csv", "file:///" + "x" * 300],
)
def test_a_stream_is_named_after_its_file(uri: str) -> None:
    """The name is fit for a file and a key, of bounded length, and another for another address."""
    name = stream_named(uri)
    assert name == stream_named(uri)
    assert name != stream_named(uri + "x")
    assert len(name) <= 89
    assert "/" not in name
    assert not name.startswith((".", "-"))
