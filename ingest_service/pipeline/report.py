"""What a run did, so that the rows add up: read = accepted + rejected, accepted = written + merged + dead a sink."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ingest_service.pipeline.tracker import Count, Counts

MANY = 3  # sources that people are told of one by one; of more, together


@dataclass(frozen=True, slots=True)
class SinkReport:
    """One sink, over all runs of the stream so far. `rows_now` were settled in this run."""

    counts: Counts
    offset: Count
    complete: bool
    rows_now: Count
    retries: Count
    throttled: Count
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StreamReport:
    """One source."""

    source: str
    stream: str
    elapsed_s: float
    dead_letters: str
    sinks: dict[str, SinkReport] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return all(sink.complete for sink in self.sinks.values())

    @property
    def balanced(self) -> bool:
        return all(sink.counts.balanced for sink in self.sinks.values())

    @property
    def rows_now(self) -> int:
        return max((sink.rows_now for sink in self.sinks.values()), default=0)

    @property
    def rows_per_s(self) -> float:
        return self.rows_now / self.elapsed_s if self.elapsed_s else 0.0

    def with_more(self, rows: Mapping[str, int], elapsed_s: float) -> "StreamReport":
        """With rows that were settled in its shards, by sink, before this was made."""
        sinks = {name: replace(sink, rows_now=sink.rows_now + rows.get(name, 0)) for name, sink in self.sinks.items()}
        return replace(self, elapsed_s=elapsed_s, sinks=sinks)

    def as_json(self) -> dict[str, Any]:
        """The `report` event and `run --json`, per source."""
        return {
            "source": self.source,
            "stream": self.stream,
            "complete": self.complete,
            "balanced": self.balanced,
            "elapsed_s": round(self.elapsed_s, 3),
            "rows_now": self.rows_now,
            "rows_per_s": round(self.rows_per_s),
            "dead_letters": self.dead_letters,
            "warnings": self.warnings,
            "sinks": {
                name: {
                    **sink.counts.as_json(),
                    "offset": sink.offset,
                    "complete": sink.complete,
                    "rows_now": sink.rows_now,
                    "retries": sink.retries,
                    "throttled": sink.throttled,
                    "warnings": sink.warnings,
                }
                for name, sink in self.sinks.items()
            },
        }

    @staticmethod
    def fields(told: Mapping[str, Any]) -> dict[str, Any]:
        """By their names here, as they stand in the JSON."""
        return {**told, "sinks": {name: {**sink, "counts": sink} for name, sink in told["sinks"].items()}}


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run over one source or several."""

    streams: list[StreamReport]

    def total(self, sink: str) -> Counts:
        """The counts of one sink over all sources."""
        return sum((stream.sinks[sink].counts for stream in self.streams), Counts())

    def with_more(self, others: Sequence["Report"]) -> "Report":
        """With the rows that other workers have settled of the same sources."""
        return Report(
            [
                stream.with_more(
                    sum(
                        (Counter({name: sink.rows_now for name, sink in one.sinks.items()}) for one in theirs),
                        Counter(),
                    ),
                    max(stream.elapsed_s, *(one.elapsed_s for one in theirs)),
                )
                for stream, *theirs in zip(self.streams, *(other.streams for other in others), strict=True)
            ]
            if others
            else self.streams
        )

    @property
    def balanced(self) -> bool:
        return all(stream.balanced for stream in self.streams)

    def as_json(self) -> dict[str, Any]:
        return {"balanced": self.balanced, "sources": [stream.as_json() for stream in self.streams]}
