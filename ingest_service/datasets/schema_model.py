"""A data set described by a file: Frictionless Table Schema and Table Dialect, as YAML or JSON.

Standard: datapackage.org/standard/table-schema and table-dialect. What is read of it stands in docs/SCHEMAS.md;
whatever else a file says is refused by its name, so that nothing is believed to count that does not. Beyond the
standard there are keys that begin with `x-`.
"""

import re
from collections.abc import Iterator
from datetime import date, datetime
from typing import Annotated, Any, Literal, TypeAlias, get_args
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ingest_service.datasets.base import Split, bare_name
from ingest_service.datasets.feature_model import Feature
from ingest_service.datasets.forms import codec_name
from ingest_service.datasets.names import NAME, TAKEN, known_zone
from ingest_service.datasets.step_model import Step
from ingest_service.errors import RowError
from ingest_service.rows.interaction import NAMESPACE, parse_timestamp

_READERS = {"csv": "delimited", "tsv": "delimited", "ndjson": "jsonl"}  # formats that go by another name here
_BYTE = r"^[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x7f]$"
Unread: TypeAlias = Literal["object", "array", "year", "yearmonth", "duration", "geopoint", "geojson", "any"]
_UNREAD = frozenset(get_args(Unread))
_WORDS = ("event", "device", "session")


def _known_time(text: Any) -> Any:
    if isinstance(text, date):  # as YAML reads one without quotes
        text = text.isoformat() if isinstance(text, datetime) else f"{text}T00:00:00"
    try:
        parse_timestamp(str(text), "x-time")
    except RowError as error:
        raise ValueError(error.reason) from None
    return text


def _known_encoding(name: str) -> str:
    if not (known := codec_name(name)):
        raise ValueError(
            f"the encoding {name!r} is not read here; it may be utf-8, utf-16, utf-16-le, utf-16-be or one with a "
            "byte a character, like windows-1252; turn others into UTF-8, for example with iconv"
        )
    return known


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)

    title: str = ""
    description: str = ""


class FieldOfFile(_Part):
    """A column. One without a role that is not kept is passed over."""

    name: str = Field(min_length=1)
    type: Literal["string", "integer", "number", "boolean", "list", "datetime", "date", "time"] | Unread = "string"
    format: str = "default"
    delimiter: str = Field(",", min_length=1, max_length=8)
    true_values: tuple[str, ...] = Field(("true", "True", "TRUE", "1"), alias="trueValues")
    false_values: tuple[str, ...] = Field(("false", "False", "FALSE", "0"), alias="falseValues")
    example: Any = None
    role: Literal["owner", "item", "time", "clock", "event", "device", "session", ""] = Field("", alias="x-role")
    keep: bool | Annotated[str, Field(pattern=NAME)] = Field(False, alias="x-keep")
    is_key: bool = Field(False, alias="x-key")
    prefix: str | None = Field(None, alias="x-prefix")
    unit: Literal["auto", "s", "ms", "us", "ns"] = Field("auto", alias="x-unit")
    zone: Annotated[str, AfterValidator(known_zone)] = Field("UTC", alias="x-zone")
    values: dict[str, str] = Field(default_factory=dict, alias="x-values")
    exact: bool = Field(False, alias="x-exact")
    stored: Literal["raw", ""] = Field("", alias="x-stored")
    each: "Each | None" = Field(None, alias="x-each")
    default: str | float | int | bool | None = Field(None, alias="x-default")
    path: str | tuple[str, ...] = Field((), alias="x-path")

    @model_validator(mode="after")
    def _whole(self) -> "FieldOfFile":
        for is_wrong, message in (*self._rules_of_roles(), *self._rules_of_times()):
            if is_wrong:
                raise ValueError(message)
        return self

    @property
    def is_used(self) -> bool:
        return bool(self.role or self.keep)

    def _rules_of_roles(self) -> Iterator[tuple[bool, str]]:
        is_id = self.role in ("owner", "item")
        yield self.is_used and self.type in _UNREAD, f"a column of type {self.type} can only be passed over"
        yield bool(self.keep and self.role), "x-keep is for a column without a role"
        yield is_id and self.type not in ("string", "integer"), "an id is a string or an integer"
        yield self.role in _WORDS and self.type != "string", f"the {self.role} is a string"
        yield self.type in ("boolean", "list") and bool(self.role), f"a {self.type} is kept (x-keep), and for no role"
        yield self.prefix is not None and not is_id, "x-prefix is for an owner or an item"
        yield bool(self.stored) and not is_id, "x-stored is for an owner or an item"
        yield bool(self.stored) and self.prefix is not None, "an id that is stored raw has no x-prefix"
        yield self.is_key and not (self.keep and self.type == "string"), "x-key is for a kept string"
        yield bool(self.values) and self.type != "string", "x-values is for a string"
        yield self.exact and self.type != "number", "x-exact is for a number"
        yield "delimiter" in self.model_fields_set and self.type != "list", "a delimiter is for a list"
        is_also = self.each is not None and (self.is_used or bool(self.path))
        yield is_also, "x-each has fields of its own: the column itself has no role, and is not kept"

    def _rules_of_times(self) -> Iterator[tuple[bool, str]]:
        is_time, is_moment = self.role == "time", self.type in ("datetime", "date")
        is_read = is_time or (bool(self.keep) and is_moment)
        has_format = self.type == "date" or self.format not in ("default", "any")
        is_epoch = is_time and self.type in ("integer", "number")
        yield self.unit != "auto" and not is_epoch, "x-unit is for a time that is an integer or a number"
        zoned = "x-zone is for a date, or a time with a format like %Y-%m-%d %H:%M:%S"
        yield self.zone != "UTC" and not (is_read and has_format), zoned
        yield self.is_used and is_moment and not is_read, "a datetime or date is for the role time, or kept"
        clock = "a time, or an integer like 905, is for the role clock: the time of a day that another column has"
        is_clock = self.type == "time" or (self.type == "integer" and self.role == "clock")
        yield self.is_used and is_clock != (self.role == "clock"), clock
        is_formatted = is_read or self.role == "clock" or (self.role in ("owner", "item") and self.format == "uuid")
        formatted = "a format is for a time, or uuid for an id"
        yield self.is_used and self.format != "default" and not is_formatted, formatted


class Each(_Part):
    """A column whose text is several records: its parts by `delimiter`, each of which may be several values."""

    delimiter: str = Field(pattern=_BYTE)
    inner: str = Field("", alias="x-inner", pattern=_BYTE)
    fields: tuple[FieldOfFile, ...] = Field(min_length=1, max_length=20)

    @model_validator(mode="after")
    def _whole(self) -> "Each":
        if len(self.fields) > 1 and not self.inner:
            raise ValueError("several fields need x-inner, which stands between their values")
        if self.inner == self.delimiter or any(field.each for field in self.fields):
            raise ValueError("x-each is not within another, and x-inner not its delimiter")
        return self


class DialectOfFile(_Part):
    """How the file is written."""

    header: bool = True
    delimiter: str = Field("", max_length=8, pattern=r"^[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x7f]*$")
    quote_char: Literal['"', ""] = Field('"', alias="quoteChar")
    comment_char: str = Field("#", alias="commentChar", max_length=8)
    skip_lines: int = Field(0, alias="x-skipLines", ge=0, le=1000)

    @model_validator(mode="after")
    def _whole(self) -> "DialectOfFile":
        if not self.header and not self.delimiter:
            raise ValueError("without a header the delimiter must be said")
        return self


class TableSchema(_Part):
    fields: tuple[FieldOfFile, ...] = Field(min_length=1, max_length=1000)
    missing_values: tuple[str, ...] = Field(("",), alias="missingValues")


class DatasetFile(_Part):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    dialect: DialectOfFile = Field(default_factory=lambda: DialectOfFile.model_validate({}))
    table: TableSchema = Field(alias="schema")
    homepage: str = ""
    format: str = Field("csv", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "utf-8"
    about: Literal["interactions", "items"] = Field("interactions", alias="x-about")
    event: str = Field("click", alias="x-event", min_length=1, max_length=64)
    device: str = Field("unknown", alias="x-device", min_length=1, max_length=64)
    time: Annotated[str, BeforeValidator(_known_time)] = Field("", alias="x-time")
    published: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict, alias="x-published")
    sha256: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(default_factory=dict, alias="x-sha256")
    namespace: UUID = Field(NAMESPACE, alias="x-namespace")
    transform: tuple[Step, ...] = Field((), alias="x-transform", max_length=100)
    features: tuple[Feature, ...] = Field((), alias="x-features", max_length=100)

    @property
    def flat(self) -> "list[tuple[FieldOfFile, Split | None]]":
        """All fields, those within an `x-each` with how they stand in it."""
        found: list[tuple[FieldOfFile, Split | None]] = []
        for field in self.table.fields:
            found.append((field, None))
            if each := field.each:
                n = len(each.fields)
                found += [(one, Split(each.delimiter, each.inner, n, index)) for index, one in enumerate(each.fields)]
        return found

    @property
    def reader(self) -> str:
        """The name of what reads the format."""
        return _READERS.get(self.format, self.format)

    @property
    def is_about_items(self) -> bool:
        return self.about == "items"

    def _rules_of_items(self, roles: list[str], kept: list[str]) -> Iterator[tuple[bool, str]]:
        """x-about: items says that a row tells something of an item, which happens to nobody and at no time."""
        if self.is_about_items:
            others = sorted(set(roles) - {"item"})
            yield bool(others), f"with x-about: items no field has the role {', '.join(others)}; keep it: x-keep: true"
            yield not kept, "with x-about: items at least one field is kept: x-keep: true"
            yield any(field.is_key for field, _ in self.flat), "with x-about: items there is no x-key"
            said = {name for name in ("event", "device", "time") if name in self.model_fields_set}
            yield bool(said), f"with x-about: items there is no {', '.join(f'x-{name}' for name in sorted(said))}"

    @model_validator(mode="after")
    def _whole(self) -> "DatasetFile":
        if self.reader != "delimited" and "dialect" in self.model_fields_set:
            raise ValueError(f"a dialect is for delimited text, and not for {self.format}")
        if self.reader == "delimited" and any(field.path for field in self.table.fields):
            raise ValueError("x-path is for a format whose rows are objects, like format: jsonl")
        n_each = sum(field.each is not None for field in self.table.fields)
        if n_each > 1 or (n_each and self.reader != "delimited"):
            raise ValueError("x-each is for one column of delimited text; elsewhere x-path: list[].name says the same")
        fields = [field for field, _ in self.flat]
        names = [bare_name(field.name) for field in fields]
        roles: list[str] = [field.role for field in fields if field.role]
        kept = [kept_name(field) for field in fields if field.keep]
        # SQLite takes names that differ in capitals only for one.
        for what, found in (("field name", names), ("role", roles), ("kept name", [name.lower() for name in kept])):
            for one in found:
                if found.count(one) > 1:
                    raise ValueError(f"the {what} {one!r} is there twice")
        for role in ("item",) if self.is_about_items else ("owner", "item", *(() if self.time else ("time",))):
            if role not in roles:
                raise ValueError(f"no field has the role {role}; give one x-role: {role}")
        for is_wrong, message in self._rules_of_items(roles, kept):
            if is_wrong:
                raise ValueError(message)
        if unknown := sorted(self.sha256.keys() - self.published.keys()):
            raise ValueError(f"x-sha256 is of files that x-published has, and {unknown[0]!r} is none")
        if self.time and "time" in roles:
            raise ValueError("x-time is the time of all records, where no column has one")
        if "clock" in roles and not any(field.role == "time" and field.type == "date" for field in fields):
            raise ValueError("a clock needs a date with x-role: time")
        for name in kept:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"{name!r} cannot be the name of a stored field; give one: x-keep: my_name")
            if name.lower() in TAKEN:
                raise ValueError(f"{name!r} is a field of every record; keep the column under another name")
        return self


def kept_name(field: FieldOfFile) -> str:
    return field.keep if isinstance(field.keep, str) else field.name
