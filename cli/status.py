"""`mesh status`: the router's own view, in one answer."""

from __future__ import annotations

from typing import Any

import click

from . import asking, exit_codes, text
from .errors import say
from .help import CONTEXT, examples
from .options import json_option, timeout_option
from .state import State


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh status", "the router, the nodes, the queues"),
        ("mesh -b mesh://lab status", "of another mesh"),
        ("mesh status --json | jq .queues", "for a program"),
    ),
)
@timeout_option
@json_option
@click.pass_obj
def command(state: State, *, timeout: float, json_out: bool) -> int:
    """Show the router, the nodes and the queues.

    It starts nothing. The exit code is 69 where no router answers or no node is there: it can be a health check.
    """
    with asking.control(state, timeout) as control:
        values = control.status(timeout)
    if json_out:
        click.echo(text.as_json(values))
    else:
        click.echo("\n".join(_lines(values, state.quiet)))
    if values["nodes"]:
        return exit_codes.OK
    say(f'no node runs in mesh {values["router"]["mesh"]!r}. Start one with "mesh -A APP worker".')
    return exit_codes.UNAVAILABLE


def _lines(values: dict[str, Any], quiet: bool) -> list[str]:
    parts = [_router(values["router"]), [line for node in values["nodes"] for line in _node(node)]]
    if values["queues"]:
        parts.append(_queues(values["queues"]))
    lines = "\n\n".join("\n".join(part) for part in parts if part).splitlines()
    return lines if quiet else [*lines, text.online(len(values["nodes"]))]


def _router(router: dict[str, Any]) -> list[str]:
    tasks = ", ".join(f"{number} {phase}" for phase, number in router["tasks"].items())
    others = max(0, router["clients"] - 1)  # this command is one itself
    clients = "1 client" if others == 1 else f"{others} clients"
    return [
        f"mesh {router['mesh']} in {router['directory']}",
        f"router {router['version']}, pid {router['pid']}, up {text.span(router['uptime_s'])}, {clients}",
        f"tasks: {tasks}",
    ]


def _node(node: dict[str, Any]) -> list[str]:
    busy = sum(slot["state"] == "busy" for slot in node["slots"])
    queues = ", ".join(node["queues"] or ())
    facts = f"pid {node['pid']}, {busy} of {len(node['slots'])} slots busy, queues: {queues}"
    return [text.node_line(node["name"], "OK", good=True), f"    {facts}"]


def _queues(queues: list[dict[str, Any]]) -> list[str]:
    rows = [["queue", "ready", "waiting", "slots"]]
    rows += [[queue["name"], *(str(queue[field]) for field in ("depth", "waiting", "consumers"))] for queue in queues]
    return text.table(rows)
