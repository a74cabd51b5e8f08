"""How a process is asked to stop."""

import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, os, signal
from ingest_service.runtime import signals

async def main():
    stop = signals.stop_on_signals()
    signals._SAME_S = 60
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        await stop.wait()
        await asyncio.sleep(0.05)
    print("draining", flush=True)
    signals._SAME_S = 0
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)
    print("asleep", flush=True)

asyncio.run(main())
"""


@pytest.mark.fault(3)
def test_signals_that_come_together_are_one() -> None:
    """As those of timeout(1), which signals a process and its group: it drains. A later one ends it at once."""
    outcome = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (75, "draining\n"), outcome.stderr
