"""What importing costs, and what the package offers."""

import subprocess
import sys

import pytest

import ingest_service

HEAVY = ("polars", "numpy", "redis", "aiobotocore", "botocore", "aiohttp", "pydantic")


def loaded_by(statement: str) -> set[str]:
    script = f"{statement}; import sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import ingest_service", "import ingest_service.cli", "import ingest_service.errors"]
)
def test_importing_is_cheap(statement: str) -> None:
    """Neither the package nor the command line loads a library that `--help` does not need."""
    assert not loaded_by(statement) & set(HEAVY)


def test_the_pipeline_loads_no_sink() -> None:
    """Sinks come by their entry points: only the one that is used is loaded."""
    loaded = loaded_by("import ingest_service.pipeline.load, ingest_service.pipeline.run")
    assert not loaded & {"redis", "aiobotocore", "botocore", "aiohttp"}
    brands = {f"ingest_service.sinks.{brand}" for brand in ("redis", "dynamodb", "mongodb", "postgres", "sqlite")}
    assert not loaded & brands


@pytest.mark.parametrize("name", ingest_service.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """What `__all__` lists can be had from the package."""
    assert getattr(ingest_service, name).__name__ == name


def test_other_names_are_not() -> None:
    """A wrong name is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ingest_service.nothing  # noqa: B018
