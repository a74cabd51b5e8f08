"""Steps at times: cron expressions, in UTC. A time that passed while the service was down is not made up for."""

import asyncio
from datetime import UTC, datetime

import structlog
from cronsim import CronSim, CronSimError

from ingest_service.config import ScheduleSettings
from ingest_service.errors import ConfigurationError, IngestError
from ingest_service.service.desk import Desk, step_of

_LONGEST_SLEEP_S = 30.0  # the clock may be set meanwhile


def check(schedule: ScheduleSettings) -> None:
    """ConfigurationError for one that cannot be kept."""
    step_of(schedule.run)
    try:
        CronSim(schedule.cron, datetime.now(UTC))
    except CronSimError as error:
        raise ConfigurationError(
            f"The schedule {schedule.name!r} has no valid cron expression {schedule.cron!r}: {error}."
        ) from None


async def keep(schedule: ScheduleSettings, desk: Desk) -> None:
    """Announce the step at each of its times. One that is still queued or at work then is not doubled."""
    log = structlog.get_logger().bind(schedule=schedule.name)
    for due in CronSim(schedule.cron, datetime.now(UTC)):
        while (wait_s := (due - datetime.now(UTC)).total_seconds()) > 0:  # noqa: ASYNC110 - time is what it waits for
            await asyncio.sleep(min(wait_s, _LONGEST_SLEEP_S))
        if wait_s < -_LONGEST_SLEEP_S:
            continue  # the machine slept
        try:
            run, is_new = await desk.step(schedule.run, f"schedule:{schedule.name}")
        except IngestError as error:
            log.error("step not announced", reason=str(error))
        except Exception as error:  # the other times are to come
            log.error("step not announced", error=type(error).__qualname__)
        else:
            log.info("step announced", run=run.id, is_new=is_new)
