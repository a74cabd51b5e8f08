"""A schema file, written for people: a line a column, and comments where something is not sure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import yaml

from ingest_service.datasets.base import bare_name
from ingest_service.datasets.names import TAKEN
from ingest_service.inference.delimited import MAX_COLUMNS
from ingest_service.inference.found import Table
from ingest_service.inference.lists import ListShape
from ingest_service.inference.names import rank, without_type
from ingest_service.inference.profile import Profile
from ingest_service.inference.roles import Roles
from ingest_service.runtime.escaped import escaped

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_%.-]*")
_MAX_KEPT, _LONGEST_KEPT = 40, 100
_MAX_EVENTS = 12
_ROLE_NAMES = {"owner": "user"}


@dataclass(frozen=True, slots=True)
class Row:
    """A field of the schema, and what is to be said of it."""

    keys: dict[str, Any]
    comment: str = ""
    doubt: str = ""


def rows_of(table: Table, roles: Roles, keys: Iterable[str] = ()) -> list[Row]:
    """The fields of the schema. `keys` are kept names that are part of what tells records apart."""
    of_role = {id(profile.column): role for role, profile in roles.by_role.items()}
    profiles = {id(profile.column): profile for profile in (*roles.by_role.values(), *roles.rest)}
    is_by_name = bool(table.dialect.get("header"))  # columns may be left out, and are found as they are written
    names, kept = _Names(), _Names(TAKEN)
    n_kept = 0
    rows: list[Row] = []
    for place, column in enumerate(table.columns[:MAX_COLUMNS]):
        role, profile = of_role.get(id(column), ""), profiles.get(id(column))
        wanted = column.name if is_by_name or column.name else _name_for(role, profile, place, names)
        if not bare_name(wanted) or (is_by_name and names.has(wanted) and not role):
            continue
        field: dict[str, Any] = {"name": wanted if is_by_name else names.free(wanted, column.path)}
        names.take(field["name"])
        if column.path and column.path != (field["name"],):
            field["x-path"] = list(column.path) if any("." in part for part in column.path) else ".".join(column.path)
        if profile is None:
            rows.append(Row(field, "of another list than the records'"))
        elif role == "item" and profile.items:
            others = _Names(bare_name(one.name) for one in table.columns)
            rows.append(_list(field, profile.items, roles.doubts.get(id(column), ""), others, kept))
        elif role:
            rows.append(_with_role(field, role, profile, roles.doubts.get(id(column), "")))
        else:
            row = _kept_or_not(field, profile, kept, keys, n_kept < _MAX_KEPT)
            n_kept += "x-keep" in row.keys
            rows.append(row)
    return rows


def _name_for(role: str, profile: Profile | None, place: int, names: "_Names") -> str:
    """Of a column that nothing names."""
    if role == "item" and profile is not None and profile.items:
        return "items"
    if not role and profile is not None and profile.is_rating and not names.has("rating"):
        return "rating"
    return _ROLE_NAMES.get(role, role) or f"column_{place + 1}"


class _Names:
    """Names that are taken, in whatever case."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def has(self, name: str) -> bool:
        return bare_name(name) in self._taken

    def take(self, name: str) -> None:
        self._taken.add(bare_name(name))

    def free(self, name: str, path: tuple[str, ...] = ()) -> str:
        """The name, or one like it that is not taken."""
        longer = ".".join(path)
        numbered = (f"{name}_{number}" for number in count(2))
        return next(one for one in chain((name, longer or name), numbered) if not self.has(one))


def _with_role(field: dict[str, Any], role: str, profile: Profile, doubt: str) -> Row:
    comment = ""
    if role == "time":
        assert profile.time is not None, "else it would not be the time"
        field["type"] = profile.time.type
        if profile.time.unit:
            field["x-unit"] = profile.time.unit
        if profile.time.format:
            field["format"] = profile.time.format
        comment = profile.time.words
    elif role == "clock":
        field |= {"type": "time", "format": profile.clock}
        comment = "the time of the day"
    elif role in ("owner", "item"):
        field["type"] = "integer" if profile.holds == "integer" else "string"
        if profile.holds == "uuid":
            field["format"] = "uuid"
    else:
        field["type"] = "string"
        if profile.n_missing:
            field["x-default"] = "unknown"
        if role == "event" and len(profile.different) <= _MAX_EVENTS:
            mapped = ", ".join(f"{_text(text[:40])}: {_text(text[:40].lower())}" for text in profile.different)
            comment = f"to give them other names, x-values: {{{mapped}}}"
    field["x-role"] = role
    return Row(field, comment, doubt)


def _list(field: dict[str, Any], items: ListShape, doubt: str, names: _Names, kept: _Names) -> Row:
    """The records of a column that are its parts."""
    fields = [{"name": names.free("item"), "type": "integer" if items.is_whole else "string", "x-role": "item"}]
    each: dict[str, Any] = {"delimiter": items.delimiter}
    if items.inner:
        stored = kept.free("label")
        fields.append({"name": names.free("label"), "type": "string", "x-keep": stored})
        each["x-inner"] = items.inner
        kept.take(stored)
    return Row({**field, "x-each": {**each, "fields": fields}}, doubt=doubt)


def _kept_or_not(field: dict[str, Any], profile: Profile, kept: _Names, keys: Iterable[str], has_room: bool) -> Row:
    """Numbers that are always there, and short texts, are kept; of others it is said why not."""
    if profile.holds == "nothing":
        return Row(field, "holds nothing")
    name = field["name"]
    is_number = profile.holds in ("integer", "number")
    is_text = not is_number and not profile.is_boolean
    field["type"] = _type_of(profile)
    if profile.n_missing and not is_text:
        what = f"missing in {profile.n_missing:,} of {len(profile.column.texts):,} rows"
        return Row(field, f"{what}; to keep it, x-keep: true and x-default: {'0' if is_number else 'false'}")
    if profile.width > _LONGEST_KEPT:
        return Row({**field, "type": "string"}, "long texts; to keep them, x-keep: true")
    if not has_room or profile.n_missing * 2 > len(profile.column.texts):
        return Row(field, "to keep it, x-keep: true" + (' and x-default: ""' if is_text else ""))
    if profile.is_row_number and not profile.column.name:
        return Row(field, "row numbers; to keep them, x-keep: true")
    stored = kept.free(_as_stored(without_type(profile.column.name or name)))
    kept.take(stored)
    field["x-keep"] = True if stored == name else stored
    if is_text:
        field["x-default"] = ""
        if stored in keys:
            field["x-key"] = True
    return Row(field)


def stored_name(keys: Mapping[str, Any]) -> str:
    """The name under which a field is kept."""
    keep = keys["x-keep"]
    return str(keys["name"] if keep is True else keep)


def _type_of(profile: Profile) -> str:
    """Of a kept column."""
    if profile.is_boolean:
        return "boolean"
    if profile.holds not in ("integer", "number"):
        return "string"
    is_float = profile.column.name.endswith(":float")  # so RecBole says it
    is_whole = profile.holds == "integer" and not is_float and not any("." in text for text in profile.different)
    return "integer" if is_whole else "number"


def _as_stored(name: str) -> str:
    """As every store takes it."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:40] or "field"
    return name if name[0].isalpha() and name.lower() not in TAKEN else f"own_{name}"


def schema_text(name: str, table: Table, roles: Roles, rows: Sequence[Row], notes: Iterable[str]) -> str:
    """The file. `notes` are what else is to be said, a line each."""
    missing = sorted({text for one in (*roles.by_role.values(), *roles.rest) for text in one.missing if text})
    lines = [f"# {escaped(note)}" for note in notes]
    lines.append(f"name: {_text(name)}")
    if table.format != "csv":
        lines.append(f"format: {table.format}")
    if table.encoding != "utf-8":
        lines.append(f"encoding: {table.encoding}")
    if table.dialect:
        lines.append(f"dialect: {_flow(table.dialect)}")
    lines += ["schema:", "  fields:"]
    for row in rows:
        if row.doubt:
            lines.append(f"    # not sure: {escaped(row.doubt)}")
        lines.append(f"    - {_flow(row.keys)}{'  # ' + escaped(row.comment) if row.comment else ''}")
    if missing:
        lines.append(f"  missingValues: [{', '.join(map(_text, ('', *missing)))}]")
    if "event" not in roles.by_role:
        kept = [row.keys for row in rows if "x-keep" in row.keys]
        is_rated = any(rank(keys["name"], "rating") and keys["type"] in ("integer", "number") for keys in kept)
        lines.append(f"x-event: {'rate' if is_rated else 'click'}  # of all records, for no column says it")
    return "\n".join(lines) + "\n"


def _flow(keys: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_value(value)}" for key, value in keys.items()) + "}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return _flow(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value) if isinstance(value, int) else _text(value)


def _text(text: str) -> str:
    """A scalar of YAML that is read as this text."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30).rstrip("\n")
