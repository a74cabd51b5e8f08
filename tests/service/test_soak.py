"""The service over time."""

import subprocess
import sys

import pytest

from tests.servers import ROOT


@pytest.mark.long
def test_three_minutes_of_files_and_polling_leave_its_memory_flat() -> None:
    """Nothing is lost, no request fails, and memory does not grow: what scripts/soak looks at for an hour."""
    command = [sys.executable, str(ROOT / "scripts" / "soak"), "2"]
    soak = subprocess.run(command, capture_output=True, text=True, check=False)
    assert soak.returncode == 0, soak.stdout + soak.stderr
