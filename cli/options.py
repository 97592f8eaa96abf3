"""Options that several commands have, under Celery's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mesh import logs

Function = TypeVar("Function", bound=Callable[..., Any])

timeout_option = click.option(
    "-t",
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default="1.0",
    help="Seconds to wait for answers at most; it ends as soon as all are there.",
)
json_option = click.option("-j", "--json", "json_out", is_flag=True, help="Print JSON and nothing else.")


def loglevel_option(default: str) -> Callable[[Function], Function]:
    """What is logged."""
    return click.option(
        "-l",
        "-L",
        "--loglevel",
        metavar="LEVEL",
        type=click.Choice(list(logs.LEVELS), case_sensitive=False),
        default=default,
        show_default=True,
        help="Log from this level up: debug, info, warning, error, critical.",
    )


def names(text: str) -> tuple[str, ...]:
    """The names between commas, in their order, each once."""
    return tuple(dict.fromkeys(name for name in (part.strip() for part in text.split(",")) if name))
