"""The command line `kezek`: its commands, and the edge where errors become messages and exit codes."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Annotated

import typer

from kezek import (
    context,
    job_commands,
    localisation_commands,
    planning_commands,
    platform_commands,
    product_commands,
    register_commands,
    telemetry_commands,
)
from kezek.client import VERSION, Client
from kezek.context import Output
from kezek.errors import ConfigError, KezekError, UsageFaultError
from kezek.exits import Exit, exit_of
from kezek.messages import choose_language
from kezek.settings import (
    TOKEN_VARIABLE,
    URL_VARIABLE,
    Settings,
    checked_url,
    is_loopback,
    read_settings,
    write_settings,
)
from kezek.terminal import Format, Terminal
from kezek.usage import fault_of

app = typer.Typer(
    name="kezek",
    help="Client of the Kezek compute platform. Documentation: docs/cli.md",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command(cls=job_commands.ArgumentsCommand)(job_commands.submit)
app.command()(job_commands.jobs)
app.command()(job_commands.job)
app.command()(job_commands.logs)
app.command()(job_commands.cancel)
app.command()(planning_commands.why)
app.command()(planning_commands.moved)
app.command()(planning_commands.hold)
app.command()(planning_commands.release)
app.command()(platform_commands.quota)
app.command()(platform_commands.cluster)
app.command()(platform_commands.kpi)
app.command()(telemetry_commands.efficiency)
app.command()(telemetry_commands.notices)
app.command()(telemetry_commands.idle)
app.command()(telemetry_commands.use)
app.add_typer(planning_commands.acts, name="acts")
app.add_typer(planning_commands.windows, name="windows")
app.add_typer(planning_commands.nodes, name="nodes")
app.add_typer(product_commands.products, name="product")
app.add_typer(product_commands.products, name="products", hidden=True)  # as it was called at first
app.add_typer(product_commands.initiatives, name="initiative")
app.add_typer(platform_commands.outputs, name="outputs")
app.add_typer(localisation_commands.app, name="localisation")
app.add_typer(register_commands.app, name="registers")
app.add_typer(register_commands.reports, name="reports")


@app.command()
def login(
    *,
    url: Annotated[str | None, typer.Option(envvar=URL_VARIABLE, help="Address of the platform.")] = None,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read the token from standard input.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Check a token with the platform and keep it in your configuration, readable by you alone.

    The token is asked for without echo, or taken from KEZEK_TOKEN or standard input; never from the command line.
    """
    screen = context.terminal(output)
    if url is None:
        raise ConfigError("config.no_url")
    url = checked_url(url)
    token = _token(screen, is_stdin=token_stdin)
    if url.startswith("http:") and not is_loopback(url):
        screen.note(screen.messages.say("login.plain", url=url))
    with Client(url, token, language=choose_language(os.environ)) as client:
        me = client.me()
    path = write_settings(os.environ, Settings(url, token))
    if screen.is_json:
        screen.json(me.raw)
    else:
        screen.line(screen.messages.say("login.done", url=url, user=me.name, path=str(path)))


def _token(screen: Terminal, *, is_stdin: bool) -> str:
    """The token, from standard input, the environment or a hidden prompt."""
    if is_stdin:
        token = sys.stdin.readline().strip()
    elif os.environ.get(TOKEN_VARIABLE):
        token = os.environ[TOKEN_VARIABLE]
    elif sys.stdin.isatty():
        token = getpass.getpass(screen.messages.say("login.token_prompt")).strip()
    else:
        raise UsageFaultError("usage.no_terminal")
    if not token:
        raise UsageFaultError("usage.empty_token")
    return token


@app.command()
def version(*, output: Output = Format.TABLE) -> None:
    """Show the version of this client and the platform it is signed in to."""
    screen = context.terminal(output)
    try:
        url: str | None = read_settings(os.environ).url
    except ConfigError:
        url = None
    if screen.is_json:
        screen.json({"client": VERSION, "platform": url})
    else:
        screen.record([("client", VERSION), ("url", url or screen.messages.say("yesno.none"))])


def main() -> None:
    """Run the command line; ends the process with a code of `Exit`."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a Kazakh letter gets a question mark, not a traceback.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        sys.exit(app(prog_name="kezek", standalone_mode=False) or Exit.OK)
    except typer.Abort:
        sys.exit(Exit.INTERRUPTED)
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error.format_message()}\n")
        else:
            context.terminal(Format.TABLE).failure(fault_of(error))
        sys.exit(Exit.USAGE)
    except KezekError as error:
        context.terminal(Format.TABLE).failure(error)
        sys.exit(exit_of(error))
