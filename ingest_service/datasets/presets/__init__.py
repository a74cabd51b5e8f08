"""Real data sets in their published forms: a schema file each."""

from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent


def preset_path(name: str) -> Path | None:
    """The schema file of a data set, or None if there is none of that name."""
    path = FOLDER / f"{name}.yaml"
    return path if path in FOLDER.glob("*.yaml") else None  # no name leads elsewhere


def preset_names() -> Iterator[str]:
    return (path.stem for path in sorted(FOLDER.glob("*.yaml")))
