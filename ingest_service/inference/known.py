"""Which data sets that are known by name a source fits as well."""

from ingest_service.datasets import dataset_named, dataset_names
from ingest_service.datasets.base import Dataset
from ingest_service.datasets.forms import Delimited
from ingest_service.datasets.presets import preset_names
from ingest_service.errors import IngestError
from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.formats.opening import open_reader
from ingest_service.inference.found import Table
from ingest_service.sources.base import Source

_ROWS = 200
_MOST = 0.75  # of the rows must be right


def known_datasets_for(source: Source, table: Table) -> list[str]:
    """Their names. Blocks."""
    names = (*sorted(dataset_names()), *preset_names())
    return [name for name in names if _fits(source, table, dataset_named(name))]


def _fits(source: Source, table: Table, dataset: Dataset) -> bool:
    form = dataset.form
    if form.format != ("delimited" if table.format == "csv" else table.format):
        return False
    if isinstance(form, Delimited) and form.header != table.dialect["header"]:
        return False
    try:
        reader = open_reader(source, dataset, limit=_ROWS, block_bytes=2 * MAX_RECORD_BYTES)
        try:
            block = reader.next()
            chunk = None if block is None else reader.chunk(block)
        finally:
            reader.close()
    except IngestError:
        return False
    return chunk is not None and chunk.accepted > 0 and chunk.accepted_rows >= _MOST * chunk.read
