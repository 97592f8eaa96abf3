"""`mesh call`: a task by its name, from the shell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mesh.exceptions import MeshError
from mesh.settings import DURABILITIES
from mesh.states import SUCCESS

from . import exit_codes, text
from .errors import Failed
from .help import CONTEXT, examples
from .options import json_option
from .state import State

if TYPE_CHECKING:
    from mesh.app import Mesh
    from mesh.results import AsyncResult

T = TypeVar("T")


def json_array(text: str) -> list[Any]:
    """Positional arguments."""
    return _json(text, list, "array", "'[2, 2]'")


def json_object(text: str) -> dict[str, Any]:
    """Keyword arguments."""
    return _json(text, dict, "object", "'{\"x\": 2}'")


def _json(text: str, kind: type[T], name: str, example: str) -> T:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no JSON ({error}). Give an {name} such as {example}.") from None
    if not isinstance(value, kind):
        raise click.BadParameter(f"{text!r} is no JSON {name}. Give one such as {example}.")
    return value


def seconds_or_time(text: str) -> float | str:
    """Seconds from now, or a time in ISO 8601, which the app reads."""
    try:
        return float(text)
    except ValueError:
        return text


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh -A proj call proj.tasks.add -a '[2, 2]'", "prints the id of the call"),
        ("mesh -A proj call proj.tasks.add -a '[2, 2]' --wait", "prints the value"),
        ('mesh call proj.tasks.mail -k \'{"to": "a@b.c"}\' --countdown 60', "by name alone, in a minute"),
    ),
)
@click.argument("name")
@click.option("-a", "--args", metavar="JSON", type=json_array, default="[]", help="Positional arguments.")
@click.option("-k", "--kwargs", metavar="JSON", type=json_object, default="{}", help="Keyword arguments.")
@click.option("--queue", help="Queue to put it in [default: the app's task_default_queue].")
@click.option("--countdown", type=float, help="Begin in this many seconds at the earliest.")
@click.option("--eta", metavar="TIME", help="Begin at this time at the earliest (ISO 8601).")
@click.option(
    "--expires", metavar="S|TIME", type=seconds_or_time, help="Do not begin after this many seconds, or this time."
)
@click.option("--priority", type=click.IntRange(0, 9), help="0 to 9; higher goes first.")
@click.option("--durability", type=click.Choice(DURABILITIES), help="What the call is to survive once it is confirmed.")
@click.option("--task-id", metavar="ID", help="An id of your own.")
@click.option("--wait", is_flag=True, help="Wait for the value and print it.")
@click.option("--timeout", metavar="S", type=click.FloatRange(min=0), help="With --wait: seconds to wait at most.")
@json_option
@click.pass_obj
def command(
    state: State,
    /,
    *,
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
    wait: bool,
    timeout: float | None,
    json_out: bool,
    **options: Any,
) -> int:
    """Call a task by its name.

    Prints the id of the call once the router has confirmed it. With --wait it prints the value, and the exit code is 1
    where the task failed. An app is not needed; with one, its settings hold and its types can be sent and read.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait.", click.get_current_context())
    with _app(state) as app:
        given = {option: value for option, value in options.items() if value is not None}
        result = app.send_task(name, args, kwargs, confirm=True, **given)
        if wait:
            return _wait(result, timeout, json_out)
        click.echo(text.as_json({"id": result.id}) if json_out else result.id)
    return exit_codes.OK


def _app(state: State) -> Mesh:
    from mesh.app import Mesh

    app = state.find_app() or Mesh("mesh", set_as_current=False)
    app.conf.task_always_eager = False  # whoever types the command means the mesh
    return app


def _wait(result: AsyncResult[Any], timeout: float | None, json_out: bool) -> int:
    value = result.get(timeout=timeout, propagate=False)
    state = result.state
    failed = state != SUCCESS
    if json_out:
        shown = {"id": result.id, "state": state, "result": None if failed else value}
        click.echo(text.as_json({**shown, "error": _named(value)} if failed else shown))
    elif not failed:
        click.echo(value if isinstance(value, str) else repr(value))
    if failed:
        raise Failed(f"task {result.id} ended as {state}: {_named(value)}")
    return exit_codes.OK


def _named(error: BaseException) -> str:
    """The exception in one line, without the remote traceback that its text ends with."""
    first = str(error.args[0] if error.args else "").splitlines()
    kind = type(error).__name__ if isinstance(error, MeshError) else type(error).__qualname__
    return f"{kind}: {first[0]}" if first else kind
