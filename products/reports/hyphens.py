"""Places where a long word may break: typesetters know no Kazakh, and an unbroken word leaves its cell. Pure."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

SOFT_HYPHEN: Final = "\u00ad"
ZERO_WIDTH_SPACE: Final = "\u200b"

LEAST_LETTERS: Final = 7
"""A shorter word fits any column of the reports [letters]."""

LEAST_PART: Final = 2
"""Letters that stay on either side of a break [letters]."""

LONGEST_RUN: Final = 12
"""Latin letters and digits in a row, as of an identifier, before a break without a hyphen [characters]."""

_VOWELS: Final = frozenset("аәеёиоөуұүыіэюяАӘЕЁИОӨУҰҮЫІЭЮЯ")
_SIGNS: Final = frozenset("ьъЬЪ")  # they stay with the letter before them
_WORD: Final = re.compile(rf"[а-яёәғқңөұүһіА-ЯЁӘҒҚҢӨҰҮҺІ]{{{LEAST_LETTERS},}}")  # noqa: RUF001 - Cyrillic
_RUN: Final = re.compile(rf"[A-Za-z0-9_]{{{LONGEST_RUN + 1},}}")


def breakable(text: str) -> str:
    """The text with invisible marks where its long words may break.

    Every syllable has one vowel, and a consonant before a vowel begins its syllable: that is the rule of Kazakh,
    and breaks Russian words in permitted places but for a few prefixes.
    """
    marked = _WORD.sub(lambda match: _syllables(match.group()), text)
    return _RUN.sub(
        lambda match: ZERO_WIDTH_SPACE.join(re.findall(f".{{1,{LONGEST_RUN}}}", match.group())), marked
    )


def _syllables(word: str) -> str:
    vowels = [place for place, letter in enumerate(word) if letter in _VOWELS]
    breaks = []
    for before, vowel in pairwise(vowels):
        place = vowel if vowel - before == 1 else vowel - 1
        while place < vowel and word[place] in _SIGNS:
            place += 1
        if LEAST_PART <= place <= len(word) - LEAST_PART:
            breaks.append(place)
    parts = [
        word[start:end] for start, end in zip([0, *breaks], [*breaks, len(word)], strict=True) if start < end
    ]
    return SOFT_HYPHEN.join(parts)
