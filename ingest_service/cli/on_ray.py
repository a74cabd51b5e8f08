"""Workers as tasks of Ray: it starts them on its machines, and again elsewhere when one dies.

The work is done inside Ray's own worker and never in a child of it: a child outlives its worker and keeps the lease
(ray#42861). It runs in a thread, with a loop of its own, since the task's thread belongs to Ray.
"""

import asyncio
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ingest_service.errors import ConfigurationError, IngestError, Stopped, family_of

if TYPE_CHECKING:
    from ingest_service.pipeline.report import Report

NO_RAY = "--on ray:// needs an extra; install it with: pip install 'ingest-service[ray]', here and on Ray's machines."
_DRAIN_S = 10.0  # a worker has 7 s for what is in flight


def run_on_ray(
    address: str, n: int, sources: Sequence[str], settings: dict[str, Any], shard_mb: int | None
) -> "Report":
    """Let `n` tasks of Ray load the sources. Blocks.

    address: ray://HOST:PORT, or ray://local for one that is started here and ends with this. settings: by their names;
    they reach Ray's machines through Ray, passwords in URLs included.
    """
    is_local = address == "ray://local"
    try:
        import ray
        from ray.exceptions import RayError

        if not is_local:
            import grpc  # noqa: F401 - of Ray's client
    except ModuleNotFoundError:
        raise ConfigurationError(NO_RAY) from None
    try:
        ray.init(
            address=None if is_local else address,
            include_dashboard=False if is_local else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
        return _run(n, sources, settings, shard_mb)
    except (ConnectionError, RayError) as error:
        raise Stopped(
            f"{address} cannot be reached, or has gone ({type(error).__name__}); look at it and at Ray's token, "
            "then run the same command again to go on."
        ) from error
    finally:
        with suppress(ConnectionError, RayError):
            ray.shutdown()


def _run(n: int, sources: Sequence[str], settings: dict[str, Any], shard_mb: int | None) -> "Report":
    """In a Ray that is there."""
    import ray

    # A shard that fails fails the load; a dead worker does not.
    task = ray.remote(max_retries=-1, num_cpus=1)(_work)
    left = [task.remote(list(sources), settings, n, shard_mb) for _ in range(n)]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ended = [ray.get(one) for one in left]
    except KeyboardInterrupt:
        for one in left:
            ray.cancel(one)
        ray.wait(left, num_returns=len(left), timeout=_DRAIN_S)
        raise Stopped.on_request() from None
    finally:
        signal.signal(signal.SIGTERM, before)
    for code, told in ended:
        if code:
            raise family_of(code)(told)
    report: Report = ended[0][1]
    return report.with_more([other for _, other in ended[1:]])


def _work(sources: list[str], settings: dict[str, Any], share: int, shard_mb: int | None) -> tuple[int, Any]:
    """In a worker of Ray: an exit code with its reason, or 0 with the report."""
    with ThreadPoolExecutor(1) as thread:
        loop, stop = asyncio.new_event_loop(), asyncio.Event()
        working = thread.submit(loop.run_until_complete, _one(sources, settings, share, shard_mb, stop))
        try:
            return working.result()
        except KeyboardInterrupt:  # as Ray says that it is cancelled
            loop.call_soon_threadsafe(stop.set)
            return working.result()


async def _one(
    sources: list[str], settings: dict[str, Any], share: int, shard_mb: int | None, stop: asyncio.Event
) -> tuple[int, Any]:
    from ingest_service.pipeline.run import work

    try:
        report = await work(sources, share=share, shard_mb=shard_mb, stop=stop, **settings)
    except IngestError as error:  # of which Ray would make one of its own
        return error.exit_code, str(error)
    return 0, report
