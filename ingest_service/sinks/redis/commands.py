"""Rows as RESP commands (redis.io, "Redis serialization protocol specification"), grouped by user."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ingest_service.rows.arrays import Bools, Ints, hashed
from ingest_service.rows.columns import Columns
from ingest_service.rows.parse import Bytes
from ingest_service.rows.schema import Field, Schema
from ingest_service.rows.texts import Piece, Texts, concatenate, decimals, lengths, write
from ingest_service.sinks.fields import json_safe, number_texts

# Adds rows, of which those with a key that is there already replace what is there. The member holds all of a row, so a
# later version of a row is another member, of the same score. A member is compared if it has just the fields of these
# rows; where no text is escaped, its key is found without taking the JSON apart.
# KEYS: a user's set; ARGV: how many to keep, for how many seconds, then score and member of each row.
_REPLACE = r"""
local shape, fields, key_fields = '<shape>', {<fields>}, {<key_fields>}
local function key_of(member)
  if not string.find(member, '\\', 1, true) then
    local key = {string.match(member, shape)}
    return key[1] and table.concat(key, '\n') or member
  end
  local whole, content = pcall(cjson.decode, member)
  if not whole or type(content) ~= 'table' then return member end
  local n, key = 0, {}
  for _ in pairs(content) do n = n + 1 end
  for _, name in ipairs(fields) do
    if content[name] == nil or n ~= #fields then return member end
  end
  for i, name in ipairs(key_fields) do key[i] = tostring(content[name]) end
  return table.concat(key, '\n')
end
local latest, looked_at = {}, {}
for i = 4, #ARGV, 2 do
  local answer = redis.pcall('ZADD', KEYS[1], ARGV[i - 1], ARGV[i])
  if type(answer) == 'table' then return answer end
  latest[key_of(ARGV[i])] = ARGV[i]
end
for i = 3, #ARGV, 2 do
  if not looked_at[ARGV[i]] then
    looked_at[ARGV[i]] = true
    for _, member in ipairs(redis.call('ZRANGE', KEYS[1], ARGV[i], ARGV[i], 'BYSCORE')) do
      local wanted = latest[key_of(member)]
      if wanted and wanted ~= member then redis.call('ZREM', KEYS[1], member) end
    end
  end
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[1] - 1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""


_LUA_MAGIC = re.compile(r"[-^$().%*+?\[\]]")


@lru_cache
def _replacing(schema: Schema) -> bytes:
    """The script for records of a schema."""
    key = [field.name for field in schema.described if field.name in schema.key]
    shape = ",".join(_lua_pattern(field, is_key=field.name in schema.key) for field in schema.described)
    script = _REPLACE.replace("<shape>", f"^{{{shape}}}$")
    script = script.replace("<fields>", ", ".join(f"'{field.name}'" for field in schema.described))
    return script.replace("<key_fields>", ", ".join(f"'{name}'" for name in key)).encode()


def _lua_pattern(field: Field, *, is_key: bool) -> str:
    """Matches a field of a member in which nothing is escaped; the value of a part of the key is captured."""
    value = "[^,}]*" if field.is_number else '"([^"]*)"' if is_key else '"[^"]*"'
    name = _LUA_MAGIC.sub(r"%\g<0>", field.name)
    return f'"{name}":{value}'


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a user's set is kept: under which key, how many rows, for how long after the last write."""

    prefix: str
    limit: int
    ttl_s: int

    def key(self, user_id: object) -> str:
        return f"{self.prefix}recent:{{{user_id}}}"

    def key_pieces(self, user_ids: Texts) -> list[Piece]:
        return [f"{self.prefix}recent:{{".encode(), user_ids, b"}"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows ready to be sent: `columns` has each user's rows together, user i's from row `starts[i]` on.

    `rows` are their indices in the chunk.
    """

    columns: Columns
    rows: Ints
    starts: Ints

    @classmethod
    def of(cls, columns: Columns, rows: Ints) -> "Batch":
        """The rows of a chunk's columns, at least one; users in any order, each one's rows in that of the file."""
        order, starts = columns.identity_alone().take(rows).by_owner()
        rows = rows[order]
        # Who stands in the key, and in no JSON.
        return cls(json_safe(columns.take(rows), but=columns.schema.owner), rows, starts)

    @property
    def n_users(self) -> int:
        return len(self.starts)

    @property
    def users(self) -> Ints:
        """A number for each user, the same in every batch, and another one for another source's user of that number."""
        numbers = (part[self.starts].view(np.uint64) for part in self.columns.owner)
        return hashed((self.user_ids.prefixes(), *numbers), self.n_users).view(np.int64)

    def sets(self, dead: Sequence[int]) -> Ints:
        """The users who have a set once this is written, in order; `dead` are the rows that found something else."""
        users = np.sort(self.users)
        return np.setdiff1d(users, self.only(np.array(dead)).users, assume_unique=True) if dead else users

    def are_among(self, users: Ints) -> Bools:
        """Which of its users are among these, ascending. To look for them in order takes a tenth of np.isin."""
        found = np.zeros(self.n_users, np.bool_)
        order = np.argsort(own := self.users)
        if len(users):
            found[order] = users.take(np.searchsorted(users, own[order]), mode="clip") == own[order]
        return found

    @property
    def user_ids(self) -> Texts:
        return self._owners.take(self.starts)

    @property
    def _owners(self) -> Texts:
        return self.columns.texts[self.columns.schema.owner]

    def part(self, users: Sequence[int]) -> "Batch":
        """These users by themselves."""
        chosen = np.zeros(self.n_users, np.bool_)
        chosen[list(users)] = True
        sizes = np.diff(self.starts, append=len(self.rows))
        mask = np.repeat(chosen, sizes)
        starts = np.cumsum(sizes[chosen]) - sizes[chosen]
        return Batch(self.columns.take(np.flatnonzero(mask)), self.rows[mask], starts)

    def only(self, rows: Ints) -> "Batch":
        """The users that these rows of the chunk are of."""
        users = np.searchsorted(self.starts, np.flatnonzero(np.isin(self.rows, rows)), side="right") - 1
        return self.part(np.unique(users).tolist())

    def of_users(self, users: Sequence[int]) -> Ints:
        """The rows of these users, by index in the chunk."""
        return np.sort(self.part(users).rows)

    def pieces(self, rows: int) -> Iterator[tuple[int, int]]:
        """The users in runs of about that many rows: first, and one past the last."""
        marks = np.arange(0, len(self.rows) + rows, rows)
        edges = np.unique(np.append(np.searchsorted(self.starts, marks), self.n_users))
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)

    def rows_in(self, piece: tuple[int, int]) -> int:
        first, last = piece
        end = len(self.rows) if last == self.n_users else int(self.starts[last])
        return end - int(self.starts[first])

    def replies(self, piece: tuple[int, int], are_sets: Bools) -> Ints:
        """How many each user's `commands` have."""
        is_one = not self.columns.schema.follows_from_key
        return np.ones(piece[1] - piece[0], np.int64) if is_one else 2 + are_sets[slice(*piece)]

    def commands(self, piece: tuple[int, int], keeping: Keeping, are_sets: Bools) -> Bytes:
        """RESP commands that add the rows of a piece, trim its users' sets and renew their expiry, user by user.

        Where rows have all but their key in common nothing else need be looked at: ZADD and ZREMRANGEBYRANK do, and
        EXPIRE for users whose keys `are_sets`; for the others `expiries` follow. Else one script does it all.
        """
        first, last = piece
        start = int(self.starts[first])
        n_rows = self.rows_in(piece)
        columns = self.columns.take(slice(start, start + n_rows))
        begins = self.starts[first:last] - start
        ends = np.append(begins[1:], n_rows)
        user_ids = self._owners.take(self.starts[first:last])
        key = bulk(keeping.key_pieces(user_ids))
        if columns.schema.follows_from_key:
            head = [b"*", decimals(2 + 2 * (ends - begins)), b"\r\n$4\r\nZADD\r\n", *key]
            lowest = str(-keeping.limit - 1).encode()
            tail = [b"*4\r\n$15\r\nZREMRANGEBYRANK\r\n", *key, b"$1\r\n0\r\n", *bulk([lowest])]
            renewed = np.flatnonzero(are_sets[first:last])
            last_words = _expiry(user_ids.take(renewed), keeping)
        else:
            numbers = [*bulk([str(keeping.limit).encode()]), *bulk([str(keeping.ttl_s).encode()])]
            script = [b"\r\n$4\r\nEVAL\r\n", *bulk([_replacing(columns.schema)]), b"$1\r\n1\r\n"]
            head = [b"*", decimals(6 + 2 * (ends - begins)), *script, *key, *numbers]
            tail, renewed, last_words = [], np.empty(0, np.int64), []
        return _laid_out(_pairs(columns), begins, ends, head, tail, renewed, last_words)

    def expiries(self, users: Ints, keeping: Keeping) -> Bytes:
        """RESP commands that renew these users' expiry: once a set is known to be one."""
        return concatenate(_expiry(self._owners.take(self.starts[users]), keeping)).buffer


def _expiry(user_ids: Texts, keeping: Keeping) -> list[Piece]:
    key = bulk(keeping.key_pieces(user_ids))
    return [b"*3\r\n$6\r\nEXPIRE\r\n", *key, *bulk([str(keeping.ttl_s).encode()])]


def _laid_out(
    rows: Sequence[Piece],
    begins: Ints,
    ends: Ints,
    head: Sequence[Piece],
    tail: Sequence[Piece],
    some: Ints,
    last_words: Sequence[Piece],
) -> Bytes:
    """The texts of all rows, each user's (from row `begins[i]` to `ends[i]`) between a head and a tail of his own.

    `some` of the users have `last_words` after that. Apart from the tails they are written faster: all are as long.
    """
    sizes = np.zeros(int(ends[-1]), np.int64) + lengths(rows)
    head_bytes, tail_bytes = lengths(head), np.zeros(len(ends), np.int64) + lengths(tail)
    last_bytes = np.zeros(len(ends), np.int64)
    last_bytes[some] = lengths(last_words)
    sizes[begins] += head_bytes
    sizes[ends - 1] += tail_bytes + last_bytes
    row_ends: Ints = np.cumsum(sizes)
    row_starts = row_ends - sizes
    out = np.empty(int(row_ends[-1]), np.uint8)
    write(out, row_starts[begins], head)
    row_starts[begins] += head_bytes
    write(out, row_starts, rows)
    last_starts = row_ends[ends - 1] - last_bytes
    write(out, last_starts - tail_bytes, tail)
    write(out, last_starts[some], last_words)
    return out


def _pairs(columns: Columns) -> list[Piece]:
    """Score and member of each row, as two bulk strings."""
    return [*bulk([decimals(columns.epoch_ms)]), *bulk(member(columns))]


def member(columns: Columns) -> list[Piece]:
    """Compact JSON in the schema's order of fields; its free texts are escaped already."""
    numbers = number_texts(columns)
    pieces: list[Piece] = []
    for field in columns.schema.described:
        name = f'{"," if pieces else "{"}"{field.name}":'.encode()
        pieces += [name, numbers[field.name]] if field.is_number else [name + b'"', columns.texts[field.name], b'"']
    return [*pieces, b"}"]


def bulk(pieces: Sequence[Piece]) -> list[Piece]:
    """A RESP bulk string. Its length is in bytes."""
    size = lengths(pieces)
    length = str(size).encode() if isinstance(size, int) else decimals(size)
    return [b"$", length, b"\r\n", *pieces, b"\r\n"]
