"""What a record is, declared once: its fields, whose it is, and what tells it from the owner's others.

A data set declares its schema, it travels with the columns, and sinks encode records and read them back by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property


class FieldKind(StrEnum):
    """What a field holds. All but free texts and lists need no escaping in JSON."""

    UUID = "uuid"  # as 36 characters
    TIME = "time"  # as the stored 27 characters, which sort as text
    WORD = "word"  # of letters, digits, dots, - or _
    TEXT = "text"
    LIST = "list"  # of texts, as JSON
    TRUTH = "truth"  # `true` or `false`
    DECIMAL = "decimal"  # a number with all its digits, as text
    INT = "int"
    FLOAT = "float"


ITEM_ID = "video_id"  # the owner of what is known of an item
_NUMBERS = (FieldKind.INT, FieldKind.FLOAT)
_FREE = (FieldKind.TEXT, FieldKind.LIST)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record, under the name by which every store has it."""

    name: str
    kind: FieldKind

    @property
    def is_number(self) -> bool:
        return self.kind in _NUMBERS

    @property
    def is_free(self) -> bool:
        """Whether it may hold any text."""
        return self.kind in _FREE


@dataclass(frozen=True)
class Schema:
    """The fields of a record in the order in which stores have them, texts before numbers.

    owner: the field that says whose the record is: by it a store is asked, and keeps the newest.
    key: the fields, texts, that tell an owner's records apart; the first is the time, so that keys sort by it. What is
    known of an item has none: it is one record.
    follows_from_key: whether records with equal keys have all else equal, in every file of the data set.
    """

    name: str
    fields: tuple[Field, ...]
    owner: str
    key: tuple[str, ...]
    follows_from_key: bool = False

    def extended(self, name: str, *fields: Field, key: Sequence[str] = (), follows_from_key: bool = False) -> "Schema":
        """This with more fields, some of which belong to the key."""
        texts = [field for field in (*self.fields, *fields) if not field.is_number]
        numbers = [field for field in (*self.fields, *fields) if field.is_number]
        return replace(
            self, name=name, fields=(*texts, *numbers), key=(*self.key, *key), follows_from_key=follows_from_key
        )

    def with_kind(self, kind: FieldKind, *names: str) -> "Schema":
        """This, with fields of these names being of another kind."""
        fields = (Field(one.name, kind) if one.name in names else one for one in self.fields)
        return replace(self, fields=tuple(fields))

    @property
    def is_about_items(self) -> bool:
        """Whether its records say something of an item, at no time; else they are somebody's interactions."""
        return self.owner == ITEM_ID

    @cached_property
    def texts(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields if not field.is_number)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields if field.is_number)

    @cached_property
    def described(self) -> tuple[Field, ...]:
        """All fields but the owner: what is said of one of his records."""
        return tuple(field for field in self.fields if field.name != self.owner)

    @cached_property
    def free_texts(self) -> frozenset[str]:
        """The fields that may hold any text."""
        return frozenset(field.name for field in self.fields if field.is_free)
