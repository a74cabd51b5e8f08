"""Schema files are what the standard says, by the library of its makers."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from frictionless import Dialect, FrictionlessException, Resource, Schema

from ingest_service.datasets.presets import FOLDER, preset_names
from ingest_service.inference.infer import infer
from ingest_service.sources.local import FileSource
from tests.datasets.test_own_fields import AT, CLOCK, DAY, KEPT, KEPT_HEADER, KEPT_ROW
from tests.datasets.test_schema_file import ITEM, OWNER, TIME
from tests.inference.shapes import SHAPES
from tests.servers import ROOT

EXAMPLES = re.findall(r"<<'END'\n(.*?)^END$", (ROOT / "docs" / "SCHEMAS.md").read_text(), re.MULTILINE | re.DOTALL)
OURS: dict[str, tuple[dict[str, Any], str]] = {
    "docs": (yaml.safe_load(EXAMPLES[0]), "user,item,timestamp\n1,2,1583366400000\n"),
    "kept": (
        {"name": "own", "dialect": {"delimiter": ";"}, "schema": {"fields": [OWNER, ITEM, TIME, *KEPT]}},
        f"user;item;at;{KEPT_HEADER}\nu;i;{AT};{KEPT_ROW}\n",
    ),
    "two columns": (
        {"name": "own", "schema": {"fields": [OWNER, ITEM, DAY | {"x-zone": "Asia/Tokyo"}, CLOCK]}},
        "user,item,day,hourmin\nu,i,20200305,905\n",
    ),
}


def is_standard(content: dict[str, Any]) -> bool:
    errors = [*Schema.metadata_validate(content["schema"]), *Dialect.metadata_validate(content.get("dialect", {}))]
    return not errors


@pytest.mark.parametrize("name", OURS)
def test_a_schema_file_is_one_of_the_standard(tmp_path: Path, name: str) -> None:
    """Keys of our own included, and the library reads rows by it."""
    content, rows = OURS[name]
    assert is_standard(content)
    (tmp_path / "rows.csv").write_text(rows)
    dialect = Dialect.from_descriptor(content.get("dialect", {}))
    resource = Resource("rows.csv", basepath=str(tmp_path), dialect=dialect)
    resource.schema = Schema.from_descriptor(content["schema"])
    report = resource.validate()
    assert report.valid, report.flatten(["message"])


@pytest.mark.parametrize("name", sorted(preset_names()))
def test_a_preset_is_one_of_the_standard(name: str) -> None:
    """So others can read the data sets by it, too."""
    assert is_standard(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", SHAPES)
def test_what_infer_writes_is_one_of_the_standard(tmp_path: Path, name: str) -> None:
    """Whatever the file is like that it was written for."""
    path = tmp_path / SHAPES[name].name
    path.write_bytes(SHAPES[name].data)
    assert is_standard(yaml.safe_load(infer(FileSource(path)).text))


def test_the_library_would_tell() -> None:
    """What the standard does not have is found."""
    with pytest.raises(FrictionlessException):
        is_standard({"schema": {"fields": [{"name": "a", "type": "decimal"}]}})
    assert not is_standard({"schema": {"fields": [{"name": "a"}], "missingValues": "NA"}})
