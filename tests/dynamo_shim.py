"""A shim before a real DynamoDB, for the faults that no server can be made to show.

async with DynamoShim(dynamodb_url, lambda call: THROTTLED if call.number <= 3 else None) as shim:
    ...                        # shim.url, shim.counts
"""

import asyncio
import contextlib
import json
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from aiohttp import ClientError, ClientSession, web

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Call:
    """One request, as a policy sees it."""

    number: int  # of all requests, from 1
    nth: int  # of the requests with this target, from 1
    target: str  # BatchWriteItem, CreateTable, …
    body: dict[str, Any]

    @property
    def items(self) -> int:
        """How many puts and deletes a BatchWriteItem holds; 0 for any other target."""
        if self.target != "BatchWriteItem":
            return 0
        return sum(len(writes) for writes in self.body.get("RequestItems", {}).values())


def _every(_index: int, _write: dict[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Unprocessed:
    """Hand back, undone, the writes of a BatchWriteItem that `which` picks by place and content."""

    which: Callable[[int, dict[str, Any]], bool] = field(default=_every, repr=False)


@dataclass(frozen=True)
class Refusal:
    """Answer with an error; nothing reaches the server."""

    status: int
    error: str
    message: str = "injected by the test"


@dataclass(frozen=True)
class WrongChecksum:
    """Apply the request, then send the true reply with a wrong `x-amz-crc32`."""


@dataclass(frozen=True)
class Cut:
    """Drop the connection without a reply, before or after the request was applied."""

    applied: bool


THROUGHPUT_EXCEEDED = Refusal(400, "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException")
THROTTLED = Refusal(400, "com.amazon.coral.availability#ThrottlingException")
INTERNAL_ERROR = Refusal(500, "com.amazonaws.dynamodb.v20120810#InternalServerError")
EXPIRED_TOKEN = Refusal(400, "com.amazon.coral.service#ExpiredTokenException")

HttpFault: TypeAlias = Unprocessed | Refusal | WrongChecksum | Cut
Policy: TypeAlias = Callable[[Call], HttpFault | None]


def healthy(_call: Call) -> None:
    """The policy that injects nothing."""


@dataclass
class Counts:
    """What the shim saw since it was started."""

    requests: int = 0
    items: int = 0  # in BatchWriteItem, each time it was sent
    largest_batch: int = 0
    injected: int = 0
    targets: Counter[str] = field(default_factory=Counter)
    arrivals: list[float] = field(default_factory=list)  # loop time of each request: measures back-off


class DynamoShim:
    """Forwards to a real DynamoDB endpoint, except where the policy names a fault.

    `policy` may be swapped at any time. What a policy raises comes out where the shim is left.
    """

    def __init__(self, endpoint_url: str, policy: Policy = healthy) -> None:
        self.policy = policy
        self.counts = Counts()
        self.port = 0
        self._endpoint_url = endpoint_url
        self._resources = contextlib.AsyncExitStack()
        self._client: ClientSession
        self._errors: list[Exception] = []

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as resources:
            self._client = await resources.enter_async_context(ClientSession())
            runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0)
            resources.push_async_callback(runner.cleanup)
            await runner.setup()
            site = web.TCPSite(runner, _HOST, 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._resources = resources.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()
        if self._errors:
            raise ExceptionGroup("in the shim's policy", self._errors)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ClientError:
            return _cut(request)  # the server is away, so the shim is, too
        except Exception as error:
            self._errors.append(error)
            raise

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # Not request.read(): it refuses bodies over 1 MiB, and a batch may have 16.
        content = await request.content.read()
        target = request.headers.get("X-Amz-Target", "").partition(".")[2]
        call = self._count(target, json.loads(content or b"{}"))
        fault = self.policy(call)
        if fault is not None:
            self.counts.injected += 1

        match fault:
            case None:
                return _response(*await self._forward(request, content))
            case Unprocessed(which):
                return _response(*await self._forward_the_rest(request, call, which))
            case Refusal(status, error, message):
                return _response(status, json.dumps({"__type": error, "message": message}).encode())
            case WrongChecksum():
                return _response(*await self._forward(request, content), right_checksum=False)
            case Cut(applied):
                if applied:
                    await self._forward(request, content)
                return _cut(request)

    def _count(self, target: str, body: dict[str, Any]) -> Call:
        counts = self.counts
        counts.requests += 1
        counts.targets[target] += 1
        counts.arrivals.append(asyncio.get_running_loop().time())
        call = Call(counts.requests, counts.targets[target], target, body)
        counts.items += call.items
        counts.largest_batch = max(counts.largest_batch, call.items)
        return call

    async def _forward(self, request: web.BaseRequest, content: bytes) -> tuple[int, bytes]:
        # The emulators read the access key out of Authorization, but check no signature: a changed body is
        # fine. No Accept-Encoding: the checksum is over what travels, and plain replies keep that simple.
        kept = ("Authorization", "Content-Type", "X-Amz-Date", "X-Amz-Target", "X-Amz-Security-Token")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        headers["Accept-Encoding"] = "identity"
        async with self._client.post(self._endpoint_url, data=content, headers=headers) as reply:
            return reply.status, await reply.read()

    async def _forward_the_rest(
        self, request: web.BaseRequest, call: Call, which: Callable[[int, dict[str, Any]], bool]
    ) -> tuple[int, bytes]:
        if call.target != "BatchWriteItem":
            raise ValueError(f"the policy wants unprocessed items of {call.target}")
        undone: dict[str, list[Any]] = {}
        done: dict[str, list[Any]] = {}
        index = 0
        for table, writes in call.body["RequestItems"].items():
            for write in writes:
                (undone if which(index, write) else done).setdefault(table, []).append(write)
                index += 1

        reply: dict[str, Any] = {}
        if done:
            content = json.dumps(call.body | {"RequestItems": done}).encode()
            status, answer = await self._forward(request, content)
            if status != 200:
                return status, answer  # the server refuses the batch, as it would have as a whole
            reply = json.loads(answer)
        for table, writes in reply.get("UnprocessedItems", {}).items():
            undone.setdefault(table, []).extend(writes)
        return 200, json.dumps(reply | {"UnprocessedItems": undone}).encode()


def _cut(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()  # aiohttp wants one; it is lost


def _response(status: int, content: bytes, *, right_checksum: bool = True) -> web.Response:
    checksum = zlib.crc32(content) ^ (0 if right_checksum else 1)
    headers = {
        "Content-Type": "application/x-amz-json-1.0",
        "x-amzn-RequestId": uuid.uuid4().hex,
        "x-amz-crc32": str(checksum),
    }
    return web.Response(status=status, body=content, headers=headers)
