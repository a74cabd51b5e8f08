"""A data set described by a file: Frictionless Table Schema and Table Dialect, as YAML or JSON.

Standard: datapackage.org/standard/table-schema and table-dialect. What is read of it stands in docs/SCHEMAS.md;
whatever else a file says is refused by its name, so that nothing is believed to count that does not. Beyond the
standard there are keys that begin with `x-`.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ingest_service.datasets.base import Column, Dataset, bare_name
from ingest_service.datasets.declared import Declaration, IdColumn, OwnField, dataset_of
from ingest_service.datasets.forms import Delimited, Form, codec_name
from ingest_service.datasets.kinds import ID, Category, Epoch, FormattedTime, Kind, Number, TextId, Time, UuidId, Whole
from ingest_service.errors import ConfigurationError
from ingest_service.rows import schema
from ingest_service.rows.interaction import INTERACTION, NAMESPACE
from ingest_service.rows.schema import FieldKind

_READERS = {"csv": "delimited", "tsv": "delimited", "ndjson": "jsonl"}  # formats that go by another name here
_DATE = "%Y-%m-%d"  # what the standard means by a date in its default format
_MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}
_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"  # of a stored field: every store takes it as it is
_TAKEN = frozenset((*INTERACTION.texts, "event_key", "epoch_ms", "expires_at", "body", "id"))


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except Exception as error:  # of several kinds, for a name that is none or leads elsewhere
        raise ValueError("there is no such time zone") from error
    return name


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
    type: Literal["string", "integer", "number", "datetime", "date"] = "string"
    format: str = "default"
    example: Any = None
    role: Literal["owner", "item", "time", "event", "device", "session", ""] = Field("", alias="x-role")
    keep: bool | Annotated[str, Field(pattern=_NAME)] = Field(False, alias="x-keep")
    is_key: bool = Field(False, alias="x-key")
    prefix: str | None = Field(None, alias="x-prefix")
    unit: Literal["auto", "s", "ms", "us", "ns"] = Field("auto", alias="x-unit")
    zone: Annotated[str, AfterValidator(_known_zone)] = Field("UTC", alias="x-zone")
    values: dict[str, str] = Field(default_factory=dict, alias="x-values")
    default: str | float | int | None = Field(None, alias="x-default")
    path: str | tuple[str, ...] = Field((), alias="x-path")

    @model_validator(mode="after")
    def _whole(self) -> "FieldOfFile":
        is_id, is_time = self.role in ("owner", "item"), self.role == "time"
        if self.prefix is not None and not is_id:
            raise ValueError("x-prefix is for an owner or an item")
        if self.unit != "auto" and not (is_time and self.type in ("integer", "number")):
            raise ValueError("x-unit is for a time that is an integer or a number")
        if self.zone != "UTC" and not (is_time and (self.type == "date" or self.format not in ("default", "any"))):
            raise ValueError("x-zone is for a date, or a time with a format like %Y-%m-%d %H:%M:%S")
        if is_id and self.type not in ("string", "integer"):
            raise ValueError("an id is a string or an integer")
        if self.type in ("datetime", "date") and not is_time:
            raise ValueError("a datetime or date is for the role time")
        if self.role in ("event", "device", "session") and self.type != "string":
            raise ValueError(f"the {self.role} is a string")
        if self.keep and self.role:
            raise ValueError("x-keep is for a column without a role")
        if self.is_key and not (self.keep and self.type == "string"):
            raise ValueError("x-key is for a kept string")
        if self.values and self.type != "string":
            raise ValueError("x-values is for a string")
        if self.format != "default" and not (is_time or (is_id and self.format == "uuid")):
            raise ValueError("a format is for a time, or uuid for an id")
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
    event: str = Field("click", alias="x-event", min_length=1, max_length=64)
    device: str = Field("unknown", alias="x-device", min_length=1, max_length=64)
    namespace: UUID = Field(NAMESPACE, alias="x-namespace")

    @property
    def reader(self) -> str:
        """The name of what reads the format."""
        return _READERS.get(self.format, self.format)

    @model_validator(mode="after")
    def _whole(self) -> "DatasetFile":
        if self.reader != "delimited" and "dialect" in self.model_fields_set:
            raise ValueError(f"a dialect is for delimited text, and not for {self.format}")
        if self.reader == "delimited" and any(field.path for field in self.table.fields):
            raise ValueError("x-path is for a format whose rows are objects, like format: jsonl")
        names = [bare_name(field.name) for field in self.table.fields]
        roles: list[str] = [field.role for field in self.table.fields if field.role]
        kept = [_kept_name(field) for field in self.table.fields if field.keep]
        for what, found in (("field name", names), ("role", roles), ("kept name", kept)):
            for one in found:
                if found.count(one) > 1:
                    raise ValueError(f"the {what} {one!r} is there twice")
        for role in ("owner", "item", "time"):
            if role not in roles:
                raise ValueError(f"no field has the role {role}; give one x-role: {role}")
        for name in kept:
            if not re.fullmatch(_NAME, name):
                raise ValueError(f"{name!r} cannot be the name of a stored field; give one: x-keep: my_name")
            if name.lower() in _TAKEN:
                raise ValueError(f"{name!r} is a field of every record; keep the column under another name")
        return self


def load_dataset(path: Path) -> Dataset:
    """ConfigurationError says in one sentence what is wrong with the file, and where. Blocks."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"The schema file {path} cannot be read: {reason}.") from None
    return _dataset_of(text, str(path))


@lru_cache(maxsize=32)  # a command asks for its data set in several places
def _dataset_of(text: str, path: str) -> Dataset:
    import yaml

    try:
        content = yaml.safe_load(text)  # JSON is YAML, too
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"The schema file {path}{where} is neither YAML nor JSON.") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"The schema file {path} must be an object with name and schema.")
    try:
        file = DatasetFile.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"The schema file {path} is wrong: {_first(error)}") from None
    return dataset_of(_declaration(file))


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is not supported here; see docs/SCHEMAS.md for what is."
    return f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}."


def _declaration(file: DatasetFile) -> Declaration:
    missing = frozenset(file.table.missing_values)
    if file.reader != "delimited":
        missing |= {""}  # as which null is read
    places = {field.name: place for place, field in enumerate(file.table.fields)}
    by_role: dict[str, FieldOfFile] = {field.role: field for field in file.table.fields if field.role}

    def column(field: FieldOfFile) -> Column:
        names = frozenset({bare_name(field.name)})
        return Column(field.name, _kind(field, missing), names, places[field.name], _path(field))

    def id_column(role: str, prefix: str) -> IdColumn:
        field = by_role[role]
        return IdColumn(column(field), prefix if field.prefix is None else field.prefix, file.namespace)

    own = tuple(OwnField(column(one), _field(one), one.is_key) for one in file.table.fields if one.keep)
    return Declaration(
        file.name,
        id_column("owner", "user_"),
        id_column("item", "video_"),
        column(by_role["time"]),
        column(by_role["event"]) if "event" in by_role else file.event,
        column(by_role["device"]) if "device" in by_role else file.device,
        column(by_role["session"]) if "session" in by_role else None,
        own,
        _form(file),
    )


def _form(file: DatasetFile) -> Form:
    if file.reader != "delimited":
        return Form(file.reader, file.encoding)
    dialect = file.dialect
    return Delimited(
        encoding=file.encoding,
        delimiter=dialect.delimiter.encode(),
        header=dialect.header,
        n_fields=len(file.table.fields),
        skip_lines=dialect.skip_lines,
        comment=dialect.comment_char.encode(),
        quotes=bool(dialect.quote_char),
    )


def _kind(field: FieldOfFile, missing: frozenset[str]) -> Kind:
    if field.role in ("owner", "item"):
        return UuidId() if field.format == "uuid" else ID if field.type == "integer" else TextId()
    if field.role == "time":
        return _time(field)
    default: Any = field.default
    if field.type == "number":
        return Number(missing, None if default is None else float(default))
    if field.type == "integer":
        return Whole(missing, None if default is None else int(default))
    return Category(field.values, missing, None if default is None else str(default))


def _path(field: FieldOfFile) -> tuple[str, ...]:
    if isinstance(field.path, tuple):
        return field.path or (field.name,)
    return tuple(field.path.split("."))


def _time(field: FieldOfFile) -> Kind:
    if field.unit == "us" or field.unit == "ns" or (field.type == "number" and field.unit != "auto"):
        return Epoch(_MICROS[field.unit])
    if field.type in ("integer", "number") or (field.type != "date" and field.format in ("default", "any")):
        return Time(field.unit)
    return FormattedTime(_DATE if field.format in ("default", "any") else field.format, field.zone)


def _field(field: FieldOfFile) -> schema.Field:
    kinds: Mapping[str, FieldKind] = {"number": FieldKind.FLOAT, "integer": FieldKind.INT}
    return schema.Field(_kept_name(field), kinds.get(field.type, FieldKind.TEXT))


def _kept_name(field: FieldOfFile) -> str:
    return field.keep if isinstance(field.keep, str) else field.name
