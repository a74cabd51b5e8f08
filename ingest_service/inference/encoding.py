"""In which encoding a text is, by evidence."""

import re

from ingest_service.errors import ConfigurationError
from ingest_service.formats.encodings import encoding_of
from ingest_service.formats.text import BOM
from ingest_service.inference.sample import Sample
from ingest_service.sources.kinds import binary_kind

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")
_FEW = 0.01  # a share of lines that are damaged rather than in another encoding
_LOOKED_AT = 1 << 16
_OF_TEXT = bytes({*range(256)} - {*range(32)} | {*b"\t\n\r\v\f\x01"})  # no other control characters


def encoding_of_sample(sample: Sample) -> tuple[str, str]:
    """Its name, and what is not sure about it. ConfigurationError if it is none that is read here."""
    head = sample.head
    if head.startswith(_UTF_16_MARKS) and not head.startswith(b"\xff\xfe\0\0"):
        return "utf-16", ""
    if unmarked := _utf_16_without_mark(head[:_LOOKED_AT]):
        return unmarked, f"the encoding {unmarked.upper()} is told by where the zero bytes are; no mark says so"
    if kind := binary_kind(head):
        raise ConfigurationError(f"The source is {kind}.")
    acting = len(head[:_LOOKED_AT].translate(None, _OF_TEXT))
    if acting > len(head[:_LOOKED_AT]) * _FEW:
        raise ConfigurationError("The source is binary, and no text of rows.")
    lines = [line for part in (head, *sample.later) for line in part.split(b"\n")[1 if part is not head else 0 : -1]]
    lines = lines or [head]
    bad = sum(not _is_utf_8(line) for line in lines)
    if not bad:
        return "utf-8", ""
    high = [line for line in lines if not line.isascii()]
    if bad <= max(len(lines) * _FEW, 1) and bad * 2 < len(high):
        return "utf-8", f"{bad:,} of the lines looked at are not UTF-8, and will be refused"
    return _by_a_byte_a_character(b"\n".join(high))


def whole_lines(sample: Sample, encoding: str) -> tuple[bytes, list[bytes], bytes]:
    """As UTF-8 the lines of the head and those of each later piece, none cut off; and the head's as they are stored."""
    known = encoding_of(encoding, sample.head[:2])
    text = known.text(sample.head)
    if not sample.is_whole:
        text = text[: text.rfind(b"\n") + 1]
    later = [known.text(piece) for piece in sample.later]
    later = [piece[piece.find(b"\n") + 1 : piece.rfind(b"\n") + 1] for piece in later]
    return text.removeprefix(BOM), later, known.stored(text)


def _utf_16_without_mark(head: bytes) -> str:
    """Every other byte of it is zero where it is ASCII, and hardly one beside these whatever it is."""
    for name, at in (("utf-16-le", 1), ("utf-16-be", 0)):
        zeros, others = head[at::2], head[1 - at :: 2]
        begins_so = len(others) > 4 and not any(zeros[:32]) and all(others[:32])
        if begins_so or (zeros.count(0) > len(zeros) / 4 and not others.count(0)):
            return name
    return ""


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _by_a_byte_a_character(text: bytes) -> tuple[str, str]:
    """Letters with accents stand alone among others; what stands in pairs takes two bytes a character."""
    runs = _HIGH_RUN.findall(text)
    alone = sum(len(run) == 1 for run in runs)
    if alone * 2 < len(runs) and sum(len(run) % 2 for run in runs) * 10 < len(runs):
        raise ConfigurationError(
            "The source seems to be in an encoding with several bytes a character, like GB 18030 or Shift JIS; "
            "write it as UTF-8, for example with: iconv -f GB18030 -t UTF-8."
        )
    doubt = "the encoding is not UTF-8, and taken for Windows-1252; look at letters beyond ASCII in preview"
    return "windows-1252", doubt
