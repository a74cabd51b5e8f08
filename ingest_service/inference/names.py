"""Names that columns go by, as logs and data sets in use have them; the first of a role are the likeliest."""

import re
from typing import Final

_TYPE_OF_RECBOLE = re.compile(r":(token|token_seq|float|float_seq)$")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NO_LETTER = re.compile(r"[^a-z0-9]+")

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "owner": (
        "userid", "user", "uid", "reviewerid", "visitorid", "customerid", "memberid", "accountid", "clientid",
        "viewerid", "listenerid", "buyerid", "playerid", "personid", "profileid", "authorid", "msno", "steamid",
        "fullvisitorid", "customer", "member", "visitor", "reviewer", "listener", "player", "account", "client",
        "cookieid", "cookie", "deviceid", "sessionid", "session", "usersession",
    ),
    "item": (
        "itemid", "item", "videoid", "movieid", "asin", "parentasin", "productid", "articleid", "trackid", "songid",
        "bookid", "isbn", "businessid", "newsid", "contentid", "aid", "animeid", "gameid", "appid", "goodsid", "sku",
        "stockcode", "recipeid", "beerid", "placeid", "poiid", "venueid", "locationid", "listingid", "jobid", "adid",
        "docid", "documentid", "photoid", "postid", "tweetid", "repoid", "courseid", "hotelid", "artistid", "artid",
        "albumid", "video", "movie", "product", "article", "track", "song", "book", "business", "news", "content",
        "anime", "game", "recipe", "beer", "artist", "album", "url",
    ),
    "time": (
        "timestamp", "time", "ts", "eventtime", "datetime", "unixreviewtime", "unixtime", "eventtimestamp", "timems",
        "clicktime", "viewtime", "playedat", "listenedat", "ratedat", "reviewedat", "createdat", "createtime",
        "creationdate", "dateadded", "eventdate", "occurredat", "servertime", "tdat", "invoicedate", "orderdate",
        "reviewtime", "reviewdate", "submitted", "checkintime", "localtime", "utctime", "utc", "date", "day",
        "updatedat", "dateupdated",
    ),
    "event": (
        "event", "eventtype", "type", "action", "actiontype", "behavior", "behaviortype", "behaviour",
        "behaviourtype", "interaction", "interactiontype", "eventname", "activity", "activitytype",
    ),
    "session": ("sessionid", "session", "usersession", "sessid", "visitid"),
    "device": ("device", "devicetype", "devicecategory", "platform"),
    "rating": ("rating", "stars", "overall", "score", "rate", "ratings"),
}  # fmt: skip

_WORDS: Final[dict[str, frozenset[str]]] = {
    "owner": frozenset({
        "user", "reviewer", "visitor", "customer", "member", "account", "client", "viewer", "listener", "buyer",
        "player",
    }),
    "item": frozenset({
        "item", "video", "movie", "product", "article", "track", "song", "book", "business", "news", "game", "anime",
        "recipe", "asin",
    }),
    "time": frozenset({"time", "timestamp", "date", "datetime", "ts", "at"}),
}  # fmt: skip
_OTHER_WORDS: Final = frozenset({  # which make another thing of such a name: `user_age`
    "name", "title", "age", "gender", "sex", "country", "city", "state", "region", "location", "zip", "lang",
    "language", "count", "number", "num", "n", "avg", "mean", "rating", "score", "price", "type", "category", "genre",
    "level", "status", "active", "premium", "agent", "url", "text", "description", "zone", "length", "duration",
    "spent", "quantity",
})  # fmt: skip
_EVENTS: Final = frozenset({
    "view", "views", "pv", "click", "clicks", "cart", "carts", "addtocart", "addcart", "buy", "purchase", "purchases",
    "order", "orders", "transaction", "fav", "favorite", "like", "likes", "share", "shares", "play", "skip", "rate",
    "rating", "comment", "follow", "impression", "search", "save", "bookmark", "download",
})  # fmt: skip


def rank(name: str, role: str) -> float:
    """How much a name says for a role: 0 to 100."""
    squashed = _squashed(name)
    for one in (squashed, squashed.removesuffix("s")):
        if one in NAMES[role]:
            return 100 - NAMES[role].index(one) / 2
    words = frozenset(_NO_LETTER.split(_plain(name)))
    if not words & _WORDS.get(role, frozenset()) or words & (_OTHER_WORDS - _WORDS.get(role, frozenset())):
        return 0
    return 40 + 10 * ("id" in words)


def is_known(name: str) -> bool:
    return any(rank(name, role) for role in NAMES)


def is_event(word: str) -> bool:
    return _squashed(word) in _EVENTS


def without_type(name: str) -> str:
    """A name without the type that RecBole writes after it."""
    return _TYPE_OF_RECBOLE.sub("", name)


def _plain(name: str) -> str:
    return _HUMP.sub("_", without_type(name.strip())).lower()


def _squashed(name: str) -> str:
    return _NO_LETTER.sub("", _plain(name))
