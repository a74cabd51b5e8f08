"""Records as the commands that write a view into Redis, each entity's fields in one step."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.parse import Bytes
from ingest_service.rows.texts import Piece, Texts, lengths, write
from ingest_service.sinks.feast.values import entity_keys, field_hash, timestamps
from ingest_service.sinks.feast.view import View
from ingest_service.sinks.redis.commands import bulk

# Writes a view's fields of an entity, unless what is there is of a later event; without a key it only becomes known.
# KEYS: the entity's hash; ARGV: the name of the time's field, the time as Feast's `Timestamp`, then fields and values.
_WRITE = rb"""
if #KEYS == 0 then return 0 end
local function moment(text)
  local found, at = {0, 0}, 1
  while at <= #text do
    local number, value, scale, byte = string.byte(text, at) / 8, 0, 1, 128
    while byte >= 128 do
      at = at + 1
      byte = string.byte(text, at)
      if not byte then return -1, 0 end
      value, scale = value + byte % 128 * scale, scale * 128
    end
    if value >= 2 ^ 63 then return -1, 0 end
    found[number], at = value, at + 1
  end
  return found[1], found[2]
end
local there = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(there) == 'table' then return there end
if there and there ~= ARGV[2] then
  local old_s, old_ns = moment(there)
  local new_s, new_ns = moment(ARGV[2])
  if old_s > new_s or (old_s == new_s and old_ns > new_ns) then return 0 end
end
return redis.pcall('HSET', KEYS[1], unpack(ARGV))
"""
MAKE_KNOWN = b"*3\r\n$4\r\nEVAL\r\n$%d\r\n%s\r\n$1\r\n0\r\n" % (len(_WRITE), _WRITE)
_KNOWN_BY = sha1(_WRITE, usedforsecurity=False).hexdigest().encode()


@dataclass(frozen=True, slots=True)
class Hashes:
    """A view of a project as hashes in Redis."""

    project: str
    name: str
    view: View

    @property
    def time_field(self) -> bytes:
        return f"_ts:{self.name}".encode()

    @property
    def fields(self) -> list[bytes]:
        """The names of what is written of an entity: the time's, and each feature's."""
        return [self.time_field, *(field_hash(self.name, feature.name) for feature in self.view.features)]

    def keys_of(self, ids: Ints | Texts) -> list[Piece]:
        return entity_keys(self.view.entity.name, ids, self.project)

    def commands(self, columns: Columns) -> Bytes:
        """RESP commands that write records, one an entity, each with one reply: a number."""
        n_words = 6 + 2 * len(self.view.features)
        head = [b"*%d\r\n$7\r\nEVALSHA\r\n" % n_words, *bulk([_KNOWN_BY]), b"$1\r\n1\r\n"]
        parts: list[Sequence[Piece]] = [
            [*head, *bulk(self.keys_of(self.view.ids(columns))), *bulk([self.time_field])],
            bulk([timestamps(columns.times)]),
        ]
        for feature, value in self.view.values(columns).items():
            parts.append([*bulk([field_hash(self.name, feature)]), *bulk(value)])
        return _side_by_side(parts, len(columns))


def _side_by_side(parts: Sequence[Sequence[Piece]], n: int) -> Bytes:
    """Each row's parts one after the other. Part by part, since rows of many widths are few of each together."""
    widths = [lengths(pieces) for pieces in parts]
    row_widths = np.zeros(n, np.int64) + sum(widths)
    ends = np.cumsum(row_widths)
    out = np.empty(int(ends[-1]) if n else 0, np.uint8)
    at = ends - row_widths
    for pieces, width in zip(parts, widths, strict=True):
        write(out, at, pieces)
        at = at + width
    return out
