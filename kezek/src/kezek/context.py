"""What every command of the command line shares: settings, language, terminal, client."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from kezek.client import Client
from kezek.messages import Messages, choose_language
from kezek.settings import read_settings
from kezek.terminal import Format, Terminal

Output = Annotated[
    Format,
    typer.Option("--output", "-o", help="table for people, json for scripts: the platform's own objects."),
]
JobNumber = Annotated[int, typer.Argument(min=1, metavar="JOB", help="Number of the job.")]


def messages() -> Messages:
    """Texts in the language that the environment asks for."""
    return Messages(choose_language(os.environ))


def terminal(output: Format) -> Terminal:
    """This process's standard streams."""
    return Terminal(messages(), output)


def connect() -> Client:
    """A client of the platform that the user signed in to.

    Raises:
        ConfigError: there is no address or no token.
    """
    settings = read_settings(os.environ)
    return Client(settings.url, settings.token, language=choose_language(os.environ))
