"""The only module that writes: tables and colours in a terminal, tab-separated lines in a pipe, or JSON."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kezek.errors import (
    ApiError,
    ConfigError,
    DigestMismatchError,
    KezekError,
    NetworkError,
    ProtocolError,
    UsageFaultError,
)
from kezek.exits import Exit
from kezek.messages import Messages

_UNSAFE: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that steer a terminal or turn text around: what another user wrote must not."""
_UNSAFE_IN_JSON: Final = re.compile("[\x7f-\x9f]")
_SIZES: Final = frozenset({"size", "limit"})


class Format(StrEnum):
    """How a command shows its result."""

    TABLE = "table"
    JSON = "json"


def clean(text: str) -> str:
    """The text without characters that steer a terminal, in one line."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\n", " ").replace("\t", " "))


Cell = str | tuple[str, str]
"""A text, or a text and the rich style it has in a terminal."""


class Terminal:
    """Where a command shows its result (standard output) and what it says beside it (standard error)."""

    def __init__(self, messages: Messages, output: Format) -> None:
        """Write to this process's standard streams."""
        self.messages: Final = messages
        self.output: Final = output
        self._out: Final = Console(highlight=False, markup=False, emoji=False)
        self.notes: Final = Console(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def is_json(self) -> bool:
        """Whether the result is to be JSON."""
        return self.output is Format.JSON

    @property
    def is_live(self) -> bool:
        """Whether progress may be drawn and redrawn."""
        return self.notes.is_terminal and not self.notes.is_dumb_terminal

    def json(self, value: object) -> None:
        """Write the platform's own objects."""
        text = json.dumps(value, ensure_ascii=False, indent=2)
        self._write(_UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found.group()):04x}", text) + "\n")

    def line(self, text: str) -> None:
        """Write a line of the result."""
        self._write(clean(text) + "\n")

    def note(self, text: str) -> None:
        """Say something beside the result."""
        sys.stderr.write(clean(text) + "\n")
        sys.stderr.flush()

    def raw(self, data: bytes) -> None:
        """Write a job's own output as it is."""
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            _end_quietly()

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[Cell]], title: str | None = None) -> None:
        """Write rows under their heads, each named by its key of section "head"."""
        names = [self.messages.say(f"head.{head}") for head in heads]
        if not self._out.is_terminal:
            self._write("".join(map(_line, (names, *rows))))
            return
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        for name in names:
            shown.add_column(name, overflow="fold")
        for row in rows:
            shown.add_row(*(_styled(cell) for cell in row))
        self._out.print(shown)

    def record(self, pairs: Iterable[tuple[str, Cell]]) -> None:
        """Write one thing, a line for each of its fields, named by its key of section "head"."""
        named = [(self.messages.say(f"head.{head}"), cell) for head, cell in pairs]
        if not self._out.is_terminal:
            self._write("".join(map(_line, named)))
            return
        shown = Table.grid(padding=(0, 2))
        for name, cell in named:
            shown.add_row(Text(name, style="bold"), _styled(cell))
        self._out.print(shown)

    def failure(self, error: KezekError) -> None:
        """Say what went wrong and what to do about it."""
        for text in explain(error, self.messages):
            self.note(text)

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            _end_quietly()


def _line(row: Sequence[Cell]) -> str:
    """One row as tab-separated text."""
    return "\t".join(clean(_plain(cell)) for cell in row) + "\n"


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _styled(cell: Cell) -> Text:
    return Text(clean(cell)) if isinstance(cell, str) else Text(clean(cell[0]), style=cell[1])


def explain(error: KezekError, messages: Messages) -> list[str]:
    """The lines that tell a person what happened, to what, and what to do next."""
    if isinstance(error, ApiError):
        return _explain_refusal(error, messages)
    if isinstance(error, ConfigError):
        return [messages.say(error.key, **error.values)]
    if isinstance(error, UsageFaultError):
        values = {
            name: messages.size(value)
            if name in _SIZES and isinstance(value, int) and error.key in _IN_BYTES
            else value
            for name, value in error.values.items()
        }
        return [messages.say(error.key, **values)]
    if isinstance(error, NetworkError):
        return [messages.say("failure.network", url=error.url, why=error.why)]
    if isinstance(error, DigestMismatchError):
        named = {"path": error.path, "found": error.found, "expected": error.expected}
        return [messages.say("failure.digest", **named)]
    what = error.what if isinstance(error, ProtocolError) else str(error)
    return [messages.say("failure.protocol", what=what)]


_IN_BYTES: Final = frozenset({"bundle.too_large", "bundle.unpacks_too_large"})


def _explain_refusal(error: ApiError, messages: Messages) -> list[str]:
    lines = [error.title or error.code]
    if messages.knows_reason(error.code, error.numbers):
        lines.append(messages.reason(error.code, error.numbers))
    elif error.detail:
        lines.append(error.detail)
    lines += [f"{one.where}: {one.detail}" for one in error.errors if one.detail not in error.detail]
    hint = messages.hint(error.code)
    if hint is not None:
        lines.append(hint)
    lines.append(f"{messages.say('failure.code')}: {error.code} ({error.status})")
    return lines


def _end_quietly() -> NoReturn:
    """End the process: whoever read its output stopped reading, and nothing more may be written there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(Exit.PIPE_CLOSED)
