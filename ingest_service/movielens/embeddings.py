"""Texts to vectors, as sentence-transformers makes them: its own library, or the same model on ONNX Runtime.

Format of a model's folder: sbert.net, "Creating Custom Models". What is not understood there is refused rather than
guessed, as vectors of another recipe would look right and find the wrong neighbours.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ingest_service.errors import ConfigurationError
from ingest_service.movielens.settings import MovieLensSettings

Vectors = NDArray[np.float32]

_FILES = ["*.json", "1_Pooling/*.json", "onnx/model.onnx", "tokenizer.json"]
_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


class Embedder(Protocol):
    """Blocking; one thread at a time."""

    name: str
    dimensions: int

    def embed(self, texts: Sequence[str], advance: Callable[[int], object]) -> Vectors:
        """float32[len(texts), dimensions] in the texts' order. `advance` is told how many more are done."""


def embedder_of(settings: MovieLensSettings) -> Embedder:
    """Load the model that the settings name. Blocks."""
    if settings.embedding_engine == "sentence-transformers":
        return _SentenceTransformer(settings)
    return OnnxEmbedder(
        _folder(settings.hf_model_name), settings.hf_model_name, settings.hf_device, settings.embedding_batch_size
    )


class OnnxEmbedder:
    """Transformer, pooling over tokens, and unit length, as the model's folder says."""

    def __init__(self, folder: Path, name: str, device: str, batch_size: int) -> None:
        self.name = name
        self._batch_size = batch_size
        modules = [module["type"].rpartition(".")[2] for module in _json(folder, "modules.json")]
        if modules not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise ConfigurationError(f"The model in {folder} has parts that are not known: {', '.join(modules)}.")
        self._normalizes = modules[-1] == "Normalize"
        pooling = _json(folder, "1_Pooling/config.json")
        modes = [mode for mode, is_used in pooling.items() if mode.startswith("pooling_mode_") and is_used]
        if len(modes) != 1 or modes[0] not in _POOLING:
            raise ConfigurationError(f"The model in {folder} pools in a way that is not known: {', '.join(modes)}.")
        self._pooling = _POOLING[modes[0]]
        self.dimensions = int(pooling["word_embedding_dimension"])
        self._tokenizer = _tokenizer(folder, int(_json(folder, "sentence_bert_config.json")["max_seq_length"]))
        self._session = _session(folder, device)
        self._inputs = {one.name for one in self._session.get_inputs()}

    def embed(self, texts: Sequence[str], advance: Callable[[int], object]) -> Vectors:
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for rows, ids, mask in self.batches(texts):
            vectors[rows] = self._pooled(self.run(ids, mask), mask)
            advance(len(rows))
        return vectors

    def batches(self, texts: Sequence[str]) -> list[tuple[list[int], NDArray[np.int64], NDArray[np.int64]]]:
        """Texts of like length together, so that little of a batch is padding: their rows, token ids, and mask."""
        encoded = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda row: len(encoded[row].ids), reverse=True)
        batches = []
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            width = len(encoded[rows[0]].ids)
            ids, mask = (np.zeros((len(rows), width), np.int64) for _ in range(2))
            for place, row in enumerate(rows):
                tokens = encoded[row].ids
                ids[place, : len(tokens)] = tokens
                mask[place, : len(tokens)] = 1
            batches.append((rows, ids, mask))
        return batches

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        """float32[texts, tokens, dimensions]: what the transformer makes of each token."""
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        outputs = self._session.run(None, {name: inputs[name] for name in self._inputs})
        tokens: Vectors = outputs[0]
        return tokens

    def _pooled(self, tokens: Vectors, mask: NDArray[np.int64]) -> Vectors:
        if self._pooling == "cls":
            vectors = tokens[:, 0]
        else:
            weights = mask.astype(np.float32)
            vectors = np.einsum("btd,bt->bd", tokens, weights) / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        if self._normalizes:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


class _SentenceTransformer:
    """The library itself, from the extra `torch`: for GPUs, and for models that the other engine refuses."""

    def __init__(self, settings: MovieLensSettings) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ConfigurationError(
                "The engine sentence-transformers is not installed; get it with: pip install 'ingest-service[torch]'."
            ) from None
        self.name = settings.hf_model_name
        self._batch_size = settings.embedding_batch_size
        self._model = SentenceTransformer(self.name, device=settings.hf_device)
        self.dimensions = len(self._model.encode(""))  # newer versions have renamed the method that tells

    def embed(self, texts: Sequence[str], advance: Callable[[int], object]) -> Vectors:
        vectors: Vectors = self._model.encode(list(texts), batch_size=self._batch_size, convert_to_numpy=True)
        advance(len(texts))
        return vectors.astype(np.float32)


def _folder(name: str) -> Path:
    """A model's folder: itself, or fetched from the hub into the cache that all of its tools share."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.startswith((".", "/")) or name.count("/") > 1:
        raise ConfigurationError(f"There is no model folder {name}; set HF_MODEL_NAME to one, or to a hub name.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigurationError(_NOT_INSTALLED) from None
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # of its HTTP client, its cache, or the hub: all mean that the model is not here
        raise ConfigurationError(
            f"The model {name} cannot be had from the hub ({type(error).__name__}); "
            "check HF_MODEL_NAME, or name a folder."
        ) from error


_NOT_INSTALLED = "Embeddings need ONNX Runtime; get it with: pip install 'ingest-service[movielens]'."


def _json(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{folder} is no folder of a sentence-transformers model: {name} cannot be read ({type(error).__name__})."
        ) from error


def _tokenizer(folder: Path, max_tokens: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigurationError(_NOT_INSTALLED) from None
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library has no class of its own for what it cannot read
        raise ConfigurationError(f"{folder} has no tokenizer.json that can be read; name another model.") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _session(folder: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigurationError(_NOT_INSTALLED) from None
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise ConfigurationError(
                "HF_DEVICE asks for a GPU, which this ONNX Runtime cannot use; install onnxruntime-gpu."
            )
        providers = [("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}), *providers]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings go to stderr as plain text, among JSON
    try:
        return onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"), options, providers=providers)
    except Exception as error:  # its classes are private
        raise ConfigurationError(
            f"{folder} has no onnx/model.onnx that ONNX Runtime can read ({type(error).__name__}); name another model."
        ) from error
