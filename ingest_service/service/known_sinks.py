"""The sinks that the service knows, by name: requests and inboxes name them, and never hold a URL."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ingest_service.config import Settings
from ingest_service.errors import ConfigurationError
from ingest_service.sinks.urls import sink_at


@dataclass(frozen=True, slots=True)
class Sinks:
    """`urls` may hold passwords; `default` are the names of those that work goes to when it names none."""

    urls: dict[str, str] = field(repr=False)
    default: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings) -> "Sinks":
        """Those of `[sinks]` and of `to`, which go by their own name where they have none there. Blocks."""
        urls = {name: settings.sink_url(name) for name in settings.sinks}
        default = []
        for name in settings.to:
            url = settings.sink_url(name)
            own = name if name in settings.sinks else sink_at(url).name
            if urls.setdefault(own, url) != url:
                raise ConfigurationError(f"Two sinks are named {own!r}; tell them apart with ?name=… in one URL.")
            default.append(own)
        return cls(urls, tuple(sorted(default)))

    def named(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names, in order, or the default. ConfigurationError if there is no sink of one of them."""
        for name in names:
            if name not in self.urls:
                raise ConfigurationError(f"There is no sink {name!r}; there are: {', '.join(sorted(self.urls))}.")
        return tuple(sorted(set(names))) or self.default
