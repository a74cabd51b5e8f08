"""Settings: flags beat the environment, that beats the TOML file, that beats the defaults. Loaded and checked once."""

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ingest_service.datasets import dataset_after, dataset_described_by, dataset_named, dataset_names
from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError
from ingest_service.formats.memory import MEMORY_MB, MIN_MEMORY_MB
from ingest_service.runtime.plugins import registered
from ingest_service.runtime.process import PARENT_PID, WORKER

if TYPE_CHECKING:
    from ingest_service.sources.allowed import Allowed

DEFAULT_FILE = Path("ingest.toml")
DEFAULT_SINK = "sqlite:///interactions.db"
DEFAULT_DATABASE = "movielens"
PREFIX = "INGEST_"
_NAME = r"^[A-Za-z0-9_-]{1,40}$"
_toml_file: ContextVar[Path | None] = ContextVar("toml_file", default=None)  # what settings are being loaded from


def _words(value: object) -> object:
    """A list in one environment variable: its items stand apart by spaces, or it is JSON."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else value.split()


class InboxSettings(BaseModel):
    """A folder or a prefix of objects from which the service takes files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME)
    url: str = Field(min_length=1)
    pattern: str = Field("*", min_length=1)
    complete: Literal["stable", "done-marker", "rename"] = "stable"
    stable_s: float = Field(10, gt=0)
    afterwards: Literal["keep", "move", "marker"] = "keep"
    sinks: list[str] = []
    dataset: str | None = None


class ScheduleSettings(BaseModel):
    """A step that the service runs at times given by a cron expression, in UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME)
    cron: str
    run: str


class ServeSettings(BaseModel):
    """What `serve` needs to know beside the settings of its runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65535)
    token: SecretStr | None = None
    token_file: Path | None = None
    workers: int = Field(default=1, ge=1, le=64)
    runs_at_once: int = Field(default=1, ge=1, le=64)
    keep_runs: int = Field(default=100_000, ge=100)
    public_url: str = Field(default="", pattern=r"^(https?://[^/?#@\s]+/?)?$")
    roots: list[Path] = []
    refuse_hard_links: bool = False
    upload_mb: int = Field(default=1_000, ge=1)
    allowed_urls: list[str] = []
    inbox: list[InboxSettings] = []
    schedule: list[ScheduleSettings] = []


class Settings(BaseSettings):
    """What a run needs to know. The same names serve in TOML, and as INGEST_NAME in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        defer_build=True,  # of these classes most commands need the last one alone
    )

    to: Annotated[list[str], NoDecode, BeforeValidator(_words)] = Field([DEFAULT_SINK], min_length=1, repr=False)
    dataset: str = "microlens"
    datasets: dict[Annotated[str, Field(pattern=_NAME)], Path] = {}  # schema files
    columns: dict[str, str] = {}
    transform: list[dict[str, Any]] = []  # steps; read with the data set that they are taken with
    feature: list[dict[str, Any]] = []  # likewise
    checkpoint: str = Field("sink", pattern=r"^(sink|file:.+)$")
    state_dir: Path = Path(".ingest")
    state_mirror: str | None = Field(None, pattern=r"^(s3|gs|file)://[^?#]+$")
    limit: int | None = Field(None, ge=1)
    max_rejects: str | None = Field(None, pattern=r"^[0-9]+$|^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)%$")
    memory_mb: int = Field(MEMORY_MB, ge=MIN_MEMORY_MB)
    metrics_port: int | None = Field(None, ge=1, le=65_535)
    log_level: str = Field("INFO", validation_alias="LOG_LEVEL", pattern=r"(?i)^(debug|info|warning|error|critical)$")
    redis_url: SecretStr | None = Field(None, validation_alias="REDIS_URL")
    mongodb_uri: SecretStr | None = Field(None, validation_alias="MONGODB_URI")
    sinks: dict[Annotated[str, Field(pattern=_NAME)], SecretStr] = {}
    serve: ServeSettings = Field(default_factory=ServeSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Those that are named above; of TOML only while `load_settings` reads a file."""
        file = _toml_file.get()
        given = (init_settings, env_settings)
        return given if file is None else (*given, TomlConfigSettingsSource(settings_cls, file))

    def dataset_named(self, name: str = "") -> Dataset:
        """A data set by its name, here or in a package, or by the path of its schema file; by default `dataset`.

        Its records are those after the steps of `transform`, with `feature`. Blocks where it is described by a file.
        """
        name = name or self.dataset
        found = dataset_described_by(self.datasets[name]) if name in self.datasets else dataset_named(name)
        return dataset_after(found, self.transform, self.feature)

    @property
    def checkpoint_dir(self) -> Path | None:
        """The folder of `file:DIR`, or None where checkpoints live in the sinks."""
        return Path(self.checkpoint.removeprefix("file:")) if self.checkpoint != "sink" else None

    def sink_urls(self) -> list[str]:
        """Where to, as URLs."""
        return [self.sink_url(name) for name in self.to]

    def sink_url(self, name: str) -> str:
        """The URL that a name of `[sinks]` stands for, `redis` for REDIS_URL, `mongodb` for MONGODB_URI; or it is one.

        A sink goes by its name in `[sinks]`, unless its URL has another for it.
        """
        if name in self.sinks:
            return _named(self.sinks[name].get_secret_value(), name)
        short = {"redis": self.redis_address, "mongodb": self.mongodb_address}
        return short[name]() if name in short else name

    def allowed(self) -> "Allowed":
        """What the service and its runs may read."""
        from ingest_service.sources.allowed import Allowed

        places: list[str | Path] = [
            *self.serve.roots,
            *self.serve.allowed_urls,
            *(inbox.url for inbox in self.serve.inbox),
        ]
        return Allowed.of(places, refuse_hard_links=self.serve.refuse_hard_links)

    def redis_address(self) -> str:
        if self.redis_url is None or not self.redis_url.get_secret_value():
            raise ConfigurationError("The sink 'redis' has no address; set REDIS_URL or give a redis:// URL.")
        return self.redis_url.get_secret_value()

    def mongodb_address(self) -> str:
        """MONGODB_URI, with the database `movielens` where it names none."""
        if self.mongodb_uri is None or not self.mongodb_uri.get_secret_value():
            raise ConfigurationError("The sink 'mongodb' has no address; set MONGODB_URI or give a mongodb:// URL.")
        address, mark, query = self.mongodb_uri.get_secret_value().partition("?")
        if not address.partition("://")[2].partition("/")[2]:
            address = f"{address.rstrip('/')}/{DEFAULT_DATABASE}"
        return f"{address}{mark}{query}"


def _named(url: str, name: str) -> str:
    """The URL of a sink with its name as an option."""
    address, mark, query = url.partition("?")
    if address.partition("://")[0] == name or re.search(r"(^|&)name=", query):
        return url
    return f"{address}?{query}&name={name}" if mark and query else f"{address}?name={name}"


def load_settings(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Settings:
    """Flags that are None count as not given. ConfigurationError names what is wrong."""
    _load_dotenv(Path(".env"))
    kind = _settings_of_all()
    known = sorted(kind.model_fields)
    _refuse_unknown_variables(known)
    toml_file = file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    if toml_file is not None:
        _check_toml(toml_file)
    reading = _toml_file.set(toml_file)
    try:
        settings = kind(**{name: value for name, value in (flags or {}).items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden" and len(first["loc"]) > 1:
            raise ConfigurationError(f"There is no setting {name!r}; see docs/COMMANDS.md.") from None
        if first["type"] == "extra_forbidden":
            raise ConfigurationError(f"There is no setting {name!r}; there are: {', '.join(known)}.") from None
        raise ConfigurationError(f"Setting {name!r} is wrong: {first['msg']}.") from None
    finally:
        _toml_file.reset(reading)
    _refuse_unknown_roles(settings, (flags or {}).get("columns") or {})
    return settings


def prepare_settings() -> None:
    """Make what checks settings, which is else made when they are loaded."""
    _settings_of_all().model_rebuild()


def _settings_of_all() -> type[Settings]:
    """A run's settings, and those of the steps that packages bring (pipeline/steps.py)."""
    own = [entry.load().settings for entry in registered("steps").values()] or [Settings]
    return own[0] if len(own) == 1 else type("AllSettings", tuple(own), {})  # a class of settings takes long to make


def _refuse_unknown_roles(settings: Settings, asked: Mapping[str, str]) -> None:
    """What is asked for is held to the data set at hand; settings that stay are for all of them."""
    if asked:
        settings.dataset_named().require_roles(asked)
    if not settings.columns:
        return
    datasets = [*map(dataset_named, dataset_names()), settings.dataset_named()]
    roles = {column.role for dataset in datasets for column in dataset.columns}
    for role in settings.columns:
        if role not in roles:
            raise ConfigurationError(
                f"Setting 'columns' names {role!r}, which no data set has; there are: {', '.join(sorted(roles))}."
            )


def _load_dotenv(path: Path) -> None:
    """A `.env` file here counts as environment, AWS's own names included; real variables win."""
    for name, value in dotenv_values(path).items():
        if value is not None:
            os.environ.setdefault(name, value)


def _refuse_unknown_variables(known: Sequence[str]) -> None:
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower().partition("__")[0]
        if not variable.startswith(PREFIX) or variable.startswith("INGEST_TEST_") or variable in (PARENT_PID, WORKER):
            continue
        if name not in known:
            raise ConfigurationError(
                f"The environment variable {variable} is no setting; there are: "
                f"{', '.join(PREFIX + name.upper() for name in known)}."
            )


def _check_toml(path: Path) -> None:
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"There is no configuration file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read ({type(error).__name__}).") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from None


def stream_named(uri: str) -> str:
    """The stream of a source: its file's name, and a hash of its whole address."""
    from hashlib import blake2b

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", uri.rpartition("/")[2]).strip("-.") or "stream"
    return f"{name[:80]}-{blake2b(uri.encode(), digest_size=4).hexdigest()}"
