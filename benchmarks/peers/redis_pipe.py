"""The limit for Redis: writes the commands ready-made, for `redis-cli --pipe` to send without a thought.

python -m benchmarks.peers.redis_pipe pairs.csv --to commands.resp && redis-cli --pipe < commands.resp
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks.peers.rows import RECENT_LIMIT, RECENT_TTL_S, Arguments, arguments, recent

CHUNK_ROWS = 65_536


def commands(path: Path, limit: int | None) -> Iterator[bytes]:
    """The commands that ingest_service sends for this file, as they go over the wire."""
    rows = recent(path, limit)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        by_key: defaultdict[str, list[str]] = defaultdict(list)
        for key, member, score in chunk:
            by_key[key] += (str(score), member)
        for key, scores_and_members in by_key.items():
            yield encoded("ZADD", key, *scores_and_members)
            yield encoded("ZREMRANGEBYRANK", key, "0", str(-RECENT_LIMIT - 1))
            yield encoded("EXPIRE", key, str(RECENT_TTL_S))


def encoded(*words: str) -> bytes:
    """One command in RESP; all words are ASCII."""
    return (f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)).encode("ascii")


def main(args: Arguments) -> None:
    with Path(args.to).open("wb") as file:
        file.writelines(commands(args.path, args.limit))


if __name__ == "__main__":
    main(arguments())
