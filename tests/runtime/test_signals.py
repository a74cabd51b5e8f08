"""How a process is asked to stop."""

import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, os, signal
from ingest_service.runtime import process

async def main():
    stop = process.stop_on_signals()
    process._SAME_S = 60
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        await stop.wait()
        await asyncio.sleep(0.05)
    print("draining", flush=True)
    process._SAME_S = 0
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


FIRST_PROCESS = ("unshare", "--pid", "--fork")
# Sends itself the signal while the modules of a command are being imported.
IMPORTING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Finder())
sys.argv = ["ingest-service", "{command}", "--help"]
from ingest_service.cli import main
main()
"""


@pytest.mark.parametrize("command", ["run", "serve"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("prefix", [(), FIRST_PROCESS], ids=["any process", "PID 1"])
@pytest.mark.fault(58)
def test_a_signal_ends_a_process_that_still_imports(prefix: tuple[str, ...], name: str, command: str) -> None:
    """With 75, and also as the first process of a container, for which the kernel drops what has no handler."""
    if prefix and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a namespace of its own is not permitted here")
    script = IMPORTING.format(name=name, command=command)
    done = subprocess.run([*prefix, sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (75, ""), done.stderr
    assert done.stderr == "ingest-service: Stopped on request before anything was begun; run the same command again.\n"


def test_what_a_parent_ignores_stays_ignored() -> None:
    """As `nohup` and shells without job control do."""
    script = IMPORTING.format(name="SIGINT", command="run")
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{script}"
    done = subprocess.run([sys.executable, "-c", ignoring], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage" in done.stdout
