"""Checkpoints in Redis, and what keeps them from outliving rows that the server has evicted."""

import json
import uuid
from typing import cast

from ingest_service.errors import RowsGone
from ingest_service.sinks.base import Finding
from ingest_service.sinks.checkpoints import EPOCH, CheckpointStore
from ingest_service.sinks.redis.about import About, Evictions, limits_of
from ingest_service.sinks.redis.address import ServerOptions
from ingest_service.sinks.redis.nodes import RedisNodes
from ingest_service.sinks.retry import Retrier

# KEYS: the checkpoint; ARGV: the text that must be there ("" for none), the new one, and "cache" where the server may
# have dropped it. The new one is there already if a reply was lost.
_SWAP = """
local now = redis.call('GET', KEYS[1])
if now == ARGV[2] then return 1 end
if (now or '') ~= ARGV[1] and (now or ARGV[3] ~= 'cache') then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
_ADVICE = "give it more memory or the policy noeviction, or take it for a cache with ?evict=allow"


class RedisCheckpoints(CheckpointStore):
    """Keys `<prefix>ingest:checkpoint:{<stream>}`."""

    def __init__(self, nodes: RedisNodes, retrier: Retrier, options: ServerOptions, prefix: str) -> None:
        self._nodes = nodes
        self._retrier = retrier
        self._begin = f"{prefix}ingest:checkpoint:{{"
        self._kind = "cache" if options.evict == "allow" else ""

    async def read(self, stream: str) -> str | None:
        key = self._key(stream)
        return cast("str | None", await self._retrier.call(lambda: self._nodes.command("GET", key, key=key)))

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        key = self._key(stream)
        commands: list[tuple[str | int, ...]] = [("EVAL", _SWAP, 1, key, old or "", new, self._kind)]
        if self._nodes.replicas:
            commands.append(("WAIT", self._nodes.replicas, self._nodes.wait_ms))

        async def attempt() -> bool:
            made, *acknowledged = await self._nodes.commands(commands, key)
            if made == 1 and acknowledged:
                await self._nodes.require_replicas(acknowledged[0])
            return bool(made == 1)

        return await self._retrier.call(attempt)

    async def streams(self) -> list[str]:
        keys = await self._retrier.call(lambda: self._nodes.keys(self._key("*")))
        return sorted(key.removeprefix(self._begin).removesuffix("}") for key in keys)

    def _key(self, stream: str) -> str:
        return f"{self._begin}{stream}}}"


class Guard:
    """Keeps rows that the server evicted from being taken for stored, in this run and in later ones.

    Whoever sees keys evicted makes the epoch another one, so that no checkpoint of before is believed any more. The
    counts that were seen last lie beside it, for what is evicted while nobody looks.
    """

    def __init__(
        self,
        name: str,
        nodes: RedisNodes,
        retrier: Retrier,
        checkpoints: CheckpointStore,
        options: ServerOptions,
        prefix: str,
    ) -> None:
        self._name = name
        self._nodes = nodes
        self._retrier = retrier
        self._checkpoints = checkpoints
        self._is_cache = options.evict == "allow"
        self._key = f"{prefix}ingest:evicted"
        self._evictions = Evictions()
        self._has_compared = False
        self._has_told = False

    async def look(self) -> list[About]:
        """At the servers that answer."""
        servers = await self._nodes.about_reachable()
        self._evictions.look(servers)
        return list(servers.values())

    async def survey(self) -> Finding:
        """What the server's memory means for the rows."""
        servers = await self._retrier.call(self._nodes.about_masters)
        if servers is None:
            text = "this user may not run INFO, so keys that the server evicts are not noticed; permit it (see docs)"
            return Finding("memory", True, text, warning=True)
        evicting = [one for one in servers.values() if one.evicts]
        if not evicting:
            return Finding("memory", True, "no key is evicted")
        so_far = f"{limits_of(evicting)}; {sum(one.evicted for one in evicting):,} so far"
        if self._is_cache:
            return Finding("memory", True, f"keys may be evicted, as ?evict=allow says ({so_far})")
        what = "keys, checkpoints too," if any(one.policy.startswith("allkeys") for one in evicting) else "rows"
        text = f"{what} are evicted once it is full ({so_far}), and a run that sees it happen ends with 78; "
        return Finding("memory", True, f"{text}{_ADVICE}", warning=True)

    async def assure(self) -> str:
        """RowsGone if keys were evicted while this run wrote; for a cache how many, in words."""
        await self.look()
        keys = self._evictions.keys
        if not keys:
            return ""
        what = f"{keys:,} keys were evicted while this run wrote ({self._evictions.cause})"
        if self._is_cache:
            return f"memory: {what}"
        if not self._has_told:
            await self._renew_epoch()
            self._has_told = True
        raise RowsGone(f"{self._name} lost rows: {what}; {_ADVICE}, and use --restart to load the source again.")

    async def epoch(self) -> str:
        """As of all checkpoints here; of a cache none, since there rows may go."""
        if self._is_cache:
            return ""
        if not self._has_compared:
            await self._compare()
            self._has_compared = True
        return await self._checkpoints.epoch()

    async def _compare(self) -> None:
        """With what was seen last, by any run: keys may have been evicted since."""
        await self.look()
        text = await self._retrier.call(lambda: self._nodes.command("GET", self._key, key=self._key))
        known: dict[str, int] = json.loads(text) if text else {}
        counts = self._evictions.counts
        if any(counts.get(server, 0) > seen for server, seen in known.items()):
            await self._renew_epoch()
        elif counts != known:
            await self._note()

    async def _renew_epoch(self) -> None:
        await self._checkpoints.swap(EPOCH, await self._checkpoints.read(EPOCH), uuid.uuid4().hex)
        await self._note()

    async def _note(self) -> None:
        text = json.dumps(self._evictions.counts)
        await self._retrier.call(lambda: self._nodes.command("SET", self._key, text, key=self._key))
