"""Steps that a package brings beside the loading of files: `NAME COMMAND` on the command line and in schedules.

They are registered by the entry-point group `ingest_service.steps`, under their name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest_service.config import Settings
from ingest_service.datasets.base import Dataset
from ingest_service.runtime.plugins import registered
from ingest_service.sinks.base import AnySink


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one package.

    commands: what may stand after their name.
    settings: what they need to know beside a run's settings; their names are known to every command.
    owns: whether a file of dead letters is theirs. Blocks.
    target: where such letters go, and of which data set they are. Blocks.
    """

    commands: tuple[str, ...]
    settings: type[Settings]
    owns: Callable[[Path, Settings], bool]
    target: Callable[[Settings], tuple[Sequence[AnySink], Dataset]]


def steps() -> Mapping[str, Steps]:
    """All that are installed, by name."""
    return {name: entry.load() for name, entry in registered("steps").items()}


def target_of(path: Path, settings: Settings) -> tuple[Sequence[AnySink], Dataset] | None:
    """Where a file of dead letters goes that belongs to some steps; None if it is one of files. Blocks."""
    owner = next((one for one in steps().values() if one.owns(path, settings)), None)
    return None if owner is None else owner.target(settings)
