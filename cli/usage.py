"""What is said of a command line that can't be read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

from . import exit_codes
from .errors import say
from .words import GLOBAL_OPTIONS


def usage(error: click.ClickException, argv: Sequence[str]) -> int:
    """Says what is wrong with it. An option of the group behind a command gets a hint: older Celery took it there."""
    message = error.format_message().rstrip()
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and error.option_name in GLOBAL_OPTIONS and context is not None:
        say(f"{error.option_name} goes before the command. Write:\n  {_moved(argv, error.option_name)}")
        return exit_codes.USAGE
    hint = f'\nTry "{context.command_path} --help".' if context is not None else ""
    say(message + hint)
    return exit_codes.USAGE if isinstance(error, click.UsageError) else exit_codes.FAILURE


def _moved(argv: Sequence[str], option: str) -> str:
    """The command line with a global option where it belongs."""
    rest = list(argv)
    for index, word in enumerate(rest):
        if word == option or word.startswith(f"{option}=" if option.startswith("--") else option):
            ends = index + (2 if word == option and GLOBAL_OPTIONS[option] else 1)
            moved = rest[index:ends]
            return shlex.join(["mesh", *moved, *rest[:index], *rest[ends:]])
    return shlex.join(["mesh", option, *rest])
