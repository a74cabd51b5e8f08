"""Files as data sets in use have them, with rows made up; and what is to be found of each."""

from uuid import UUID

import pyarrow as pa

from tests.inference.making import (
    N,
    Shape,
    asin,
    at,
    lines,
    moment,
    movielens,
    ms_parquet,
    parquet,
    reviewer,
    rng_rows,
    text,
)

EPOCH_S = ("integer", "s")
US = "%m/%d/%Y %I:%M:%S %p"
GOODREADS = "%a %b %d %H:%M:%S %z %Y"

SHAPES: dict[str, Shape] = {
    "MovieLens 1M": Shape(
        text("::", rng_rows(movielens)),
        {"owner": ("user", "integer"), "item": ("item", "integer"), "time": ("time", *EPOCH_S)},
        "ratings.dat",
        {"delimiter": "::", "header": False},
        frozenset({"rating"}),
        is_sure=False,
    ),
    "MovieLens 100K": Shape(
        text("\t", rng_rows(movielens)),
        {"owner": ("user", "integer"), "item": ("item", "integer"), "time": ("time", *EPOCH_S)},
        "u.data",
        {"delimiter": "\t", "header": False},
        frozenset({"rating"}),
        is_sure=False,
    ),
    "MovieLens CSV": Shape(
        text(
            ",", [[*row[:2], f"{row[2]}.0", row[3]] for row in rng_rows(movielens)], "userId,movieId,rating,timestamp"
        ),
        {"owner": ("userId", "integer"), "item": ("movieId", "integer"), "time": ("timestamp", *EPOCH_S)},
        "ratings.csv",
        {"delimiter": ",", "header": True, "x-event": "rate"},
        frozenset({"rating"}),
        ("order: by time",),
    ),
    "MovieLens tags": Shape(
        text(
            ",",
            rng_rows(
                lambda rng, n: [n // 20, n // 4, rng.choice(["funny", '"a, b"', "dark"]) + str(n % 4), at(n // 4)]
            ),
            "userId,movieId,tag,timestamp",
        )
        .replace(b'"0', b'0"')
        .replace(b'"1', b'1"')
        .replace(b'"2', b'2"')
        .replace(b'"3', b'3"'),
        {"owner": ("userId", "integer"), "item": ("movieId", "integer"), "time": ("timestamp", *EPOCH_S)},
        "tags.csv",
        kept=frozenset({"tag"}),
        said=("without x-key",),
        is_sure=False,
    ),
    "Amazon ratings": Shape(
        text(",", rng_rows(lambda rng, n: [reviewer(rng), asin(rng), "5.0", at(n)])),
        {"owner": ("user", "string"), "item": ("item", "string"), "time": ("time", *EPOCH_S)},
        "ratings_Books.csv",
        {"header": False},
        is_sure=False,
    ),
    "Amazon ratings of 2018": Shape(
        text(",", rng_rows(lambda rng, n: [asin(rng), reviewer(rng), f"{rng.randrange(1, 6)}.0", at(n)])),
        {"item": ("item", "string"), "owner": ("user", "string"), "time": ("time", *EPOCH_S)},
        "Books.csv",
        {"header": False},
        is_sure=False,
    ),
    "Amazon JSON Lines": Shape(
        lines(
            lambda rng, n: {
                "overall": 5.0,
                "verified": True,
                "reviewTime": f"{moment(n):%m %d, %Y}",
                "reviewerID": reviewer(rng),
                "asin": asin(rng),
                **({"style": {"Size:": " Large"}} if n % 3 else {}),
                "reviewText": "Good. " * 40,
                "unixReviewTime": at(n),
            }
        ),
        {"owner": ("reviewerID", "string"), "item": ("asin", "string"), "time": ("unixReviewTime", *EPOCH_S)},
        "Books_5.json",
        {"format": "jsonl", "x-event": "rate"},
        frozenset({"overall", "verified"}),
    ),
    "Amazon of 2023": Shape(
        lines(
            lambda rng, n: {
                "rating": 4.0,
                "title": "ok",
                "images": [{"small_image_url": "https://a/b"}] * (n % 3),
                "asin": asin(rng),
                "parent_asin": asin(rng),
                "user_id": "AE" + "".join(rng.choices("ABCDEFGH", k=26)),
                "timestamp": at(n) * 1000 + 7,
                "helpful_vote": n % 4,
                "verified_purchase": n % 2 == 0,
            }
        ),
        {"owner": ("user_id", "string"), "item": ("asin", "string"), "time": ("timestamp", "integer", "ms")},
        "Books.jsonl",
        {"format": "jsonl"},
        frozenset({"rating", "helpful_vote", "verified_purchase"}),
        ("parent_asin",),
        is_sure=False,
    ),
    "OTTO": Shape(
        lines(
            lambda rng, n: {
                "session": n,
                "events": [
                    {"aid": rng.randrange(1_800_000), "ts": at(n) * 1000 + k, "type": rng.choice(["clicks", "carts"])}
                    for k in range(3)
                ],
            }
        ),
        {
            "owner": ("session", "integer"),
            "item": ("aid", "integer"),
            "time": ("ts", "integer", "ms"),
            "event": ("type", "string"),
        },
        "otto.jsonl",
        {"format": "jsonl"},
        said=("a session is the owner",),
        records=3 * N,
        is_sure=False,
    ),
    "LastFM 1K": Shape(
        text(
            "\t",
            rng_rows(
                lambda rng, n: [
                    f"user_{n // 40:06}",
                    f"{moment(N - n):%Y-%m-%dT%H:%M:%SZ}",
                    "" if n % 9 == 0 else UUID(int=rng.randrange(40)),
                    f"Artist {rng.randrange(40)}",
                    "" if n % 5 == 0 else UUID(int=rng.randrange(1 << 60)),
                    '"Heroes" (live)' if n == 50 else f"Song number {rng.randrange(9000)}",
                ]
            ),
        ),
        {"owner": ("user", "string"), "item": ("item", "string"), "time": ("time", "datetime")},
        "userid-timestamp-artid-artname-traid-traname.tsv",
        {"delimiter": "\t", "header": False, "quoteChar": ""},
        said=("its values have blanks",),
        is_sure=False,
    ),
    "H&M": Shape(
        text(
            ",",
            rng_rows(
                lambda rng, n: [
                    f"{moment(n * 900):%Y-%m-%d}",
                    f"{rng.randrange(1 << 256):064x}",
                    f"0{rng.randrange(108775015, 956217002):09}",
                    f"0.0{rng.randrange(1000, 9999)}",
                    rng.choice("12"),
                ]
            ),
            "t_dat,customer_id,article_id,price,sales_channel_id",
        ),
        {"owner": ("customer_id", "string"), "item": ("article_id", "string"), "time": ("t_dat", "date")},
        "transactions_train.csv",
        kept=frozenset({"price", "sales_channel_id"}),
    ),
    "RetailRocket": Shape(
        text(
            ",",
            rng_rows(
                lambda rng, n: [
                    at(N - n) * 1000 + n,
                    rng.randrange(1_400_000),
                    "transaction" if n % 50 == 0 else rng.choice(["view", "addtocart"]),
                    rng.randrange(460_000),
                    n if n % 50 == 0 else "",
                ]
            ),
            "timestamp,visitorid,event,itemid,transactionid",
        ),
        {
            "time": ("timestamp", "integer", "ms"),
            "owner": ("visitorid", "integer"),
            "event": ("event", "string"),
            "item": ("itemid", "integer"),
        },
        "events.csv",
        said=("order: by time, backwards",),
    ),
    "RecBole": Shape(
        text("\t", rng_rows(movielens), "user_id:token\titem_id:token\trating:float\ttimestamp:float"),
        {
            "owner": ("user_id:token", "integer"),
            "item": ("item_id:token", "integer"),
            "time": ("timestamp:float", *EPOCH_S),
        },
        "ml-100k.inter",
        {"delimiter": "\t", "header": True},
        frozenset({"rating"}),
    ),
    "Goodreads": Shape(
        lines(
            lambda rng, n: {
                "user_id": f"{rng.randrange(1 << 128):032x}",
                "book_id": str(rng.randrange(1, 2_000_000)),
                "review_id": f"{rng.randrange(1 << 128):032x}",
                "rating": n % 6,
                "review_text": "Great. " * 30,
                "date_added": f"{moment(n):%a %b %d %H:%M:%S -0700 %Y}",
                "date_updated": f"{moment(n):%a %b %d %H:%M:%S -0700 %Y}",
                "read_at": "" if n % 2 else f"{moment(n):%a %b %d %H:%M:%S -0700 %Y}",
                "n_votes": n % 3,
            }
        ),
        {"owner": ("user_id", "string"), "item": ("book_id", "integer"), "time": ("date_added", "datetime", GOODREADS)},
        "goodreads_reviews.json",
        {"format": "jsonl"},
        frozenset({"rating", "n_votes", "review_id"}),
        is_sure=False,
    ),
    "Yelp": Shape(
        lines(
            lambda rng, n: {
                "review_id": "".join(rng.choices("abcdefghij-_XYZ", k=22)),
                "user_id": "".join(rng.choices("abcdefghij-_XYZ", k=22)),
                "business_id": "".join(rng.choices("abcdefghij-_XYZ", k=22)),
                "stars": 3.0,
                "useful": n % 4,
                "text": "Nice. " * 30,
                "date": f"{moment(n):%Y-%m-%d %H:%M:%S}",
            }
        ),
        {"owner": ("user_id", "string"), "item": ("business_id", "string"), "time": ("date", "datetime")},
        "yelp_academic_dataset_review.json",
        {"format": "jsonl"},
        frozenset({"stars", "useful", "review_id"}),
    ),
    "MIND": Shape(
        text(
            "\t",
            rng_rows(
                lambda rng, n: [
                    n + 1,
                    f"U{rng.randrange(90_000)}",
                    f"{moment(n * 60).month}/{moment(n * 60).day}/2019 {n % 12 + 1}:{n % 60:02}:58 AM",
                    " ".join(f"N{rng.randrange(60_000)}" for _ in range(n % 30)),
                    " ".join(f"N{rng.randrange(60_000)}-{k % 2}" for k in range(1, n % 20 + 2)),
                ]
            ),
        ),
        {"owner": ("user", "string"), "time": ("time", "datetime", US), "item": ("item", "string")},
        "behaviors.tsv",
        {"delimiter": "\t", "header": False},
        frozenset({"label"}),
        ("its values are lists of ids",),
        records=sum(n % 20 + 1 for n in range(N)),
        is_sure=False,
    ),
    "baskets": Shape(
        text(
            ",",
            rng_rows(
                lambda rng, n: [
                    f"{moment(n * 900):%d.%m.%Y}",
                    f"{n % 12 + 1}:{n % 60:02} PM",
                    f"C{n % 30}",
                    "|".join(str(rng.randrange(9000)) for _ in range(n % 4 + 1)),
                    n % 3 == 0,
                ]
            ),
            "Date,Clock,customer,products,is_new",
        ),
        {
            "time": ("Date", "date", "%d.%m.%Y"),
            "clock": ("Clock", "time"),
            "owner": ("customer", "string"),
            "item": ("item", "integer"),
        },
        "baskets.csv",
        kept=frozenset({"is_new"}),
        records=sum(n % 4 + 1 for n in range(N)),
        is_sure=False,
    ),
    "KuaiRec": Shape(
        text(
            ",",
            rng_rows(
                lambda rng, n: [
                    n // 30,
                    rng.randrange(10_000),
                    rng.randrange(60_000),
                    "" if n % 40 == 7 else f"{moment(n):%Y-%m-%d %H:%M:%S}.592",
                    "" if n % 40 == 7 else f"{moment(n):%Y%m%d}.0",
                    "" if n % 40 == 7 else f"{at(n)}.592",
                    rng.random(),
                ]
            ),
            "user_id,video_id,play_duration,time,date,timestamp,watch_ratio",
        ),
        {"owner": ("user_id", "integer"), "item": ("video_id", "integer"), "time": ("timestamp", "number", "s")},
        "small_matrix.csv",
        said=("missing in 10 of 400 rows", "bad_timestamp 10"),
        kept=frozenset({"play_duration", "watch_ratio"}),
        records=N - 10,
        is_sure=False,
    ),
    "UTF-16 from Excel": Shape(
        b"\xff\xfe"
        + text("\t", rng_rows(lambda rng, n: [f"Zoë {n}", n * 7, f"{moment(n):%d.%m.%Y %H:%M}"]), "Kunde\tsku\tDatum")
        .decode()
        .replace("\n", "\r\n")
        .encode("utf-16-le"),
        {"owner": ("Kunde", "string"), "item": ("sku", "integer"), "time": ("Datum", "datetime", "%d.%m.%Y %H:%M")},
        "export.txt",
        {"encoding": "utf-16", "delimiter": "\t"},
        is_sure=False,
    ),
    "UTF-16 without a mark": Shape(
        text(",", rng_rows(movielens), "user,item,rating,timestamp").decode().encode("utf-16-be"),
        {"owner": ("user", "integer"), "item": ("item", "integer"), "time": ("timestamp", *EPOCH_S)},
        keys={"encoding": "utf-16-be"},
        is_sure=False,
    ),
    "Windows-1252": Shape(
        text(
            ";",
            rng_rows(lambda rng, n: [f"café{n % 50}", n * 7, f"{n % 5},5", f"{moment(n * 900):%d/%m/%Y}"]),
            "user;item;note;date",
        )
        .decode()
        .encode("windows-1252"),
        {"owner": ("user", "string"), "item": ("item", "integer"), "time": ("date", "date", "%d/%m/%Y")},
        keys={"encoding": "windows-1252", "delimiter": ";"},
        kept=frozenset({"note"}),
        is_sure=False,
    ),
    "Hive": Shape(
        text(
            "\x01",
            rng_rows(lambda rng, n: [UUID(int=rng.randrange(1 << 100)), n, f"{moment(n):%Y-%m-%d %H:%M:%S UTC}"]),
        ),
        {
            "owner": ("user", "string"),
            "item": ("item", "integer"),
            "time": ("time", "datetime", "%Y-%m-%d %H:%M:%S UTC"),
        },
        "000000_0",
        {"delimiter": "\x01", "header": False},
        is_sure=False,
    ),
    "Taobao": Shape(
        text(
            ",",
            rng_rows(
                lambda rng, n: [
                    n // 40 + 1,
                    rng.randrange(5_000_000),
                    rng.randrange(900),
                    rng.choice(["pv", "buy"]),
                    at(n),
                ]
            ),
        ),
        {
            "owner": ("user", "integer"),
            "item": ("item", "integer"),
            "event": ("event", "string"),
            "time": ("time", *EPOCH_S),
        },
        "UserBehavior.csv",
        {"header": False},
        is_sure=False,
    ),
    "missing values": Shape(
        text(
            "|",
            rng_rows(
                lambda rng, n: [n % 30, n, at(n) * 1_000_000, "NA" if n % 4 else 2.5, r"\N" if n % 3 else "Rome", "NA"]
            ),
            "uid|product|ts|weight|city|Country",
        ),
        {"owner": ("uid", "integer"), "item": ("product", "integer"), "time": ("ts", "integer", "us")},
        keys={"delimiter": "|", "missingValues": ["", "NA", r"\N"]},
        kept=frozenset({"Country"}),
        said=(),
    ),
    "a separator line": Shape(
        b"sep=;\r\n" + text(";", rng_rows(movielens), "user;item;rating;timestamp").replace(b"\n", b"\r\n"),
        {"owner": ("user", "integer"), "item": ("item", "integer"), "time": ("timestamp", *EPOCH_S)},
        keys={"delimiter": ";"},
        kept=frozenset({"rating"}),
    ),
    "a title before the header": Shape(
        text(",", rng_rows(movielens), "Export of ratings\r\n2020-03-05, by hand\r\n\r\nuser,item,rating,timestamp"),
        {"owner": ("user", "integer"), "item": ("item", "integer"), "time": ("timestamp", *EPOCH_S)},
        keys={"delimiter": ",", "header": True, "x-skipLines": 3},
        kept=frozenset({"rating"}),
    ),
    "a title before rows": Shape(
        text("\t", rng_rows(movielens), "Export of ratings"),
        {"owner": ("user", "integer"), "item": ("item", "integer"), "time": ("time", *EPOCH_S)},
        keys={"delimiter": "\t", "header": False, "x-skipLines": 1},
        is_sure=False,
    ),
    "a header that is a comment": Shape(
        text(",", rng_rows(movielens), "# written by a script\n# user,item,rating,timestamp"),
        {"owner": ("user", "integer"), "item": ("item", "integer"), "time": ("timestamp", *EPOCH_S)},
        keys={"delimiter": ",", "header": True},
        kept=frozenset({"rating"}),
    ),
    "row names of R": Shape(
        text(",", [[str(n + 1), *row] for n, row in enumerate(rng_rows(movielens))], "user,item,rating,timestamp"),
        {"owner": ("user", "integer"), "item": ("item", "integer"), "time": ("timestamp", *EPOCH_S)},
        keys={"delimiter": ",", "header": False, "x-skipLines": 1},
        is_sure=False,
    ),
    "an index of pandas": Shape(
        text(",", [[str(n), *row] for n, row in enumerate(rng_rows(movielens))], ",user,item,rating,timestamp"),
        {"owner": ("user", "integer"), "item": ("item", "integer"), "time": ("timestamp", *EPOCH_S)},
        keys={"delimiter": ",", "header": True},
    ),
    "Parquet": Shape(
        parquet(ms_parquet(price=[1.5] * N, brand=["a", None] * (N // 2))),
        {"owner": ("customer_id", "integer"), "item": ("product_id", "integer"), "time": ("event_time", "datetime")},
        "events.parquet",
        {"format": "parquet"},
        frozenset({"price", "brand"}),
    ),
    "Parquet with a list": Shape(
        parquet(
            pa.table(
                {
                    "session": list(range(N)),
                    "user": [{"id": f"u{n % 9}", "name": "x y"} for n in range(N)],
                    "events": [
                        [{"item_id": n, "ts": at(n) * 1000}, {"item_id": n + 1, "ts": at(n) * 1000}] for n in range(N)
                    ],
                }
            ),
            row_group_size=100,
        ),
        {"owner": ("id", "string"), "item": ("item_id", "integer"), "time": ("ts", "integer", "ms")},
        "sessions.parquet",
        {"format": "parquet"},
        records=2 * N,
    ),
    "items of a list": Shape(
        lines(lambda rng, n: {"user": n % 7, "at": f"{moment(n):%Y-%m-%dT%H:%M:%S+01:00}", "items": [n, n + 1]}),
        {"owner": ("user", "integer"), "item": ("items", "integer"), "time": ("at", "datetime")},
        "baskets.jsonl",
        {"format": "jsonl"},
        records=2 * N,
        is_sure=False,
    ),
    "names that are hard": Shape(
        lines(
            lambda rng, n: {
                "user.id": n % 7,
                "Item": {"ID": n},
                "time stamp": at(n),
                "a: {b} #'\"": n,
                "A: {B} #'\"": n,
                "timestamp_2": "x",
                "event_key": "y",
                "_id": "z",
                "yes": 1,
                "ünï": "q\u2028",
                "": 3,
            }
        ),
        {"owner": ("user.id", "integer"), "item": ("ID", "integer"), "time": ("time stamp", *EPOCH_S)},
        "hard names!.jsonl",
        {"format": "jsonl", "name": "hard-names"},
    ),
}
