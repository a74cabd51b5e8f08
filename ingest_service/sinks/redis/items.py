"""Hashes `item:{<id>}`: what is known of an item, a field a name. They do not expire."""

from collections.abc import Mapping, Sequence
from typing import Any

from ingest_service.sinks.items import Fields, ItemTable, RefusedItem
from ingest_service.sinks.redis.nodes import RedisNodes
from ingest_service.sinks.retry import Retrier

_FOREIGN = RefusedItem("wrong_type", "The item's key holds something that is no hash.")


class RedisItems(ItemTable):
    def __init__(self, nodes: RedisNodes, retrier: Retrier, prefix: str) -> None:
        self._nodes = nodes
        self._retrier = retrier
        self._prefix = prefix

    def _key(self, item: str) -> str:
        return f"{self._prefix}item:{{{item}}}"

    async def put(self, items: Mapping[str, Fields]) -> Mapping[str, RefusedItem]:
        by_key = {self._key(item): fields for item, fields in items.items()}
        replies = await self._retrier.call(
            lambda: self._nodes.asked(
                list(by_key), lambda pipe, key: pipe.hset(key, mapping=dict(by_key[key])), writes=True
            ),
            moves_rows=True,
        )
        return {item: _FOREIGN for item, reply in zip(items, replies, strict=True) if reply is None}

    async def get(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        keys = [self._key(item) for item in ids]
        found = await self._retrier.call(lambda: self._nodes.asked(keys, lambda pipe, key: pipe.hgetall(key)))
        return {item: fields for item, fields in zip(ids, found, strict=True) if fields}

    async def remove(self, ids: Sequence[str], names: Sequence[str]) -> None:
        keys = [self._key(item) for item in ids]
        await self._retrier.call(lambda: self._nodes.asked(keys, lambda pipe, key: pipe.hdel(key, *names), writes=True))
