"""A sentence-transformers model so small that a test can make it: each token has a fixed vector.

It goes the whole way of a real one: tokenizer, ONNX Runtime, mean pooling, unit length.
"""

import json
import struct
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

WORDS = 500


def make_model(folder: Path, *, dimensions: int = 8, seed: int = 1, max_tokens: int = 16) -> Path:
    """A folder as sentence-transformers lays one out; another seed is another model."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "1_Pooling").mkdir()
    table = np.random.default_rng(seed).normal(size=(WORDS, dimensions)).astype(np.float32)
    (folder / "onnx" / "model.onnx").write_bytes(_gather(table))
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [{"idx": i, "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = {
        "word_embedding_dimension": dimensions,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": False,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_tokens}))
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = {
        token: i for i, token in enumerate(["[UNK]", *letters, *(a + b for a in letters for b in letters)][:WORDS])
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _gather(table: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> bytes:
    """An ONNX model (onnx.proto3) of one node: output[b, t] = table[input_ids[b, t]]."""
    tensor = _varint(1, table.shape[0]) + _varint(1, table.shape[1]) + _varint(2, 1)
    tensor += _bytes(8, b"table") + _bytes(9, table.tobytes())
    node = _bytes(1, b"table") + _bytes(1, b"input_ids") + _bytes(2, b"output") + _bytes(4, b"Gather")
    graph = _bytes(1, node) + _bytes(2, b"tiny") + _bytes(5, tensor)
    graph += _bytes(11, _value(b"input_ids", 7, 2)) + _bytes(12, _value(b"output", 1, 3))
    return _varint(1, 8) + _bytes(7, graph) + _bytes(8, _varint(2, 13))


def _value(name: bytes, kind: int, rank: int) -> bytes:
    shape = b"".join(_bytes(1, _bytes(2, f"{name.decode()}{i}".encode())) for i in range(rank))
    return _bytes(1, name) + _bytes(2, _bytes(1, _varint(1, kind) + _bytes(2, shape)))


def _varint(field: int, value: int) -> bytes:
    return bytes([field << 3]) + _number(value)


def _bytes(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _number(len(content)) + content


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(found) + struct.pack("B", value)
