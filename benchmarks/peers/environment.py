"""The virtual environment of the peers that ingest_service does not depend on, made when it is missing."""

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.measure import ROOT

REQUIREMENTS = (
    "aioboto3==15.5.0",  # it brings its own boto3
    "asyncpg==0.31.0",
    "adbc-driver-postgresql==1.13.0",
    "duckdb==2.0.1",
    "pyarrow==26.0.1",
)


def peer_python() -> Path | None:
    """The interpreter that has the peers' packages; None, said loudly, where it cannot be had."""
    python = ROOT / ".cache" / "bench-venv" / "bin" / "python"
    if _works(python):
        return python
    sys.stderr.write(f"making {python.parents[1]} with {', '.join(REQUIREMENTS)}\n")
    try:
        venv.create(python.parents[1], with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"SKIPPED: no environment for the peers: {error}\n")
        return None
    return python if _works(python) else None


def _works(python: Path) -> bool:
    command = [str(python), "-c", "import adbc_driver_postgresql, aioboto3, asyncpg, boto3, duckdb"]
    return python.exists() and subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
