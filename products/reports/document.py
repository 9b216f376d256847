"""A report laid out in one language, before any format: headings, tables, charts. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal


@dataclass(frozen=True, slots=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; `warning` stands out, `small` is for notes."""

    text: str
    style: Literal["normal", "warning", "small"] = "normal"


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: its text, and the number behind it where a spreadsheet should have one."""

    text: str
    number: Decimal | None = None
    places: int = 0


@dataclass(frozen=True, slots=True)
class Column:
    """A column: title, width relative to its neighbours, and whether it is aligned as numbers are."""

    title: str
    width: int
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the last row is a total when `has_total`. `name` is short: a sheet's."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    has_total: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its label, the figure as text, and its length 0..1; None where there are no data."""

    label: str
    shown: str
    ratio: Decimal | None
    is_light: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of horizontal bars."""

    title: str
    bars: tuple[Bar, ...]

    @property
    def description(self) -> str:
        """The chart in words, for who cannot see it."""
        return f"{self.title}. " + "; ".join(f"{bar.label}: {bar.shown}" for bar in self.bars)


@dataclass(frozen=True, slots=True)
class Signatures:
    """Lines to sign on."""

    labels: tuple[str, ...]


Block = Heading | Paragraph | Table | Chart | Signatures


@dataclass(frozen=True, slots=True)
class Document:
    """A report in one language.

    Args:
        language: kk, ru or en.
        title: of the document.
        subtitle: period and as-of time, line by line.
        blocks: the body.
        footer: stands on each page; holds the digest.
        page: how pages are counted, with {page} and {pages}.
        is_landscape: whether its tables need the wide side.
    """

    language: str
    title: str
    subtitle: tuple[str, ...]
    blocks: tuple[Block, ...]
    footer: str
    page: str
    is_landscape: bool
