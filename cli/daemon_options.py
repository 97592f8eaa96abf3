"""The options of what can go on in the background, under Celery's names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from mesh import logs

from .daemon import DaemonOptions
from .options import loglevel_option

Function = TypeVar("Function", bound=Callable[..., Any])


def octal(text: str) -> int:
    """A umask."""
    try:
        mask = int(text, 8)
    except ValueError:
        mask = -1
    if not 0 <= mask <= 0o777:
        raise click.BadParameter(f"{text!r} is no umask: give an octal number such as 027.")
    return mask


_OPTIONS: Final = (
    click.option(
        "-f",
        "--logfile",
        metavar="PATH",
        help="Log to this file and not to stderr; %n, %h, %d, %p, %i, %I are expanded.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(logs.FORMS),
        help="How to log [default: human on a terminal, else logfmt].",
    ),
    click.option("-D", "--detach", is_flag=True, help="Go on in the background, and return when it is ready."),
    click.option("--pidfile", metavar="PATH", help="Write the process id to this file, which must not be in use."),
    click.option("--uid", metavar="USER", help="Become this user first, a name or number. For root."),
    click.option("--gid", metavar="GROUP", help="Become a member of this group first, a name or number. For root."),
    click.option("--umask", metavar="OCTAL", type=octal, help="The permissions that new files do not get."),
)


def daemon_options(default_level: str) -> Callable[[Function], Callable[..., Any]]:
    """Declares the options, and gives the command all of them as one argument, `daemon`."""

    def declare(command: Function) -> Callable[..., Any]:
        @functools.wraps(command)
        def packed(*args: Any, **options: Any) -> Any:
            own = {name: options.pop(name) for name in DaemonOptions._fields}
            return command(*args, **options, daemon=DaemonOptions(**own))

        declared: Callable[..., Any] = packed
        for option in reversed((loglevel_option(default_level), *_OPTIONS)):
            declared = option(declared)
        return declared

    return declare
