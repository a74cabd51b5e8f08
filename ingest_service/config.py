"""Settings: flags beat the environment, that beats the TOML file, that beats the defaults. Loaded and checked once."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ingest_service.blocks import MEMORY_MB, MIN_MEMORY_MB
from ingest_service.errors import ConfigurationError

DEFAULT_FILE = Path("ingest.toml")
DEFAULT_SINK = "sqlite:///interactions.db"
PREFIX = "INGEST_"


def _words(value: object) -> object:
    """A list in one environment variable: its items stand apart by spaces."""
    return value.split() if isinstance(value, str) else value


class Settings(BaseSettings):
    """What a run needs to know. The same names serve in TOML, and as INGEST_NAME in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, populate_by_name=True
    )

    to: Annotated[list[str], NoDecode, BeforeValidator(_words)] = Field([DEFAULT_SINK], min_length=1, repr=False)
    dataset: str = "microlens"
    columns: dict[str, str] = {}
    checkpoint: str = Field("sink", pattern=r"^(sink|file:.+)$")
    state_dir: Path = Path(".ingest")
    limit: int | None = Field(None, ge=1)
    max_rejects: str | None = Field(None, pattern=r"^[0-9]+$|^[0-9]+(\.[0-9]+)?%$")
    memory_mb: int = Field(MEMORY_MB, ge=MIN_MEMORY_MB)
    log_level: str = Field("INFO", validation_alias="LOG_LEVEL", pattern=r"(?i)^(debug|info|warning|error|critical)$")
    redis_url: SecretStr | None = Field(None, validation_alias="REDIS_URL")

    @property
    def checkpoint_dir(self) -> Path | None:
        """The folder of `file:DIR`, or None where checkpoints live in the sinks."""
        return Path(self.checkpoint.removeprefix("file:")) if self.checkpoint != "sink" else None

    def sink_urls(self) -> list[str]:
        """Where to, with the short name `redis` replaced by REDIS_URL."""
        return [self._redis_url() if url == "redis" else url for url in self.to]

    def _redis_url(self) -> str:
        if self.redis_url is None:
            raise ConfigurationError("The sink 'redis' has no address; set REDIS_URL or give a redis:// URL.")
        return self.redis_url.get_secret_value()


def load_settings(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Settings:
    """Flags that are None count as not given. ConfigurationError names what is wrong."""
    _load_dotenv(Path(".env"))
    _refuse_unknown_variables()
    toml_file = file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    if toml_file is not None:
        _check_toml(toml_file)

    class _Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            if toml_file is None:
                return init_settings, env_settings
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file)

    try:
        return _Loaded(**{name: value for name, value in (flags or {}).items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(Settings.model_fields))
            raise ConfigurationError(f"There is no setting {name!r}; there are: {known}.") from None
        raise ConfigurationError(f"Setting {name!r} is wrong: {first['msg']}.") from None


def _load_dotenv(path: Path) -> None:
    """A `.env` file here counts as environment, AWS's own names included; real variables win."""
    for name, value in dotenv_values(path).items():
        if value is not None:
            os.environ.setdefault(name, value)


def _refuse_unknown_variables() -> None:
    known = set(Settings.model_fields)
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower().partition("__")[0]
        if variable.startswith(PREFIX) and not variable.startswith("INGEST_TEST_") and name not in known:
            raise ConfigurationError(
                f"The environment variable {variable} is no setting; there are: "
                f"{', '.join(PREFIX + name.upper() for name in sorted(known))}."
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
