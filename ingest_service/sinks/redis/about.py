"""What servers say of themselves (INFO), and what follows from it: how they are used, and whether keys were evicted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ingest_service.sinks.redis.address import Address

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class About:
    """One server. Other programs that speak Redis's protocol may leave any of it out."""

    run_id: str  # another one after each start
    program: str  # with its version, as "Redis 7.0.15"
    is_sentinel: bool
    is_cluster: bool
    is_replica: bool
    primary: str  # a replica's, as host:port
    replicas: int
    maxmemory: int
    policy: str
    evicted: int  # keys, since it started

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "About":
        return cls(
            str(info.get("run_id", "")),
            _program(info),
            "sentinel" in (info.get("redis_mode"), info.get("server_mode")),
            info.get("cluster_enabled") == 1,
            info.get("role") == "slave",
            f"{info.get('master_host', '?')}:{info.get('master_port', '?')}",
            int(info.get("connected_slaves", 0)),
            int(info.get("maxmemory", 0)),
            str(info.get("maxmemory_policy", "noeviction")),
            int(info.get("evicted_keys", 0)),
        )

    @property
    def evicts(self) -> bool:
        """Whether it drops keys once its memory is full."""
        return self.maxmemory > 0 and self.policy != "noeviction"


def _program(info: Mapping[str, Any]) -> str:
    """Valkey calls itself a Redis as well, of a version that its structures are not of."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else "of an unknown version"


@dataclass(slots=True)
class Evictions:
    """Counts the keys that servers evict from the first look at each on."""

    keys: int = 0
    _seen: dict[Address, About] = field(default_factory=dict)

    def look(self, servers: Mapping[Address, About]) -> None:
        for address, now in servers.items():
            before = self._seen.get(address)
            if before is not None:
                goes_on = before.run_id == now.run_id and before.evicted <= now.evicted
                self.keys += now.evicted - (before.evicted if goes_on else 0)
            self._seen[address] = now

    @property
    def counts(self) -> dict[str, int]:
        """By server, for another process to compare with."""
        return {server.run_id: server.evicted for server in self._seen.values() if server.run_id}

    @property
    def cause(self) -> str:
        return limits_of(self._seen.values())


def limits_of(servers: Iterable[About]) -> str:
    """The limits under which keys are evicted, in words."""
    found = {f"maxmemory {one.maxmemory / _MB:,.0f} MB, {one.policy}" for one in servers if one.evicts}
    return "; ".join(sorted(found)) or "its limits have changed since"
