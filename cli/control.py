"""`mesh control`: commands that change what the mesh does."""

from __future__ import annotations

import signal as signals
from typing import Final

import click

from mesh.celery_names import suggest

from . import asking, exit_codes, text
from .help import CONTEXT, examples
from .options import json_option, timeout_option
from .state import State

ACTIONS: Final = ("revoke", "terminate")
#: {what became of a call: how it is told}
_FATES: Final = {
    "revoked": "revoked: it will not run",
    "recalled": "taken back from its slot, unless it has begun there",
    "terminated": "terminated: it ran, and was ended",
    "terminating": "is being terminated",
    "ended": "has ended already",
    "unknown": "is not known here",
}


def is_signal(word: str) -> bool:
    """Whether this names a signal, as `terminate` takes it."""
    name = word.upper()
    return word.isdecimal() or (name if name.startswith("SIG") else f"SIG{name}") in signals.Signals.__members__


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh control revoke 2fc7910e-e9f1-8859-b53c-380000000001", "it will not run, unless it has begun"),
        ("mesh control revoke order-17 order-18 --json", "ids of your own; {id: what became of it}"),
        ("mesh control terminate order-17", "ends it though it runs"),
        ("mesh control terminate KILL order-17", "at once, without a moment to put things in order"),
    ),
)
@click.argument("action", type=click.Choice(ACTIONS), metavar="ACTION")
@click.argument("ids", nargs=-1, required=True, metavar="[SIGNAL] ID...")
@timeout_option
@json_option
@click.pass_obj
def command(state: State, *, action: str, ids: tuple[str, ...], timeout: float, json_out: bool) -> int:
    """Change what the mesh does: revoke calls.

    \b
    ACTION is one of
      revoke     end calls that have not begun; their callers get TaskRevokedError
      terminate  end calls that run, too; SIGNAL is TERM where none is given

    The exit code is 1 where an id is not known.
    """
    signal = ids[0] if action == "terminate" and is_signal(ids[0]) else None
    if action == "terminate" and signal is None and len(ids) > 1 and ids[0].isalpha() and ids[0].isupper():
        near = suggest(ids[0], [name.removeprefix("SIG") for name in signals.Signals.__members__])
        raise click.UsageError(f"{ids[0]} is no signal{f'. Did you mean {near}?' if near else '.'}")
    task_ids = ids if signal is None else ids[1:]
    if not task_ids:
        raise click.UsageError("name the calls to terminate by their ids.")
    with asking.control(state, timeout) as control:
        fates = control.revoke(task_ids, terminate=action == "terminate", signal=signal, timeout=timeout)
    click.echo(text.as_json(fates) if json_out else "\n".join(f"{one} {_FATES[fate]}" for one, fate in fates.items()))
    return exit_codes.FAILURE if "unknown" in fates.values() else exit_codes.OK
