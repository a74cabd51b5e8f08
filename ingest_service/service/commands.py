"""What the process of a run or a question is given: its arguments, and by the environment what may hold secrets."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ingest_service.errors import ConfigurationError
from ingest_service.runtime.process import WORKER
from ingest_service.service.runs import LOADS, Run

_NOT_PASSED_ON = (
    "INGEST_SERVE__TOKEN",
    "INGEST_SERVE__TOKEN_FILE",
    "INGEST_TO",
    "INGEST_DATASET",
    "INGEST_LIMIT",
    WORKER,
)


class Commands:
    """`urls` are the sinks by name, `config` is the file that the service was given."""

    def __init__(self, urls: Mapping[str, str], config: Path | None, workers: int = 1) -> None:
        """`workers`: among how many processes a run divides its source."""
        self._urls = urls
        self._workers = workers
        self._config = [f"--config={config}"] if config else []
        self._environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}

    def arguments(self, run: Run) -> list[str]:
        options = ["--json", *self._config]
        if run.task.kind not in LOADS:
            step, *own = shlex.split(run.task.name)
            return [run.task.kind, step, *options, *own]
        if run.task.restart and run.progress is None:  # else it has begun anew already, and goes on
            options.append("--restart")
        if self._workers > 1 and run.task.kind == "run" and run.task.limit is None:
            options.append(f"--workers={self._workers}")
        chosen = {"code": run.task.code, "letter": run.task.letter, "text": run.task.text}
        options += [f"--{name}={value}" for name, value in chosen.items() if value is not None]
        return [run.task.kind, *options, "--", run.task.name]

    def environment(self, run: Run) -> dict[str, str]:
        """ConfigurationError if a sink that the run needs is configured no more."""
        if run.task.kind not in LOADS:
            return dict(self._environment)
        missing = [name for name in run.task.sinks if name not in self._urls]
        if missing:
            raise ConfigurationError(f"There is no sink {missing[0]!r} any more; configure it and retry the run.")
        environment = self.environment_of(run.task.sinks, run.task.dataset)
        if run.task.limit is not None:
            environment["INGEST_LIMIT"] = str(run.task.limit)
        return environment

    def question(self, what: str, source: str) -> list[str]:
        """The arguments of a command that looks at a source."""
        return [what, *self._config, "--", source]

    def environment_of(self, sinks: Sequence[str], dataset: str) -> dict[str, str]:
        """That of a command with these sinks, by their names, and this data set."""
        return {
            **self._environment,
            "INGEST_TO": json.dumps([self._urls[name] for name in sinks]),
            "INGEST_DATASET": dataset,
        }
