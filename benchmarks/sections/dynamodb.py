"""DynamoDB beside the scripts, on a server that stores nothing: what the client costs."""

from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.peers.environment import peer_python

SCRIPTS: Final = (  # name, module, rows, what our multiples of its rows/s and rows per CPU second should be
    ("csv + aioboto3 batch_writer, 8 consumers", "dynamodb_aioboto3_script", 40_000, 4, 20),
    ("csv + boto3 batch_writer", "dynamodb_boto3_script", 40_000, None, None),
)


def figures(bench: Bench) -> list[Figure]:
    python = peer_python()
    if python is None:
        bench.skip("dynamodb: no environment with aioboto3")
        return []
    ours = bench.ours(bench.file(), bench.dynamodb)
    lines = []
    for name, module, rows, speed, thrift in SCRIPTS:
        side, other = bench.compare(ours, bench.peer(name, module, bench.dynamodb, rows=rows, python=python))
        targets = []
        if speed is not None:
            targets.append(at_least("ratio", side.speed_beside(other), speed))
        if thrift is not None:
            targets.append(at_least("ratio of rows per client CPU s", side.cpu_thrift_beside(other), thrift))
        lines.append(Figure("dynamodb", side, other, tuple(targets)))
    endpoint = f"http://127.0.0.1:{bench.dynamodb.port}"
    redpanda = bench.redpanda_connect("redpanda_dynamodb.yaml", bench.dynamodb, rows=bench.rows, ENDPOINT=endpoint)
    if redpanda is not None:
        side, other = bench.compare(ours, redpanda)
        targets = [
            at_least("ratio of rows per client CPU s", side.cpu_thrift_beside(other), 4),
            at_most("client CPU s per 1 M rows", side.cpu_s_per_million, 4.5),
        ]
        lines.append(Figure("dynamodb", side, other, tuple(targets)))
    return lines
