# ruff: noqa: E501 - rows of data sets
"""The presets: each reads a file of exactly the published form, and no row of it is refused without a reason."""

import gzip
import hashlib
import io
import json
import re
from pathlib import Path
from uuid import uuid5

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest_service.datasets import dataset_named
from ingest_service.datasets.presets import preset_names
from ingest_service.formats.opening import open_reader
from ingest_service.rows.interaction import NAMESPACE
from tests.formats.specification import Bytes, chunks_of
from tests.formats.test_parquet import InMemory
from tests.helpers import Cli
from tests.servers import ROOT

MBID = "a7f7df4a-77d8-4f12-8acd-5c60c93f4de8"
HEX = "000058a12d5b43e67d225668fa1f8d618c13dc232df0cad8ffe7ad4a1091e318"
# What the files say, and of each record: owner's and item's text before hashing, time, event, own fields.
PUBLISHED: dict[str, tuple[bytes, list[tuple[str, str, str, str, dict[str, object]]]]] = {
    "microlens-noheader": (
        b"2,19220,1583366400000\r\n",
        [("user_2", "video_19220", "2020-03-05T00:00:00", "click", {"device": "mobile"})],
    ),
    "microlens-tsv": (
        b"userID\titemID\ttimestamp\tx_label\n0\t7\t1583366400000\t2\n",
        [("microlens0_user_0", "microlens0_video_7", "2020-03-05T00:00:00", "click", {})],
    ),
    "microlens-pairs": (
        b"1\t5 6\n",
        [("user_1", f"video_{item}", "1970-01-01T00:00:00", "click", {"device": "mobile"}) for item in (5, 6)],
    ),
    "microlens-titles": (
        b'item,title\r\n1,"A, b \xf0\x9f\x90\x88"\r\n2,\r\n',
        [("", "video_1", "", "", {"title": "A, b 🐈"}), ("", "video_2", "", "", {"title": ""})],
    ),
    "microlens-titles-noheader": (
        b"1,Cats\n2,\n",
        [("", "video_1", "", "", {"title": "Cats"}), ("", "video_2", "", "", {"title": ""})],
    ),
    "microlens-likes-and-views": (
        b"1\t10\t2000\n",
        [("", "video_1", "", "", {"likes": 10, "views": 2000})],
    ),
    "steam": (
        b"{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'725280', u'page_order': 0, "
        b"u'date': u'2017-12-17', u'text': u\"It's \\u2019fine\\'\", u'early_access': False, u'page': 1}\n",
        [
            (
                "steam_user_Chaos Syren",
                "steam_product_725280",
                "2017-12-17T00:00:00",
                "rate",
                {"hours": 0.1, "found_funny": 0, "early_access": "false"},
            )
        ],
    ),
    "movielens-100k": (
        b"196\t242\t3\t881250949\n",
        [("movielens_user_196", "movielens_movie_242", "1997-12-04T15:55:49", "rate", {"rating": 3.0})],
    ),
    "movielens-1m": (
        b"1::1193::5::978300760\n",
        [("movielens_user_1", "movielens_movie_1193", "2000-12-31T22:12:40", "rate", {"rating": 5.0})],
    ),
    "amazon-2018-ratings": (
        b"0449819906,A3R5OBKS7OM2IR,5.0,1349568000\n",
        [("amazon_user_A3R5OBKS7OM2IR", "amazon_item_0449819906", "2012-10-07T00:00:00", "rate", {"rating": 5.0})],
    ),
    "amazon-2018-reviews": (
        b'{"overall": 4.0, "vote": "3", "verified": true, "reviewTime": "09 11, 2016", "reviewerID": "A3R", '
        b'"asin": "B00", "reviewerName": "J\\u00f6rg", "reviewText": "It\\u2019s \\"good\\"", "unixReviewTime": 1473552000}\n',
        [("amazon_user_A3R", "amazon_item_B00", "2016-09-11T00:00:00", "rate", {"rating": 4.0})],
    ),
    "amazon-2023-ratings": (
        b"user_id,parent_asin,rating,timestamp\nAFKZENTNBQ7A7V7UXW5JJI6UGRYQ,B088SZDGXG,5.0,1617904219785\n",
        [("amazon_user_AFKZENTNBQ7A7V7UXW5JJI6UGRYQ", "amazon_item_B088SZDGXG", "2021-04-08T17:50:19", "rate", {})],
    ),
    "amazon-2023-reviews": (
        b'{"rating": 5.0, "title": "x", "text": "y<br />z", "images": [{"small_image_url": "u"}], "asin": "B1", '
        b'"parent_asin": "B0", "user_id": "AE", "timestamp": 1588687728923, "helpful_vote": 2, "verified_purchase": true}\n',
        [
            (
                "amazon_user_AE",
                "amazon_item_B0",
                "2020-05-05T14:08:48",
                "rate",
                {"helpful_vote": 2, "verified_purchase": "true"},
            )
        ],
    ),
    "mind": (
        b"1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0\n2\tU9\t11/12/2019 1:45:29 PM\t\tN5-0\n",
        [
            ("mind_user_U13740", "mind_news_N55689", "2019-11-11T09:05:58", "click", {"impression_id": "1"}),
            ("mind_user_U13740", "mind_news_N35729", "2019-11-11T09:05:58", "impression", {"impression_id": "1"}),
            ("mind_user_U9", "mind_news_N5", "2019-11-12T13:45:29", "impression", {"impression_id": "2"}),
        ],
    ),
    "kuairec": (
        b"user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
        b"0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.2733965215790926\n",
        [("kuairec_user_0", "kuairec_video_3649", "2020-07-04T16:08:23", "view", {"watch_ratio": 1.2733965215790926})],
    ),
    "kuairand": (
        b"user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
        b"play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
        b"3,1071,20220408,1600,1649408076860,1,0,0,0,0,0,1,175045,87433,0,0,0,0,1\n",
        [("kuairand_user_3", "kuairand_video_1071", "2022-04-08T08:54:36", "click", {"long_view": "true", "tab": "1"})],
    ),
    "lastfm-1k": (
        f'user_000001\t2009-05-04T23:08:57Z\t{MBID}\tDeep "Dish\t{MBID}\t#1 (Live)\n'.encode(),
        [("lastfm_user_user_000001", f"lastfm_track_{MBID}", "2009-05-04T23:08:57", "listen", {"track": "#1 (Live)"})],
    ),
    "lfm-1b": (
        b"31435741\t2\t4\t4\t1385212958\n",
        [("lfm_user_31435741", "lfm_track_4", "2013-11-23T13:22:38", "listen", {"artist_id": 2})],
    ),
    "goodreads": (
        b"user_id,book_id,is_read,rating,is_reviewed\n0,948,1,5,0\n",
        [("goodreads_csv_user_0", "goodreads_csv_book_948", "1970-01-01T00:00:00", "shelve", {"is_read": "true"})],
    ),
    "goodreads-json": (
        b'{"user_id": "8842281e1d1347389f2ab93d60773d4d", "book_id": "18245960", "review_id": "dfdb", "is_read": true, '
        b'"rating": 5, "date_added": "Wed Mar 22 11:37:04 -0700 2017", "read_at": ""}\n',
        [
            (
                "goodreads_user_8842281e1d1347389f2ab93d60773d4d",
                "goodreads_book_18245960",
                "2017-03-22T18:37:04",
                "shelve",
                {},
            ),
        ],
    ),
    "yelp": (
        b'{"review_id":"KU_O5udG6zpxOg-VcAEodg","user_id":"mh_-eMZ6K5RLWhZyISBhwA","business_id":"XQfwVwDr-v0ZS3_CbbE5Xw",'
        b'"stars":3.0,"useful":0,"text":"If you\\ndecide","date":"2018-07-07 22:09:11"}\n',
        [
            (
                "yelp_user_mh_-eMZ6K5RLWhZyISBhwA",
                "yelp_business_XQfwVwDr-v0ZS3_CbbE5Xw",
                "2018-07-07T22:09:11",
                "rate",
                {},
            )
        ],
    ),
    "hm": (
        f"t_dat,customer_id,article_id,price,sales_channel_id\n2018-09-20,{HEX},0663713001,0.0508305,2\n".encode(),
        [(f"hm_user_{HEX}", "hm_article_0663713001", "2018-09-20T00:00:00", "purchase", {"sales_channel_id": 2})],
    ),
    "otto": (
        b'{"session":12899779,"events":[{"aid":59625,"ts":1661724000278,"type":"clicks"},{"aid":5,"ts":1661724000279,"type":"orders"}]}\n',
        [
            ("otto_session_12899779", "otto_article_59625", "2022-08-28T22:00:00", "click", {}),
            ("otto_session_12899779", "otto_article_5", "2022-08-28T22:00:00", "purchase", {}),
        ],
    ),
    "retailrocket": (
        b"timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n"
        b"1433222276276,599528,transaction,356475,4000\n",
        [
            (
                "retailrocket_user_257597",
                "retailrocket_item_355908",
                "2015-06-02T05:02:12",
                "view",
                {"transactionid": ""},
            ),
            (
                "retailrocket_user_599528",
                "retailrocket_item_356475",
                "2015-06-02T05:17:56",
                "purchase",
                {"transactionid": "4000"},
            ),
        ],
    ),
    "recbole": (
        b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n",
        [("user_196", "video_242", "1997-12-04T15:55:49", "rate", {"rating": 3.0})],
    ),
    "yambda": (
        b"",
        [("yambda_user_10", "yambda_track_6928395", "1970-07-04T08:50:55", "listen", {"is_organic": "true"})],
    ),
}


def source_of(name: str) -> Bytes | InMemory:
    if name != "yambda":
        return Bytes(PUBLISHED[name][0])
    table = pa.table(
        {
            "uid": pa.array([10], pa.uint32()),
            "timestamp": pa.array([15_929_455], pa.uint32()),
            "item_id": pa.array([6_928_395], pa.uint32()),
            "is_organic": pa.array([1], pa.uint8()),
            "played_ratio_pct": pa.array([100], pa.uint16()),
            "track_length_seconds": pa.array([200], pa.uint32()),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    return InMemory(file.getvalue())


@pytest.mark.parametrize("name", sorted(preset_names()))
def test_a_file_of_the_published_form_is_read(name: str) -> None:
    """Ids, times, events and own fields are what the publishers mean by them; nothing is refused."""
    chunks = chunks_of(open_reader(source_of(name), dataset_named(name)))
    assert not [chunk.rejects for chunk in chunks if chunk.rejects]
    rows = [row for chunk in chunks for row in chunk.columns.frame().to_dicts()]
    expected = PUBLISHED[name][1]
    assert len(rows) == len(expected)
    for row, (owner, item, time, event, own) in zip(rows, expected, strict=True):
        if not owner:  # about items
            assert row == {"video_id": str(uuid5(NAMESPACE, item)), **own}
            continue
        assert row["user_id"] == str(uuid5(NAMESPACE, owner))
        assert row["video_id"] == str(uuid5(NAMESPACE, item))
        assert row["timestamp"].startswith(time)
        assert row["event_type"] == event
        assert {name: row[name] for name in own} == own


@pytest.mark.parametrize(
    ("preset", "own", "header"),
    [("microlens-noheader", "microlens", b"user,item,timestamp\n"), ("movielens-100k", "movielens", b"userId\tmovieId\trating\ttimestamp\n")],
)  # fmt: skip
def test_without_a_header_the_records_are_the_same(preset: str, own: str, header: bytes) -> None:
    """Byte for byte those of the data set whose files have one."""
    data = PUBLISHED[preset][0] * 2 + (b"7,8,1583366400123\n" if preset.startswith("micro") else b"7\t8\t4.5\t1\n")
    (ours,) = chunks_of(open_reader(Bytes(data), dataset_named(preset)))
    (theirs,) = chunks_of(open_reader(Bytes(header + data), dataset_named(own)))
    assert ours.columns.frame().to_dicts() == theirs.columns.frame().to_dicts()


def test_the_list_of_data_sets(cli: Cli) -> None:
    """Each with its columns, sizes and page; as JSON a line each."""
    outcome = cli.here("datasets")
    assert outcome.code == 0
    assert "otto: OTTO sessions" in outcome.stdout
    assert "otto-recsys-train.jsonl 12,899,779 rows" in outcome.stdout
    found = {one["name"]: one for one in map(json.loads, cli.here("datasets", "--json").stdout.splitlines())}
    assert {*PUBLISHED, "microlens", "movielens"} <= found.keys()
    assert found["movielens-1m"]["columns"] == ["UserID", "MovieID", "Timestamp", "Rating"]
    assert all(one["homepage"].startswith("http") for name, one in found.items() if name in PUBLISHED)


def test_a_load_is_compared_with_what_was_published(cli: Cli) -> None:
    """Another number of rows is 65, and said with the numbers; none known, and a limit, too."""
    cli.file("u.data", b"196\t242\t3\t881250949\n" * 3)
    outcome = cli.here("run", "u.data", "--dataset", "movielens-100k", "--expect", "published")
    assert (outcome.code, "3 rows" in outcome.message, "u.data has 100,000" in outcome.message) == (65, True, True)
    cli.file("u.csv", b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3\t4\n")
    outcome = cli.here("run", "u.csv", "--dataset", "recbole", "--expect", "published")
    assert (outcome.code, "not known" in outcome.message) == (65, True)
    outcome = cli.here("run", "u.data", "--dataset", "movielens-100k", "--expect", "published", "--limit", "1")
    assert outcome.code == 2
    rows = b"".join(b"%d\t%d\t3\t88125%04d\n" % (n % 943, n // 943, n % 10000) for n in range(100_000))
    cli.file("whole.data", rows)
    outcome = cli.here("run", "whole.data", "--dataset", "movielens-100k", "--expect", "published")
    assert outcome.code == 0, outcome.stderr
    assert "as published, u.data" in outcome.stderr


def test_the_bytes_are_compared_where_they_are_known(cli: Cli) -> None:
    """A file with as many rows is not the published one, if its SHA-256 is another; compressed, it is the same."""
    rows = b"".join(b"%d\t%d\t%d\n" % (n, n % 7, n) for n in range(1, 1001))
    schema = (ROOT / "ingest_service" / "datasets" / "presets" / "microlens-likes-and-views.yaml").read_text()
    schema = schema.replace("19220", "1000")
    schema = re.sub("MicroLens-50k: [0-9a-f]{64}", f"MicroLens-50k: {hashlib.sha256(rows).hexdigest()}", schema)
    cli.file("own.yaml", schema)
    cli.file("same.txt.gz", gzip.compress(rows))
    cli.file("other.txt", rows.replace(b"\t5\t5\n", b"\t5\t6\n"))
    named = ("--dataset", "own.yaml", "--expect", "published")
    outcome = cli.here("run", "same.txt.gz", *named)
    assert (outcome.code, "MicroLens-50k byte for byte" in outcome.stderr) == (0, True), outcome.stderr
    outcome = cli.here("run", "other.txt", *named)
    assert (outcome.code, "its SHA-256 is another" in outcome.message) == (65, True)


@pytest.mark.parametrize(("file", "name"), [("ratings", "movielens"), ("tags", "movielens-tags"), ("links", "movielens-links")])  # fmt: skip
def test_a_real_file_is_as_published(cli: Cli, ml_latest_small: Path, file: str, name: str) -> None:
    """Those of ml-latest-small, by what their README says; cut off in the middle they are not."""
    whole = ml_latest_small / f"{file}.csv"
    outcome = cli.here("run", whole, "--dataset", name, "--expect", "published", "--max-rejects", "0")
    assert (outcome.code, "as published, ml-latest-small" in outcome.stderr + outcome.stdout) == (0, True), (
        outcome.stderr
    )
    lines = whole.read_bytes().splitlines(keepends=True)
    cli.file("half.csv", b"".join(lines[: len(lines) // 2]))
    outcome = cli.here("run", "half.csv", "--dataset", name, "--expect", "published")
    assert (outcome.code, "was published with others" in outcome.message) == (65, True)


def test_a_wrong_name_is_told_the_right_ones(cli: Cli, tmp_path: Path) -> None:
    """Presets among them; and no name leads out of their folder."""
    cli.file("u.data", b"1\t2\t3\t4\n")
    for name in ("movielens-5m", "../presets/otto", "*"):
        outcome = cli.here("run", "u.data", "--dataset", name)
        assert (outcome.code, "movielens-1m" in outcome.message) == (78, True)


ROW = re.compile(r"\| `(ingest-service run (\S+) --dataset (\S+))` \|")


def test_the_page_has_a_command_for_each(cli: Cli) -> None:
    """And each of them runs on a file of the published form."""
    commands = ROW.findall((ROOT / "docs" / "DATASETS.md").read_text())
    assert sorted(name for _, _, name in commands) == sorted(preset_names())
    for command, file, name in commands:
        source = source_of(name)
        cli.file(file, source.data)
        outcome = cli.here(*command.split()[1:], "--restart", "--to", f"sqlite:///{name}.db", "--json")
        assert outcome.code == 0, outcome.stderr
        (sink,) = outcome.report["sources"][0]["sinks"].values()
        assert sink["written"] == len(PUBLISHED[name][1])
