"""The sink holds the contract that every sink holds."""

import json
from pathlib import Path

import pytest

from ingest_service import VideoInteraction
from ingest_service.rows.interaction import timestamp_text
from ingest_service.sinks.testing import *  # noqa: F403 (the tests, and the fixture `sink`)
from ingest_service.sinks.testing import Kit, Stored
from ingest_service.sinks.testing.rows import key_of


class FolderKit(Kit):
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "interactions"
        self.url = f"folder:///{self.folder}"
        self.down_url = "folder:////dev/null/interactions"

    def stored(self) -> Stored:
        files = {path.stem: json.loads(path.read_text()) for path in self.folder.glob("*.json")}
        return {(user, key): record for user, records in files.items() for key, record in records.items()}

    def remove(self, record: VideoInteraction) -> None:
        user, key = key_of(record)
        path = self.folder / f"{user}.json"
        records = json.loads(path.read_text())
        del records[key]
        path.write_text(json.dumps(records))

    def exact(self, record: VideoInteraction) -> object:
        values = record.model_dump(mode="json", exclude={"user_id"})
        return values | {"timestamp": timestamp_text(record.timestamp)}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return FolderKit(tmp_path)
