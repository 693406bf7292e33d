"""Spelling: a path as tokens that compare alike however a framework writes it.

`layers.0`, `layers_0` and `layers/0` are one token `layers` with the number 0; `LayerNorm` and `layer_norm` are one stem.
What a wrapper adds (`module`, `_orig_mod`) is left out. Knows no model. Imports the keys alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Final, final

from stateregistry import keys

#: Segments that wrappers of modules put around a model, wherever they stand.
WRAPPERS: Final = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_module"})

_INNER = re.compile(
    r"(?P<stem>[^_].*?)_(?P<number>[0-9]{1,9})_(?P<rest>[^0-9].*)\Z"
    r"|(?P<word>[A-Za-z]{2,})(?P<count>[0-9]{1,9})_(?P<after>[^0-9].*)\Z"
)
_TRAILING = re.compile(r"(?P<stem>.*?)[_-]?(?P<number>[0-9]{1,9})\Z")
_LEADING = re.compile(r"(?P<number>[0-9]{1,9})_(?P<rest>[^0-9].*)\Z")
_ORDINAL: Final = {"first": 1, "second": 2, "third": 3, "fourth": 4}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@final
@dataclass(frozen=True, slots=True)
class Token:
    """One step of a path.

    Attributes:
        stem: lower case, without `_`; empty for a number that stands where a name is.
        number: the one that it ends in, or that follows as a step of its own.
        text: as it is written, for words.
        apart: the number is a step of its own (`layers/0`), so that the name is that of a list.
    """

    stem: str
    number: int | None = None
    text: str = ""
    apart: bool = False

    @property
    def same(self) -> tuple[str, int | None]:
        """What two spellings of one name have in common."""
        return self.stem, self.number

    @property
    def automatic(self) -> bool:
        """Whether Linen gave the name: a class, with how many of it were made before."""
        return self.number is not None and self.text[:1].isupper()

    @property
    def sort(self) -> tuple[str, int]:
        """An order of names, with numbers as numbers."""
        return self.stem, -1 if self.number is None else self.number


Tokens = tuple[Token, ...]


@lru_cache(maxsize=65536)
def _of_segment(segment: str) -> Tokens:
    found: list[Token] = []
    for place, text in enumerate(segment.split(".")):
        rest = text
        if place and (leading := _LEADING.match(rest)) is not None:  # `blocks.0_mixer` is `mixer` in `blocks/0`
            found.append(_token("", leading["number"]))
            rest = leading["rest"]
        while (match := _INNER.match(rest)) is not None:
            found.append(_token(match["stem"] or match["word"], match["number"] or match["count"]))
            rest = match["rest"] or match["after"]
        match = _TRAILING.match(rest)
        found.append(_ordinal(rest) if match is None else _token(match["stem"], match["number"]))
    return tuple(found)


def _ordinal(text: str) -> Token:
    """`first_norm` is `norm` with the number 1."""
    first, _, rest = text.partition("_")
    if first.lower() in _ORDINAL:
        return _token(rest, str(_ORDINAL[first.lower()]))
    return _token(text, None)


def _token(text: str, number: str | None) -> Token:
    return Token(text.replace("_", "").replace("-", "").lower(), None if number is None else int(number), text)


@lru_cache(maxsize=65536)
def tokens(path: str) -> Tokens:
    """The tokens of a path; none for the model itself."""
    found: list[Token] = []
    for segment in keys.split(path) if path else ():
        if segment in WRAPPERS:
            continue
        for token in _of_segment(segment):
            if not token.stem and found and found[-1].number is None and found[-1].stem:
                found[-1] = Token(found[-1].stem, token.number, found[-1].text, apart=True)
            else:
                found.append(token)
    return tuple(found)


@lru_cache(maxsize=65536)
def same(path: str) -> tuple[tuple[str, int | None], ...]:
    """What all spellings of a path have in common."""
    return tuple(token.same for token in tokens(path))


def stems(path: Iterable[Token]) -> tuple[str, ...]:
    """The names without numbers."""
    return tuple(token.stem for token in path)


def numbers(path: Iterable[Token]) -> tuple[int, ...]:
    """The numbers without names."""
    return tuple(token.number for token in path if token.number is not None)


def steps_of(numbers: Collection[int]) -> int:
    """In what steps some numbers are counted: of two of them nobody knows."""
    least = min(numbers)
    return gcd(*(number - least for number in numbers)) if len(numbers) > 2 else 1


@lru_cache(maxsize=65536)
def split_words(text: str) -> tuple[str, ...]:
    """`BertSelfAttention` and `bert_self_attention` as words, in lower case."""
    return tuple(word.lower() for word in _WORD.findall(text))
