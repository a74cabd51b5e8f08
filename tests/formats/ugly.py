"""Files of delimited text as nobody should write them."""

from hypothesis import strategies as st

from ingest_service.formats.text import BOM


def either(*lists: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([text for texts in lists for text in texts])


HEADER = b"user,item,timestamp\n"

UGLY_IDS = [
    *["", "007", "+7", "-7", "-0", "+0", "+", "-", "--1", "1_000", "1.0", "1e3", "abc", "é", "\u0663", "\u00a07", "😀"],
    *["12.0", "-3.00", "1.5", ".0", "0.", "7.0.0", "1234567890123456789.0"],
    *["99999999999999999", "999999999999999999", "1000000000000000000", "9223372036854775807", "9223372036854775808"],
    *["-9223372036854775808", "-9223372036854775809", "0" * 17 + "5", "0" * 18 + "5", "0" * 45 + "5", "1" * 45],
    *["4\r", "4\v\f", "\v4", " " * 16 + "4", " " * 17 + "4", "4" + " " * 40, "1 2", "\x1c5", "5\u2028", "\x855", "nan"],
]
IDS = st.integers(0, 200).map(str) | st.integers(-5, 10**6).map(str) | st.sampled_from(UGLY_IDS)

DATES = st.one_of(
    st.sampled_from(["2020-03-05", "2022-09-12", "2024-02-29", "2000-02-29", "1970-01-01", "1969-12-31", "2261-12-31"]),
    st.sampled_from(["2262-01-01", "2023-02-29", "2100-02-29", "2020-00-10", "2020-13-01", "2020-04-31", "0000-01-01"]),
    st.sampled_from(["0001-01-01", "9999-12-31", "2020-1-05", "20200305", "2020/03/05", "2020-03-00", "-020-01-01"]),
    st.dates().map(str),
)
TIMES = st.one_of(
    st.sampled_from(
        ["00:00:00", "23:59:59", "12:34:56", "24:00:00", "23:60:00", "23:59:60", "12:34", "1:2:3", "12-34-56"]
    ),
    st.times().map(lambda time: f"{time:%H:%M:%S}"),
)
FRACTIONS = st.sampled_from(
    ["", "", ".0", ".5", ".12", ".123", ".1234", ".12345", ".123456", ".1234567", ".", ",5", ".1a"]
)
ZONES = either(
    ["", "", "Z", "z", "+00:00", "-00:00", "+05:30", "-08:00", "+23:59", "-23:59", "+24:00", "+05:60", "+0530", "+05"],
    ["+5:30", " Z", "UTC", "+aa:00", "+05-30", "\u22125:30"],
)
ISO = st.builds(
    lambda date, mark, time, fraction, zone: date + mark + time + fraction + zone,
    *(DATES, st.sampled_from(["T", " ", "T", "t", "  ", "_"]), TIMES, FRACTIONS, ZONES),
)
EPOCHS = st.one_of(
    st.integers(0, 9_214_646_400_000).map(str),
    st.integers(99_999_999_000, 100_000_001_000).map(str),
    st.integers(1_580_000_000, 1_670_000_000).map(str),
    st.integers(1_580_000_000_000, 1_670_000_000_000).map(str),
    st.integers(9_214_646_399, 9_214_646_400).map(str),
    st.builds("{}.{}".format, st.integers(0, 1_670_000_000_000), st.sampled_from(["0", "00", "5", "250", "1234567"])),
    st.integers(10**14, 10**19).map(str),
    st.integers(9_214_646_399_998, 9_214_646_400_001).map(str),
    st.sampled_from(
        ["0", "-1", "+5", "000000000005", "00000000005", "0" * 19, "1" * 18, "1" * 19, "9" * 19, "1" * 20, "1.5"]
    ),
)
TIMESTAMPS = EPOCHS | EPOCHS | ISO
PADDING = st.sampled_from(["", "", "", "", " ", "  ", "\t", "\v", "\f", "\r", " " * 17])
WRAPS = st.sampled_from(
    ["{}"] * 12
    + ['"{}"'] * 4
    + [' "{}"', '"{}" ', '\t"{}"', '" {} "', '"{}"x', '"{}" "', '"{}', '{}"', 'a"{}"', '"{}""', '""{}"', '"{}""{}"']
    + [
        '"\n{}"',
        '"{}\r\n"',
        '"{}\n\n',
        '"{},{}"',
        '"{};{}"',
        '"{}\t"',
        '""',
        '"',
        '"""{}"""',
        '\v"{}"',
        '"{}"\r',
        "'{}'",
    ]
)
UGLY_BYTES = st.sampled_from(
    [b"\0", b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\r", b'"']
)
LINE_ENDS = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r\n", b"\r\r\n", b"\n\n"])
NO_ROWS = st.sampled_from(
    [
        b"",
        b" ",
        b"\t",
        b"\v\f",
        b"\r",
        b"\xc2\xa0",
        b" " * 30,
        b"\0",
        b",",
        b",,",
        b'"',
        b'""',
        b'","',
        b"\t\t",
        b";;",
        b'"\n"',
    ]
)


@st.composite
def rows(draw: st.DrawFn, delimiter: bytes, kinds: list[str]) -> bytes:
    """One line, mostly close to right."""
    if draw(st.integers(0, 9)) == 0:
        return draw(NO_ROWS)
    fields = []
    ugly = draw(st.integers(0, 2)) > 0
    for kind in kinds:
        if not ugly:
            text = draw(st.integers(0, 300).map(str) if kind == "id" else EPOCHS)
        else:
            text = draw({"id": IDS, "timestamp": TIMESTAMPS, "other": IDS | st.text(max_size=4)}[kind])
            text = draw(PADDING) + draw(WRAPS).replace("{}", text) + draw(PADDING)
        fields.append(text.encode(errors="replace"))
    if ugly:
        change = draw(st.integers(0, 30))
        if change == 0:
            fields.append(b"1")
        elif change == 1:
            fields.pop()
        elif change == 2:
            at = draw(st.integers(0, len(fields) - 1))
            fields[at] += draw(UGLY_BYTES) + b"1"
        elif change == 3:
            at = draw(st.integers(0, len(fields) - 1))
            fields[at] += draw(st.sampled_from([b" ", b"x", b"\xc3\xa9", b'""'])) * draw(st.integers(0, 700))
    return delimiter.join(fields)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    delimiter = draw(st.sampled_from([b",", b",", b",", b";", b"\t", b"|"]))
    names = draw(
        st.sampled_from(
            [
                [b"user", b"item", b"timestamp"],
                [b"userID", b"videoID", b"timestamp"],
                [b"userID", b"itemID", b"timestamp", b"x_label"],
                [b"timestamp", b"note", b"item", b"user"],
            ]
        )
    )
    kinds = [
        "timestamp" if name == b"timestamp" else "other" if name in (b"x_label", b"note") else "id" for name in names
    ]
    header = draw(st.sampled_from([b"", b"", BOM])) + delimiter.join(names)
    lines = draw(st.lists(rows(delimiter, kinds), max_size=30))
    usual = draw(st.sampled_from([b"\n", b"\r\n", b""]))
    data = header + (usual or b"\n")
    for line in lines:
        data += line + (usual or draw(LINE_ENDS))
    return data if draw(st.booleans()) else data.rstrip(b"\n")


LIMITS = st.sampled_from([(64, 48), (100, 200), (256, 1 << 20)])
SIZES = st.lists(st.integers(1, 80), min_size=1, max_size=4) | st.just([1 << 30])
