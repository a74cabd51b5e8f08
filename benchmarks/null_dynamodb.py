"""A DynamoDB that stores nothing: it reads each request whole and says yes, so only the client is measured.

    python -m benchmarks.null_dynamodb [--port 0]

Prints its port as JSON when it listens, and on SIGTERM the requests and items it was sent; GET / answers the
same counts. Answers carry the x-amz-crc32 that clients check.
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import zlib
from collections.abc import Callable
from typing import Any, Final, cast

import uvloop

_TARGET: Final = re.compile(rb"\r\nx-amz-target: *DynamoDB_20120810\.(\w+)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def response(answer: object, status: str = "200 OK") -> bytes:
    body = json.dumps(answer, separators=(",", ":")).encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n"
        f"x-amzn-RequestId: 0\r\nx-amz-crc32: {zlib.crc32(body)}\r\n\r\n"
    ).encode() + body


def _table(name: str, hash_key: str, range_key: str) -> dict[str, Any]:
    keys = {hash_key: "HASH", range_key: "RANGE"}
    return {
        "TableName": name,
        "TableId": f"00000000-0000-0000-0000-{name:>12.12}".replace(" ", "0"),
        "TableStatus": "ACTIVE",
        "TableArn": f"arn:aws:dynamodb:us-east-1:000000000000:table/{name}",
        "KeySchema": [{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"} for key in keys],
        "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
        "ItemCount": 0,
    }


_TABLE: Final = _table("interactions", "user_id", "event_key")
_CHECKPOINTS: Final = response({"Table": _table("ingest_checkpoints", "stream", "sink")})
_ANSWERS: Final = {
    b"DescribeTable": response({"Table": _TABLE}),
    b"CreateTable": response({"TableDescription": _TABLE}),
    b"DescribeTimeToLive": response({"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}}),
    b"ListTables": response({"TableNames": ["interactions"]}),
    b"Query": response({"Items": [], "Count": 0, "ScannedCount": 0}),
    **dict.fromkeys((b"GetItem", b"PutItem", b"UpdateItem", b"DeleteItem"), response({})),
}
_ALL_PROCESSED: Final = response({"UnprocessedItems": {}})
_UNKNOWN: Final = response({"__type": "com.amazon.coral.service#UnknownOperationException"}, "400 Bad Request")


class Counts:
    def __init__(self) -> None:
        self.requests = 0
        self.items = 0

    def counts(self) -> dict[str, Any]:
        return vars(self)


class NullDynamoDB(asyncio.Protocol):
    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._buffer = bytearray()
        self._head = b""  # of the request whose body is still arriving
        self._body_at = self._end = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._head or self._take_head():
            if len(self._buffer) < self._end:
                return
            self._transport.write(self._answer())
            del self._buffer[: self._end]
            self._head = b""

    def _take_head(self) -> bool:
        at = self._buffer.find(b"\r\n\r\n")
        if at < 0:
            return False
        self._head = bytes(self._buffer[:at])
        length = _LENGTH.search(self._head)
        self._body_at = at + 4
        self._end = self._body_at + (int(length[1]) if length else 0)
        return True

    def _answer(self) -> bytes:
        target = _TARGET.search(self._head)
        if target is None:
            return response(self._counts.counts()) if self._head.startswith(b"GET ") else _UNKNOWN
        self._counts.requests += 1
        if target[1] == b"BatchWriteItem":
            return self.batch_write(bytes(memoryview(self._buffer)[self._body_at : self._end]))
        if target[1] == b"DescribeTable" and self._buffer.find(b'"ingest_checkpoints"', self._body_at, self._end) > 0:
            return _CHECKPOINTS
        return _ANSWERS.get(target[1], _UNKNOWN)

    def batch_write(self, body: bytes) -> bytes:
        self._counts.items += body.count(b'"PutRequest"')
        return _ALL_PROCESSED


async def serve(port: int, counts: Counts, protocol: Callable[[], asyncio.Protocol]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(protocol, "127.0.0.1", port)
    _say({"port": server.sockets[0].getsockname()[1]})
    await stop.wait()
    _say(counts.counts())


def _say(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.null_dynamodb", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    counts = Counts()
    uvloop.run(serve(parser.parse_args().port, counts, lambda: NullDynamoDB(counts)))


if __name__ == "__main__":
    main()
