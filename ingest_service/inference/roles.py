"""What columns are for: by their names, and by what they hold."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ingest_service.errors import ConfigurationError
from ingest_service.inference.names import NAMES, is_event, rank
from ingest_service.inference.profile import Profile

_SURE = 45.0  # the rank of a name from which on it is a usual one
_OWNER_ID = re.compile(r"(?:user|usr|u)[-_:]?[0-9]+|A[0-9A-Z]{9,20}|AE[0-9A-Z]{20,30}", re.IGNORECASE)
_ITEM_ID = re.compile(r"(?:item|movie|video|track|song|news|[invmp])[-_:]?[0-9]+|B0[0-9A-Z]{8}|[0-9]{9}[0-9X]")
_LONGEST_ID = 128
_WHAT: Final = {
    "owner": "of users (integers, UUIDs or texts)",
    "item": "of items (integers, UUIDs or texts)",
    "time": "a time (like an epoch, 2020-03-05T10:00:00Z or 2020-03-05), or in the schema x-time for all",
}


@dataclass(frozen=True, slots=True)
class Roles:
    """`by_role` has owner, item and time at least. `doubts` by column say what is not sure."""

    by_role: dict[str, Profile]
    doubts: dict[int, str]  # by the column's id()
    score: float
    rest: list[Profile] = field(default_factory=list)


def roles_of(profiles: Sequence[Profile]) -> Roles:
    """The roles that fit best, with the records in a list of the row or not. ConfigurationError if one is not there."""
    lists = list(dict.fromkeys(one.column.each for one in profiles if one.column.each))
    found: list[Roles] = []
    lacks: list[ConfigurationError] = []
    for each in ((), *lists):
        reached = [one for one in profiles if one.column.each in ((), each)]
        try:
            found.append(_assigned(reached))
        except ConfigurationError as error:
            lacks.append(error)
    if not found:
        raise lacks[-1] if len(lacks) == 2 else lacks[0]
    return max(found, key=lambda roles: roles.score)


def _assigned(profiles: Sequence[Profile]) -> Roles:
    roles = Roles({}, {}, 0.0)
    total = 0.0
    for role, score in (("time", _time_score), ("owner", _owner_score), ("item", _item_score)):
        taken = [id(one) for one in roles.by_role.values()]
        scores = [(score(one), one) for one in profiles if id(one) not in taken]
        fitting = [(points, one) for points, one in scores if points > 0]
        if not fitting:
            raise ConfigurationError(_lacking(role, profiles))
        points, best = max(fitting, key=lambda pair: (pair[0], role == "item" and len(pair[1].different)))
        roles.by_role[role] = best
        total += points
        rivals = [one for more, one in fitting if one is not best and more >= points - 30]
        if best.time is not None and not best.time.is_day:
            rivals = [one for one in rivals if role != "time" or not (one.time and one.time.is_day)]
        doubt = _doubt(role, best, rivals)
        if doubt:
            roles.doubts[id(best.column)] = doubt
    clocks = [one for one in profiles if one.clock and one.column.each == roles.by_role["time"].column.each]
    if clocks and (day := roles.by_role["time"].time) is not None and day.type == "date":
        roles.by_role["clock"] = clocks[0]
    for role in ("event", "session", "device"):
        taken = [id(one) for one in roles.by_role.values()]
        further = [one for one in profiles if id(one) not in taken and _fits_as(role, one)]
        if further:
            roles.by_role[role] = max(further, key=lambda one: rank(_name(one), role))
    taken = [id(one) for one in roles.by_role.values()]
    rest = [one for one in profiles if id(one) not in taken]
    return Roles(roles.by_role, roles.doubts, total, rest)


def _name(profile: Profile) -> str:
    return profile.column.name


def _rank(profile: Profile, role: str) -> float:
    """By its own name, or with that of the object that has it: `id` in `user`."""
    own = rank(_name(profile), role)
    outer = " ".join(name.removesuffix("[]") for name in profile.column.path[-2:])
    return max(own, rank(outer, role) - 1 if len(profile.column.path) > 1 else 0)


def _missing_share(profile: Profile) -> float:
    return profile.n_missing / max(1, len(profile.column.texts))


def _time_score(profile: Profile) -> float:
    if profile.time is None:
        return 0
    named = _rank(profile, "time")
    if not named and max(_rank(profile, "owner"), _rank(profile, "item")) > _SURE:
        return 0
    many = min(len(profile.different), 5)  # a time that is always the same is hardly that of the events
    return 10 + named + many + (0 if profile.time.is_day else 10) - 40 * _missing_share(profile)


def _owner_score(profile: Profile) -> float:
    return _id_score(profile, "owner", _OWNER_ID, _ITEM_ID)


def _item_score(profile: Profile) -> float:
    return _id_score(profile, "item", _ITEM_ID, _OWNER_ID)


def _id_score(profile: Profile, role: str, own: re.Pattern[str], others: re.Pattern[str]) -> float:
    """Names first, then what ids look like; a column that has gaps, or few values, is hardly one of ids."""
    if profile.holds in ("nothing", "number") or _is_surely_a_time(profile):
        return 0
    named = _rank(profile, role)
    if not named and max(_rank(profile, other) for other in NAMES) > _SURE:
        return 0
    points = 40 + named
    lists = profile.items if role == "item" else None
    points += 4 if lists and lists.inner else 0
    points -= 8 if profile.has_blanks and not lists else 0
    points -= 8 if profile.width > _LONGEST_ID and not lists else 0
    points -= 12 + 20 * _missing_share(profile) if profile.n_missing else 0
    points -= 12 if profile.is_category and not (role == "owner" and profile.is_grouped) else 0
    points -= 60 if profile.is_row_number and not named else 0
    if profile.holds == "text":
        texts = profile.different[:200]
        matching = [sum(1 for text in texts if pattern.fullmatch(text)) for pattern in (own, others)]
        points += 15 * (matching[0] - matching[1]) / len(texts)
    return max(points, 1)


def _is_surely_a_time(profile: Profile) -> bool:
    return profile.time is not None and (profile.holds == "text" or _rank(profile, "time") > _SURE)


def _fits_as(role: str, profile: Profile) -> bool:
    if profile.holds in ("nothing", "number") or (len(profile.different) > 1 and not profile.is_category):
        return role == "session" and rank(_name(profile), role) > 0 and not profile.n_missing
    if role == "event" and profile.holds == "text":
        known = sum(map(is_event, profile.different))
        return known * 2 > len(profile.different) or rank(_name(profile), role) > 0
    return rank(_name(profile), role) > 0 and (role != "session" or not profile.n_missing)


def _doubt(role: str, profile: Profile, rivals: Sequence[Profile]) -> str:
    named = _rank(profile, role)
    doubts = []
    if not named:
        doubts.append(f"the {role} is told by what it holds and where it stands")
    elif named < _SURE + 6:
        doubts.append(f"the {role} is told by a part of its name")
    elif role == "owner" and rank(_name(profile), "session") > 0:
        doubts.append("no column names users, so a session is the owner")
    if role == "item" and profile.items:
        doubts.append("its values are lists of ids, of which each is a record of its own")
    elif role == "item" and profile.holds == "text" and profile.has_blanks:
        doubts.append("its values have blanks, as lists and names do; a record is about one item")
    names = [
        _name(one) for one in rivals if _name(one) and _rank(one, role) > _SURE and not rank(_name(one), "session")
    ]
    if names:
        doubts.append(f"the {role} could be {' or '.join(names[:3])} as well")
    if profile.n_missing:
        of = len(profile.column.texts)
        doubts.append(f"it is missing in {profile.n_missing:,} of {of:,} rows, which will be refused")
    if role == "time" and profile.time and profile.time.doubt:
        doubts.append(profile.time.doubt)
    return "; ".join(doubts)


def _lacking(role: str, profiles: Sequence[Profile]) -> str:
    if role == "time":
        named = next((_name(one) for one in profiles if _rank(one, role) > _SURE and one.holds != "nothing"), "")
        if named:
            return (
                f"The column {named!r} is named like a time and holds none that is known; it should be {_WHAT[role]}."
            )
    what = _WHAT[role] if role == "time" else f"ids {_WHAT[role]}"
    return f"The source has no column for the {role}; a record needs {what}."
