"""How errors reach the user: a line or two on stderr with the remedy, and an exit code. Tracebacks are for defects."""

from __future__ import annotations

import logging
import shlex
import traceback
from collections.abc import Callable, Sequence
from typing import Final

import click

from mesh.exceptions import (
    ImproperlyConfigured,
    InvalidCall,
    MeshError,
    RouterUnreachable,
    SettingsModuleNotFound,
    TaskModuleNotFound,
    UnserialisableArgument,
)

from . import exit_codes

logger = logging.getLogger("mesh")

#: {option of the group: it takes a value}. Behind a command they get a hint of their own: older Celery took them there.
_GLOBAL: Final = {
    "-A": True,
    "--app": True,
    "-b": True,
    "--broker": True,
    "--config": True,
    "--workdir": True,
    "-C": False,
    "--no-color": False,
    "-q": False,
    "--quiet": False,
}

#: Packages whose frames stand between the command line and the user's module.
_IMPORTERS: Final = frozenset({"importlib", "mesh", "mesh_cli"})

#: Of a process that has detached: hears errors, which go to its log instead of a stderr that nobody looks at.
listener: Callable[[str], None] | None = None


class Failed(Exception):
    """A command has failed: what to print, and the exit code."""

    def __init__(self, message: str, code: int = exit_codes.FAILURE) -> None:
        super().__init__(message)
        self.code = code


def say(message: str, trace: str = "", colour: bool | None = None) -> None:
    """Prints an error, behind the traceback of the user's own code where there is one.

    `colour`: False for none; None is for the current command line to decide, where there is one.
    """
    trace = f"{trace.rstrip()}\n" if trace else ""
    if listener is not None:
        logger.error("%s", trace + message, extra={"action": "failed"})
        listener(f"{trace}Error: {message}\n")
        return
    click.echo(f"{trace}{click.style('Error:', fg='red', bold=True)} {message}", err=True, color=colour)


def usage(error: click.ClickException, argv: Sequence[str], colour: bool | None) -> int:
    """Says what is wrong with the command line."""
    message = error.format_message().rstrip()
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and error.option_name in _GLOBAL and context is not None:
        say(f"{error.option_name} goes before the command. Write:\n  {_moved(argv, error.option_name)}", colour=colour)
        return exit_codes.USAGE
    hint = f'\nTry "{context.command_path} --help".' if context is not None else ""
    say(message + hint, colour=colour)
    return exit_codes.USAGE if isinstance(error, click.UsageError) else exit_codes.FAILURE


def of_mesh(error: MeshError, colour: bool | None) -> int:
    """Says what mesh refused or could not do."""
    say(str(error), _trace_of_the_app(error), colour)
    if isinstance(error, RouterUnreachable):
        return exit_codes.UNAVAILABLE
    if isinstance(error, ImproperlyConfigured | InvalidCall | UnserialisableArgument):
        return exit_codes.USAGE
    return exit_codes.FAILURE


def _trace_of_the_app(error: MeshError) -> str:
    """Where the user's module fails, when it does."""
    if not isinstance(error, TaskModuleNotFound | SettingsModuleNotFound):
        return ""
    trim(error)
    return "".join(traceback.format_exception(error.__cause__)) if error.__cause__ is not None else ""


def trim(error: MeshError) -> None:
    """Lets the traceback of the cause begin in the user's module; no cause is left where that does not even exist."""
    cause = error.__cause__
    if cause is None:
        return
    trace = cause.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _IMPORTERS:
        trace = trace.tb_next
    missing = trace is None and isinstance(cause, ModuleNotFoundError)
    error.__cause__ = None if missing else cause.with_traceback(trace)


def _moved(argv: Sequence[str], option: str) -> str:
    """The command line with a global option where it belongs."""
    rest = list(argv)
    for index, word in enumerate(rest):
        if word == option or word.startswith(f"{option}=" if option.startswith("--") else option):
            ends = index + (2 if word == option and _GLOBAL[option] else 1)
            moved = rest[index:ends]
            return shlex.join(["mesh", *moved, *rest[:index], *rest[ends:]])
    return shlex.join(["mesh", option, *rest])
