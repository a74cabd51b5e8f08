"""Schema files read: what one says as a data set, and what is wrong with it in a sentence."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ingest_service.datasets.base import About, Column, Dataset, bare_name
from ingest_service.datasets.declared import Declaration, IdColumn, ItemDeclaration, OwnField, dataset_of, items_of
from ingest_service.datasets.feature_model import Feature, FeaturesOfSettings
from ingest_service.datasets.features import after
from ingest_service.datasets.forms import Delimited, Form
from ingest_service.datasets.kinds import (
    ID,
    AnyText,
    Category,
    Clock,
    Day,
    Epoch,
    Exact,
    FormattedTime,
    Kind,
    ListOfTexts,
    Missable,
    Number,
    RawId,
    TextId,
    Time,
    UuidId,
    Whole,
)
from ingest_service.datasets.schema_model import DatasetFile, FieldOfFile, kept_name
from ingest_service.datasets.step_model import Step, StepsOfSettings
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.rows import schema
from ingest_service.rows.interaction import micros_of, parse_timestamp
from ingest_service.rows.schema import FieldKind

_DATE = "%Y-%m-%d"  # what the standard means by a date in its default format
_MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}


def load_dataset(path: Path) -> Dataset:
    """ConfigurationError says in one sentence what is wrong with the file, and where. Blocks."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"The schema file {path} cannot be read: {reason}.") from None
    dataset, steps, features = _read(text, str(path))
    try:
        return after(dataset, steps, features)
    except RowError as error:
        raise ConfigurationError(f"The schema file {path} is wrong: {error.reason}.") from None


def as_configured(
    dataset: Dataset, transform: Sequence[Mapping[str, Any]], feature: Sequence[Mapping[str, Any]]
) -> Dataset:
    """The data set after the steps of a configuration, with its features. ConfigurationError says what is wrong."""
    try:
        steps = StepsOfSettings.model_validate({"transform": transform}).transform
        features = FeaturesOfSettings.model_validate({"feature": feature}).feature
        return after(dataset, steps, features)
    except ValidationError as error:
        raise ConfigurationError(f"A setting is wrong: {_first(error)}") from None
    except RowError as error:
        names = " or ".join(f"{name!r}" for name, given in (("transform", transform), ("feature", feature)) if given)
        reason = f"Setting {names} is wrong for the data set {dataset.name}: {error.reason}."
        raise ConfigurationError(reason) from None


@lru_cache(maxsize=32)  # a command asks for its data set in several places
def _read(text: str, path: str) -> tuple[Dataset, tuple[Step, ...], tuple[Feature, ...]]:
    """The data set before its steps and features, and these."""
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
    try:
        declared = _declaration(file)
        dataset = items_of(declared) if isinstance(declared, ItemDeclaration) else dataset_of(declared)
        return dataset, file.transform, file.features
    except RowError as error:
        raise ConfigurationError(f"The schema file {path} is wrong: {error.reason}") from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is not supported here; see docs/SCHEMAS.md for what is."
    return f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}."


def _declaration(file: DatasetFile) -> Declaration | ItemDeclaration:
    missing = frozenset(file.table.missing_values)
    if file.reader != "delimited":
        missing |= {""}  # as which null is read
    holders = {
        one.name: field for field in file.table.fields for one in (field, *(field.each.fields if field.each else ()))
    }
    places = {field.name: place for place, field in enumerate(file.table.fields)}
    splits = {field.name: split for field, split in file.flat}
    by_role: dict[str, FieldOfFile] = {field.role: field for field, _ in file.flat if field.role}

    def column(field: FieldOfFile) -> Column:
        holder = holders[field.name].name
        kind = _kind(field, missing, has_clock="clock" in by_role)
        return Column(
            field.name, kind, frozenset({bare_name(holder)}), places[holder], splits[field.name], _path(field)
        )

    def id_column(role: str, prefix: str) -> IdColumn:
        field = by_role[role]
        prefix = prefix if field.prefix is None else field.prefix
        return IdColumn(column(field), prefix, file.namespace, bool(field.stored))

    own = tuple(OwnField(column(one), _field(one), one.is_key) for one, _ in file.flat if one.keep)
    about = About(file.title, file.description, file.homepage, file.published, file.sha256)
    if file.is_about_items:
        return ItemDeclaration(file.name, id_column("item", "video_"), own, _form(file), about)
    clock = by_role.get("clock")
    return Declaration(
        file.name,
        id_column("owner", "user_"),
        id_column("item", "video_"),
        column(by_role["time"]) if "time" in by_role else micros_of(parse_timestamp(file.time, "x-time")),
        column(clock) if clock else None,
        by_role["time"].zone if clock else "UTC",
        column(by_role["event"]) if "event" in by_role else file.event,
        column(by_role["device"]) if "device" in by_role else file.device,
        column(by_role["session"]) if "session" in by_role else None,
        own,
        _form(file),
        about,
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


def _kind(field: FieldOfFile, missing: frozenset[str], *, has_clock: bool) -> Kind:
    if field.role == "time" and has_clock:
        return Day(_DATE if field.format in ("default", "any") else field.format)
    if field.role == "clock":
        is_number = field.type == "integer"
        return Clock("" if is_number else "%H:%M:%S" if field.format in ("default", "any") else field.format)
    if field.role in ("owner", "item"):
        if field.type == "integer":
            return ID
        return UuidId() if field.format == "uuid" else RawId() if field.stored else TextId()
    return _time(field) if field.role == "time" else _kept(field, missing)


def _kept(field: FieldOfFile, missing: frozenset[str]) -> Kind:
    """A field of its own, or a word. RowError says what is wrong with its default, which is written as in the file."""
    text = None if field.default is None else str(field.default)

    def default(kind: Kind) -> Any:
        return None if text is None else kind.one(text, f"x-default of {field.name}")

    if field.type in ("datetime", "date"):
        return Missable(_time(field), missing, default(_time(field)))
    if field.type == "boolean":
        known = dict.fromkeys(field.true_values, "true") | dict.fromkeys(field.false_values, "false")
        return Category(known, missing, default(Category({"True": "true", "False": "false"} | known)))
    if field.type == "list":
        return ListOfTexts(
            field.delimiter, missing, "[]" if text in ("", "[]") else default(ListOfTexts(field.delimiter))
        )
    if field.exact:
        return Exact(missing, default(Exact()))
    if field.type == "number":
        return Number(missing, default(Number()))
    if field.type == "integer":
        return Whole(missing, default(Whole()))
    return Category(field.values, missing, text) if field.values else AnyText(missing, text)


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
    if field.exact:
        return schema.Field(kept_name(field), FieldKind.DECIMAL)
    moment = FieldKind.TIME
    kinds: Mapping[str, FieldKind] = {
        "number": FieldKind.FLOAT,
        "integer": FieldKind.INT,
        "boolean": FieldKind.TRUTH,
        "list": FieldKind.LIST,
        "datetime": moment,
        "date": moment,
    }
    return schema.Field(kept_name(field), kinds.get(field.type, FieldKind.TEXT))
