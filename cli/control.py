"""`mesh control`: commands that change what the mesh does."""

from __future__ import annotations

from typing import Final

import click

from . import asking, exit_codes, text
from .help import CONTEXT, examples
from .options import json_option, timeout_option
from .state import State

ACTIONS: Final = ("revoke",)
#: {what became of a call: how it is told}
_FATES: Final = {
    "revoked": "revoked: it will not run",
    "recalled": "taken back from its slot, unless it has begun there",
    "ended": "has ended already",
    "unknown": "is not known here",
}


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh control revoke 2fc7910e-e9f1-8859-b53c-380000000001", "it will not run, unless it has begun"),
        ("mesh control revoke order-17 order-18 --json", "ids of your own; {id: what became of it}"),
    ),
)
@click.argument("action", type=click.Choice(ACTIONS), metavar="ACTION")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@timeout_option
@json_option
@click.pass_obj
def command(state: State, *, action: str, ids: tuple[str, ...], timeout: float, json_out: bool) -> int:
    """Change what the mesh does: revoke calls.

    \b
    ACTION is one of
      revoke  end calls that have not begun; their callers get TaskRevokedError

    What runs runs on. The exit code is 1 where an id is not known.
    """
    with asking.control(state, timeout) as control:
        fates = control.revoke(ids, timeout=timeout)
    click.echo(text.as_json(fates) if json_out else "\n".join(f"{one} {_FATES[fate]}" for one, fate in fates.items()))
    return exit_codes.FAILURE if "unknown" in fates.values() else exit_codes.OK
