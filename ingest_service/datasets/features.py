"""Features bound to a data set: fields of which a value depends on the records before."""

from collections.abc import Sequence
from dataclasses import replace

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.expressions import wrong
from ingest_service.datasets.feature_model import TIME_FEATURES, Feature
from ingest_service.datasets.step_model import Step
from ingest_service.datasets.steps import with_steps
from ingest_service.rows.schema import Field, FieldKind

_REALS = ("gap", "popularity")


def with_features(dataset: Dataset, features: Sequence[Feature]) -> Dataset:
    """The data set whose records have these features beside. RowError says what is wrong with one."""
    if not features:
        return dataset
    if dataset.schema.is_about_items:
        raise wrong("features are told of interactions: what is known of items has no user, and is of no time")
    taken = {field.name.lower() for field in dataset.schema.fields}
    for one in features:
        if one.feature in TIME_FEATURES and not dataset.has_times:
            raise wrong(f"the feature {one.feature} needs the time of each record, and x-time is the same for all")
        if one.name.lower() in taken:
            raise wrong(f"there is a field {one.name!r} already: name the feature {one.feature} by derive")
        taken.add(one.name.lower())
    kinds = (FieldKind.FLOAT if one.feature in _REALS else FieldKind.INT for one in features)
    fields = (Field(one.name, kind) for one, kind in zip(features, kinds, strict=True))
    return replace(
        dataset,
        schema=dataset.schema.extended(dataset.schema.name, *fields),
        steps="; ".join(filter(None, (dataset.steps, *(one.model_dump_json(exclude_none=True) for one in features)))),
        features=tuple(features),
        bare=dataset,
    )


def after(dataset: Dataset, steps: Sequence[Step], features: Sequence[Feature]) -> Dataset:
    """The data set after more steps, and with more features: these are told last, of what the steps make and keep."""
    bare = dataset.bare or dataset
    return with_features(with_steps(bare, steps), (*dataset.features, *features))
