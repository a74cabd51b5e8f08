"""What may happen to a load that workers share: the same rows, counts and dead letters in the end, none of it twice."""

import subprocess
from pathlib import Path

import pytest

from tests.helpers import COMMAND, Cli, write_pairs

WORKERS = ("--workers", "2", "--shard-mb", "1")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight MiB, and as many shards."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.csv", 20_000, blocks=1).path


def test_no_descriptor_is_closed_twice(cli: Cli, pairs: Path) -> None:
    """By the second time it may be that of a database which another thread has opened."""
    traced = ["strace", "-f", "-qq", "-Z", "-e", "trace=close", "-o", "trace"]
    if subprocess.run([*traced, "true"], cwd=cli.folder, capture_output=True, check=False).returncode:
        pytest.skip("NO TOOL: strace is not there, or may not trace")
    done = subprocess.run([*traced, *COMMAND, "run", pairs, *WORKERS], cwd=cli.folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "EBADF" not in (cli.folder / "trace").read_text()
