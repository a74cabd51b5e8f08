"""Which dead letters a replay tries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingest_service.errors import SourceNotFound, UsageError
from ingest_service.pipeline import dead_letter

Letter = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chosen:
    """All of them, or those of a code, or one by its id: that maybe with another text in place of its row."""

    code: str | None = None
    letter: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.code is not None and self.letter is not None:
            raise UsageError("Dead letters are chosen by a code, or one by its id; leave one of both out.")
        if self.text is not None and self.letter is None:
            raise UsageError("Another text is for one dead letter; choose that by its id.")
        try:
            (self.text or "").encode()
        except UnicodeEncodeError:
            raise UsageError("The new text has what is no character of Unicode; write it in UTF-8.") from None

    def takes(self, letter: Letter) -> bool:
        if self.letter is not None:
            return dead_letter.id_of(letter) == self.letter
        return self.code is None or letter["code"] == self.code

    def meets(self, other: "Chosen") -> bool:
        """Whether both may be about the same letter."""
        return self.letter is None or other.letter is None or self.letter == other.letter

    def require_landed(self, replayed: Path) -> None:
        """SourceNotFound if the letter, which is not there any more, has not landed as it was to. Blocks."""
        for letter in dead_letter.read(replayed, missing_ok=True):
            before = dead_letter.before_edit(letter)
            if dead_letter.id_of(before) == self.letter and (self.text is None or letter["raw"] == self.text):
                return
        raise SourceNotFound("There is no such dead letter any more: it was replayed otherwise, edited or removed.")


ALL = Chosen()
