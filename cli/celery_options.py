"""Options of Celery's worker that have no counterpart: taken where one gets the same without them, else refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


class CeleryOption(NamedTuple):
    """One option, as the docs list it."""

    names: tuple[str, ...]
    why: str  #: it is taken without effect; or what to do instead
    is_refused: bool = False
    kind: Any = None  #: type of its value; None for a flag


_TEXT: Final = click.STRING

OPTIONS: Final = (
    CeleryOption(("-E", "--events", "--task-events"), "events need not be switched on"),
    CeleryOption(
        ("-O",),
        "slots get work as they can begin it, which is what `fair` means",
        kind=click.Choice(["default", "fair"]),
    ),
    CeleryOption(
        ("--prefetch-multiplier",), "a slot holds about 2 ms of work, and what waits is taken back", kind=click.INT
    ),
    CeleryOption(("--disable-prefetch",), "nothing waits behind a task that takes long"),
    CeleryOption(("--without-gossip",), "nodes do not talk to each other"),
    CeleryOption(("--without-mingle",), "nodes do not wait for each other when they start"),
    CeleryOption(("--without-heartbeat",), "there are none: the kernel tells the router who dies"),
    CeleryOption(("--heartbeat-interval",), "there are none: the kernel tells the router who dies", kind=click.FLOAT),
    CeleryOption(("-S", "--statedb"), "the router's journal remembers what was revoked", kind=_TEXT),
    CeleryOption(
        ("--purge", "--discard"),
        'a node that starts throws nothing away. Revoke calls by their ids ("mesh control revoke ID"), or give them '
        "an expires",
        is_refused=True,
    ),
    CeleryOption(("-B", "--beat"), 'there is no beat yet. Let cron run "mesh call NAME" meanwhile', is_refused=True),
    CeleryOption(
        ("-s", "--schedule"), 'there is no beat yet. Let cron run "mesh call NAME" meanwhile', True, kind=_TEXT
    ),
    CeleryOption(("--scheduler",), 'there is no beat yet. Let cron run "mesh call NAME" meanwhile', True, kind=_TEXT),
)


def celery_options(command: Function) -> Function:
    """Takes or refuses them. `--help` does not list them; the docs do."""
    for option in OPTIONS:
        command = _declared(option)(command)
    return command


def _declared(option: CeleryOption) -> Callable[[Function], Function]:
    def look(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if option.is_refused and value:
            raise click.UsageError(f"{option.names[-1]} is not available: {option.why}.")

    return click.option(
        *option.names,
        f"celery{option.names[-1].replace('-', '_')}",
        is_flag=option.kind is None,
        type=option.kind,
        hidden=True,
        expose_value=False,
        callback=look,
    )
