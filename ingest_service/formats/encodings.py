"""How a text source is stored: its bytes to UTF-8, and places in that back to places in the source."""

import codecs
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.arrays import Bools, Ints

_UTF_16_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_CUT_OFF = b"\xff"  # stands for the half of a character with which a source ends: no text in UTF-8 has it


class Encoding(ABC):
    """`unit`: the bytes of which a character takes one or more."""

    unit: int = 1

    @abstractmethod
    def text(self, stored: bytes) -> bytes:
        """As UTF-8. What is no character becomes what is no UTF-8, so that its row is refused."""

    @abstractmethod
    def stored(self, text: bytes) -> bytes:
        """What `text` was made of."""

    @abstractmethod
    def places(self, text: bytes, at: Ints) -> Ints:
        """How many stored bytes stand before each place in a text."""

    def line_end(self, stored: bytearray, start: int) -> int:
        """One past the end of the line that begins at `start`, or 0 if it does not end."""
        return stored.find(b"\n", start) + 1


class Utf8(Encoding):
    def text(self, stored: bytes) -> bytes:
        return stored

    def stored(self, text: bytes) -> bytes:
        return text

    def places(self, text: bytes, at: Ints) -> Ints:
        return at


class Charset(Encoding):
    """A byte a character. One that has none is the control character of its number, as browsers have it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def _table(self) -> str:
        known = [bytes([byte]).decode(self._name, "replace") for byte in range(256)]
        return "".join(chr(byte) if text == "\ufffd" else text for byte, text in enumerate(known))

    def text(self, stored: bytes) -> bytes:
        return codecs.charmap_decode(stored, "strict", self._table)[0].encode()

    def stored(self, text: bytes) -> bytes:
        return codecs.charmap_encode(text.decode(), "strict", codecs.charmap_build(self._table))[0]

    def places(self, text: bytes, at: Ints) -> Ints:
        return at if text.isascii() else _counted(_begin_a_character(text), at)


class Utf16(Encoding):
    unit = 2

    def __init__(self, name: str) -> None:
        self._name = name
        self._line_end = "\n".encode(name)

    def text(self, stored: bytes) -> bytes:
        whole = len(stored) // 2 * 2
        text = stored[:whole].decode(self._name, "surrogatepass").encode("utf-8", "surrogatepass")
        return text + _CUT_OFF * (len(stored) - whole)

    def stored(self, text: bytes) -> bytes:
        whole = text.removesuffix(_CUT_OFF).decode("utf-8", "surrogatepass").encode(self._name, "surrogatepass")
        return whole + bytes(text.endswith(_CUT_OFF))

    def places(self, text: bytes, at: Ints) -> Ints:
        if text.isascii():
            return at * 2
        lead = np.frombuffer(text, np.uint8)
        units = _begin_a_character(text).astype(np.uint8) + (lead >= 0xF0)
        beyond: Ints = (at == len(text)) * 3 * text.endswith(_CUT_OFF)  # it counts as two units, and is half a one
        return _counted(units, at) * 2 - beyond

    def line_end(self, stored: bytearray, start: int) -> int:
        at = stored.find(self._line_end, start)
        while at % 2 and at > 0:
            at = stored.find(self._line_end, at + 1)
        return at + 2 if at >= 0 else 0


def encoding_of(name: str, head: bytes) -> Encoding:
    """The encoding of a source that begins with `head`; `name` is one of `codec_name`."""
    if name == "utf-8":
        return Utf8()
    if name == "utf-16":
        return Utf16(_UTF_16_MARKS.get(head[:2], "utf-16-le"))
    return Utf16(name) if name.startswith("utf-16") else Charset(name)


def _begin_a_character(text: bytes) -> Bools:
    begins: Bools = (np.frombuffer(text, np.uint8) & 0xC0) != 0x80
    return begins


def _counted(units: NDArray[Any], at: Ints) -> Ints:
    """The sum of `units` before each place."""
    sums = np.concatenate((np.zeros(1, np.int32), np.cumsum(units, dtype=np.int32)))
    counted: Ints = sums[at].astype(np.int64)
    return counted
