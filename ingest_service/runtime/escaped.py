"""Names and texts that others chose, made safe to print."""

import re
from typing import Any

# C0, DEL, C1; marks that turn the direction of writing; line ends of Unicode; invisible operators; lone surrogates,
# as which Python reads bytes of a file's name that are no UTF-8.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def escaped(text: str) -> str:
    """Characters that act on a terminal, a log or a reader's eye rather than stand for themselves, as escapes."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def all_escaped(value: Any) -> Any:
    """The same for every text in what JSON could hold."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {all_escaped(key): all_escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [all_escaped(item) for item in value]
    return value
