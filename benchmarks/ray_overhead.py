"""What Ray takes for itself while its tasks load a file: prints one JSON object.

    RAY_PYTHON -m benchmarks.ray_overhead FILE --to URL [--workers 2] [--shard-mb 64]

By the Python of an environment that has ray and ingest-service. `start_s`: until Ray is there and each worker has
imported what it needs, which is once. `tasks_s`: from then on until all is loaded. `work_s`: how long the longest of
the tasks was at it. `ray_cpu_s` and `work_cpu_s`: of Ray's own processes and of the tasks, in that time.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.measure import ROOT
from ingest_service.cli.on_ray import _work


def _timed(*arguments: Any) -> tuple[float, float]:
    """In a worker: how long it took, and its CPU seconds."""
    began, cpu_s = time.monotonic(), time.process_time()
    if arguments:
        code, told = _work(*arguments)
        if code:
            raise RuntimeError(told)
    return time.monotonic() - began, time.process_time() - cpu_s


def _engine_cpu_s() -> float:
    """Of Ray's servers: all that this process has started, but the workers."""
    total, parents, names = 0.0, {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name, fields = (path / "stat").read_text().rsplit(")", 1)
        except OSError:
            continue
        pid = int(path.name)
        parents[pid], names[pid] = int(fields.split()[1]), name
        parents[-pid] = sum(map(int, fields.split()[11:13]))
    for pid in names:
        above = pid
        while above > 1 and above != os.getpid():
            above = parents.get(above, 0)
        if above == os.getpid() != pid and "(ray::" not in names[pid]:
            total += parents[-pid] / os.sysconf("SC_CLK_TCK")
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--to", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-mb", type=int, default=64)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    began = time.monotonic()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    task = ray.remote(num_cpus=1)(_timed)
    ray.get([task.remote() for _ in range(options.workers)])
    start_s = time.monotonic() - began
    with tempfile.TemporaryDirectory() as folder:
        settings = {"to": [options.to], "state_dir": folder, "checkpoint": f"file:{folder}/checkpoints"}
        arguments = ([str(options.file)], settings, options.workers, options.shard_mb)
        began, before_s = time.monotonic(), _engine_cpu_s()
        ended = ray.get([task.remote(*arguments) for _ in range(options.workers)])
        tasks_s, ray_cpu_s = time.monotonic() - began, _engine_cpu_s() - before_s
    ray.shutdown()
    told = {
        "start_s": start_s,
        "tasks_s": tasks_s,
        "work_s": max(wall_s for wall_s, _ in ended),
        "ray_cpu_s": ray_cpu_s,
        "work_cpu_s": sum(cpu_s for _, cpu_s in ended),
    }
    json.dump({name: round(value, 3) for name, value in told.items()}, sys.stdout)


if __name__ == "__main__":
    main()
