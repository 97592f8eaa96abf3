"""`mesh inspect`: questions to the nodes, in Celery's layout. Who does not answer is named."""

from __future__ import annotations

from typing import Any, Final

import click

from mesh.control import Inspect

from . import asking, exit_codes, text
from .errors import Failed, say
from .help import CONTEXT, examples
from .options import json_option, names, timeout_option
from .state import State

#: {question: what it tells}. Each is a method of `Inspect`.
QUESTIONS: Final = {
    "active": "the tasks that run now",
    "ping": "who is there",
    "registered": "the tasks that each node can run",
}


def known_question(text: str) -> str:
    """The question, or the nearest to it in the error."""
    if text in QUESTIONS:
        return text
    import difflib

    near = difflib.get_close_matches(text, QUESTIONS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise click.UsageError(f"No such question {text!r}.{hint} There are {', '.join(QUESTIONS)}.")


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh -A proj inspect active", "what runs now, with its arguments"),
        ("mesh inspect ping -d mesh@a,mesh@b", "whether these two answer"),
        ("mesh inspect registered --json", "for a program: {node: [task, ...]}"),
    ),
)
@click.argument("question", type=known_question, metavar="QUESTION")
@click.option("-d", "--destination", metavar="A,B", type=names, help="Ask only these nodes.")
@timeout_option
@json_option
@click.pass_obj
def command(state: State, *, question: str, destination: tuple[str, ...] | None, timeout: float, json_out: bool) -> int:
    """Ask the nodes what they do.

    \b
    QUESTION is one of
      active      the tasks that run now
      ping        who is there
      registered  the tasks that each node can run

    It starts nothing. The exit code is 69 where no node answers. One that does not is named on stderr, with the reason.
    """
    with asking.control(state, timeout) as control:
        inspect = control.inspect(list(destination) if destination else None, timeout)
        values = getattr(inspect, question)() or {}
    click.echo(text.as_json(values) if json_out else "\n".join(lines(values, state.quiet)))
    _name_the_missing(inspect)
    if values:
        return exit_codes.OK
    if inspect.missing:
        return exit_codes.UNAVAILABLE
    raise Failed('the mesh has no nodes. Start one with "mesh -A APP worker".', exit_codes.UNAVAILABLE)


def lines(values: dict[str, Any], quiet: bool) -> list[str]:
    """The answers for people, as Celery lays them out. Quiet: without the count of nodes."""
    parts = []
    for node, value in values.items():
        parts += [text.node_line(node, "OK", good=True), text.body(value)]
    return parts if quiet else [*parts, text.online(len(values))]


def _name_the_missing(inspect: Inspect) -> None:
    for node, reason in inspect.missing.items():
        say(f"{node} did not answer: {reason}")
