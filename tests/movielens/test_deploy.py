"""The function of docs/DEPLOY.md, in the framework that Google runs it in."""

import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import redis

from ingest_service.movielens.places import POPULAR_KEY
from tests.helpers import mongodb_documents
from tests.movielens.conftest import World
from tests.servers import ROOT, Server, _speaks_http

PAGE = (ROOT / "docs" / "DEPLOY.md").read_text()


class Function(Server):
    """`main.py` of its folder, served."""

    def command(self) -> list[str]:
        framework = str(Path(sys.executable).with_name("functions-framework"))
        return [framework, "--source", "main.py", "--target", "step", "--host", "127.0.0.1", "--port", str(self.port)]

    def answers(self) -> bool:
        return _speaks_http(self.port)

    def call(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        connection = HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request("POST", "/", json.dumps(content), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()


@pytest.fixture
def function(world: World) -> Iterator[Function]:
    folder = world.folder / "function"
    folder.mkdir()
    (folder / "main.py").write_text("\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)))
    os.environ |= world.environment
    with Function(folder) as server:
        yield server


def test_the_function_takes_the_steps(world: World, function: Function) -> None:
    """Each step answers with its report; a step before its time, and one that is none, with an error."""
    world.archive.unlink()
    assert function.call({"step": "everything"})[0] == 400
    status, answer = function.call({"step": "ratings"})
    assert (status, "ingest-service movielens movies" in answer["error"]) == (500, True)
    for step in ("download", "movies", "ratings", "popular"):
        status, answer = function.call({"step": step})
        assert status == 200, answer
        assert answer["step"] == step
    assert len(mongodb_documents(world.fields["mongodb_uri"], "interactions")) == 600
    with redis.Redis.from_url(world.fields["redis_url"]) as client:
        assert client.exists(POPULAR_KEY)


def test_every_name_of_the_sample_is_a_setting() -> None:
    """.env.sample has each plain environment name with a sentence, and no other of ours."""
    lines = (ROOT / ".env.sample").read_text().splitlines()
    names = {line.removeprefix("# ").partition("=")[0] for line in lines if re.match(r"(# )?[A-Z_]+=", line)}
    assert names == {
        "LOG_LEVEL", "GCS_BUCKET_NAME", "MONGODB_URI", "REDIS_URL", "MOVIELENS_URL", "MOVIELENS_ZIP_FILENAME",
        "HF_MODEL_NAME", "HF_DEVICE", "EMBEDDING_BATCH_SIZE", "AWS_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL_DYNAMODB",
        "INGEST_SERVE__TOKEN",
    }  # fmt: skip
    for before, line in itertools.pairwise(lines):
        if re.match(r"[A-Z]", line):
            assert before.startswith("# ") and before.endswith("."), line
