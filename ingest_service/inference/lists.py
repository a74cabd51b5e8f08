"""Texts that are several ids: each a record of its own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ID = re.compile(r"[A-Za-z]{0,4}[-_]?[0-9]{1,18}")
_BETWEEN, _INNER = " |,;", "-:_"
_LOOKED_AT = 500
_FEW_LABELS = 5


@dataclass(frozen=True, slots=True)
class ListShape:
    """`inner` stands between an id and its label, "" where there is none. is_whole: the ids are whole numbers."""

    delimiter: str
    inner: str
    is_whole: bool


def list_shape(texts: Sequence[str]) -> ListShape | None:
    """Of different values that are there; None if they are no lists of ids, of different lengths."""
    texts = texts[:_LOOKED_AT]
    for delimiter in _BETWEEN:
        lists = [text.split(delimiter) for text in texts]
        lengths = {len(parts) for parts in lists}
        if len(lengths) < 3 or sum(len(parts) > 1 for parts in lists) * 2 < len(lists):
            continue
        parts = list(dict.fromkeys(part for one in lists for part in one))
        for inner in _INNER:
            pairs = [part.split(inner) for part in parts]
            labels = {pair[-1] for pair in pairs}
            if all(len(pair) == 2 for pair in pairs) and len(labels) <= _FEW_LABELS and _are_ids(ids := _firsts(pairs)):
                return ListShape(delimiter, inner, all(map(str.isdigit, ids)))
        if _are_ids(parts):
            return ListShape(delimiter, "", all(map(str.isdigit, parts)))
    return None


def _firsts(pairs: Sequence[Sequence[str]]) -> list[str]:
    return [pair[0] for pair in pairs]


def _are_ids(parts: Sequence[str]) -> bool:
    return all(map(_ID.fullmatch, parts)) and not any(part.startswith("0") and part[1:].isdigit() for part in parts)
