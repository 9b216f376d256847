"""What the command-line parser refuses, as errors with words of the catalogue."""

from __future__ import annotations

from enum import Enum

import typer

from kezek.errors import UsageFaultError


def fault_of(error: typer.TyperException) -> UsageFaultError:
    """The error of this client that a parser's error stands for; each names the command whose help has more."""
    context = getattr(error, "ctx", None)
    command = "kezek" if context is None else str(context.command_path)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return UsageFaultError("usage.no_such_option", name=_option(error), command=command)
    if kind == "BadOptionUsage":
        return UsageFaultError("usage.needs_value", name=_option(error), command=command)
    param = getattr(error, "param", None)
    if not isinstance(error, typer.BadParameter) or param is None:
        return UsageFaultError("usage.not_understood", command=command)
    name = _name(param)
    if kind == "MissingParameter":
        return UsageFaultError("usage.missing", name=name, command=command)
    return _bad_value(name, param, command)


def _bad_value(name: str, param: object, command: str) -> UsageFaultError:
    """A value that an option or argument cannot take, by what it takes."""
    taken = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if isinstance(taken, type) and issubclass(taken, Enum):
        listed = ", ".join(str(choice.value) for choice in taken)
        return UsageFaultError("usage.choice", name=name, choices=listed, command=command)
    least, most = _bound(param, "min"), _bound(param, "max")
    if least is not None and most is not None:
        return UsageFaultError("usage.range", name=name, least=least, most=most, command=command)
    if least is not None:
        return UsageFaultError("usage.at_least", name=name, least=least, command=command)
    return UsageFaultError("usage.bad_value", name=name, command=command)


def _option(error: object) -> str:
    return str(getattr(error, "option_name", ""))


def _name(param: object) -> str:
    """How the user knows a parameter: the long option, or the argument's name in the help."""
    options = [name for name in getattr(param, "opts", ()) if name.startswith("-")]
    if options:
        return str(max(options, key=len))
    return str(getattr(param, "metavar", None) or getattr(param, "name", ""))


def _bound(param: object, which: str) -> int | None:
    found = getattr(param, which, None)
    return found if isinstance(found, int) else None
