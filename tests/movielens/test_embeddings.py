"""Vectors are those of sentence-transformers, whatever stands beside them in a batch."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest_service.config import load_settings
from ingest_service.errors import ConfigurationError
from ingest_service.movielens.embeddings import OnnxEmbedder, Vectors, embedder_of
from ingest_service.movielens.settings import MovieLensSettings
from tests.movielens.model import make_model

TEXTS = ["toy story", "a", "heat 1995 action crime thriller " * 3, "", "b c d", "toy story"]


def settings_of(fields: dict[str, Any]) -> MovieLensSettings:
    return MovieLensSettings.of(load_settings(fields))


def vectors(folder: Path, texts: list[str], batch_size: int = 4) -> Vectors:
    return OnnxEmbedder(folder, "model", "cpu", batch_size).embed(texts, lambda _: None)


@pytest.mark.parametrize("engine", ["onnx", "sentence-transformers"])
def test_vectors_are_those_of_sentence_transformers(real_model: Path, engine: str) -> None:
    """The reference embeddings come from the library itself: cosine 0.9999 or better for each, by either engine."""
    if engine == "sentence-transformers":
        pytest.importorskip("sentence_transformers")
        if not (real_model / "model.safetensors").exists():
            pytest.skip("NO WEIGHTS: this copy of the model has none for torch; name another with INGEST_TEST_MODEL")
    rows = json.loads((real_model / "reference.json").read_text())["rows"]
    fields = {"hf_model_name": str(real_model), "embedding_engine": engine, "embedding_batch_size": 7}
    found = embedder_of(settings_of(fields)).embed([row["text"] for row in rows], lambda _: None)
    wanted = np.array([row["embedding"] for row in rows])
    cosines = (found * wanted).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= 0.9999
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_a_batch_does_not_change_its_texts(tiny_model: Path, batch_size: int) -> None:
    """Padding counts for nothing, and vectors come in the order of their texts."""
    alone = np.concatenate([vectors(tiny_model, [text]) for text in TEXTS if text])
    together = vectors(tiny_model, [text for text in TEXTS if text], batch_size)
    assert np.allclose(alone, together, atol=1e-6)
    assert np.array_equal(together[0], together[-1])


def test_texts_of_like_length_go_together(tiny_model: Path) -> None:
    """Each batch is as wide as its longest text, and the texts are sorted by tokens."""
    embedder = OnnxEmbedder(tiny_model, "model", "cpu", 2)
    widths = [mask.sum(axis=1) for _, _, mask in embedder.batches([text for text in TEXTS if text])]
    flat = np.concatenate(widths).tolist()
    assert flat == sorted(flat, reverse=True)
    assert [mask.shape[1] for _, _, mask in embedder.batches(TEXTS[:3])] == [max(w) for w in (widths[0],)] + [1]


def test_long_texts_are_cut(tiny_model: Path) -> None:
    """No more tokens are looked at than the model takes."""
    assert np.array_equal(vectors(tiny_model, ["a " * 16]), vectors(tiny_model, ["a " * 16 + "b " * 50]))


def test_progress_adds_up(tiny_model: Path) -> None:
    """Each text is told of once."""
    told: list[int] = []
    OnnxEmbedder(tiny_model, "model", "cpu", 4).embed(TEXTS[:3] * 3, told.append)
    assert sum(told) == 9


@pytest.mark.parametrize(
    "file", ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "tokenizer.json", "onnx/model.onnx"]
)
@pytest.mark.parametrize("content", [None, b"not this"], ids=["missing", "damaged"])
def test_a_wrong_folder_is_explained(tmp_path: Path, file: str, content: bytes | None) -> None:
    """Whatever of a model is missing or damaged is named, with no traceback of a library."""
    folder = make_model(tmp_path / "model")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(ConfigurationError, match=file.rpartition("/")[2]):
        embedder_of(settings_of({"hf_model_name": str(folder)}))


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("1_Pooling/config.json", "pooling_mode_max_tokens", True, "pools in a way"),
        ("modules.json", "", [{"type": "x.Transformer"}, {"type": "x.Pooling"}, {"type": "x.Dense"}], "Dense"),
    ],
)
def test_another_recipe_is_refused(tmp_path: Path, file: str, key: str, value: object, message: str) -> None:
    """A model that is put together in a way that this engine does not follow gives an error, not other vectors."""
    folder = make_model(tmp_path / "model")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | {key: value} if key else value))
    with pytest.raises(ConfigurationError, match=message):
        embedder_of(settings_of({"hf_model_name": str(folder)}))


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub() -> None:
    """A path is a path."""
    with pytest.raises(ConfigurationError, match="no model folder"):
        embedder_of(settings_of({"hf_model_name": "/nowhere/model"}))


def test_a_gpu_that_is_not_there_is_said(tiny_model: Path) -> None:
    """HF_DEVICE is not ignored where it cannot be followed."""
    with pytest.raises(ConfigurationError, match="GPU"):
        embedder_of(settings_of({"hf_model_name": str(tiny_model), "hf_device": "cuda:0"}))


def test_pooling_by_the_first_token(tmp_path: Path) -> None:
    """A model that pools by its first token gives that token's vector."""
    folder = make_model(tmp_path / "model")
    pooling = folder / "1_Pooling" / "config.json"
    changed = json.loads(pooling.read_text()) | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    pooling.write_text(json.dumps(changed))
    assert np.allclose(vectors(folder, ["a b c"]), vectors(make_model(tmp_path / "mean"), ["a"]), atol=1e-6)
    shutil.rmtree(folder)


def test_the_library_itself_is_an_extra(tiny_model: Path) -> None:
    """Where sentence-transformers is not installed, the engine says how to get it."""
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigurationError, match=r"ingest-service\[torch\]"):
            embedder_of(
                MovieLensSettings.of(
                    load_settings({"hf_model_name": "x/y", "embedding_engine": "sentence-transformers"})
                )
            )
    else:
        pytest.skip("sentence-transformers is installed")
