"""Where a text can be divided: at a place where a row begins for certain, without reading what lies before.

Rows begin at line ends, and no row that spans lines is longer than `MAX_RECORD_BYTES`. So if the text is followed from
every line end in the MiB before a place, one of them is where a row truly begins; the place that all of them come to is
a true beginning as well. Where they do not meet, as in a field that is made to look like rows for a MiB, it is not cut.
"""

from collections.abc import Callable
from typing import Final

from ingest_service.formats.memory import MAX_RECORD_BYTES

BEFORE_BYTES: Final = MAX_RECORD_BYTES + (1 << 12)  # with blanks and a line end after the longest record


def certain_start(
    text: bytes, goal: int, next_start: Callable[[bytes, int], int | None], *, begins: bool = False
) -> int | None:
    """The first place from `goal` on where a row of this text begins for certain; None if there is none.

    next_start: of the row that begins at a place, where the one after it does, or None if the text ends too early.
    begins: whether the text begins with a row.
    """
    if begins:
        last = _last_plain_line(text, 0, goal)
        return _followed(text, last, goal, next_start, {})
    first = text.find(b"\n") + 1
    if not first or first > goal:
        return None  # a line that is longer than any record
    if b'"' not in text[first:goal]:
        return _followed(text, text.rfind(b"\n", 0, goal) + 1, goal, next_start, {})
    ends: dict[int, int | None] = {}  # of each place that was come by, where it leads to
    found: set[int | None] = set()
    start = first
    while start <= goal and len(found) < 2:
        found.add(_followed(text, start, goal, next_start, ends))
        start = text.find(b"\n", start) + 1 or goal + 1
    return found.pop() if len(found) == 1 else None


def _last_plain_line(text: bytes, start: int, goal: int) -> int:
    """The last line before the first quote, by which alone a row could go on over line ends."""
    quote = text.find(b'"', start, goal)
    return text.rfind(b"\n", start, goal if quote < 0 else quote) + 1 or start


def _followed(
    text: bytes,
    start: int,
    goal: int,
    next_start: Callable[[bytes, int], int | None],
    ends: dict[int, int | None],
) -> int | None:
    """Where a chain of rows from `start` on comes to `goal` or beyond it."""
    passed = []
    at: int | None = start
    while at is not None and at < goal:
        if at in ends:
            at = ends[at]
            break
        passed.append(at)
        at = next_start(text, at)
    ends.update(dict.fromkeys(passed, at))
    return at
