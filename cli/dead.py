"""`mesh dead`: the tasks that were given up: listed, shown, run again, thrown away."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from mesh.dead_letters import DeadLetterInfo, DeadLetters

from . import asking, exit_codes, text
from .errors import Failed, say
from .help import CONTEXT, examples
from .options import json_option, timeout_option
from .state import State

ACTIONS: Final = ("list", "show", "replay", "purge")
#: {unit of an age: its name for timedelta}
_UNITS: Final = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHOWN_CAUSE_CHARS: Final = 60


def age_or_time(text: str) -> timedelta | str:
    """`2h` ago, or a time in ISO 8601, which the app's zone is applied to."""
    age = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text)
    if age is None:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise click.BadParameter(
                f"{text!r} is neither an age such as 30m, 2h or 7d nor a time in ISO 8601."
            ) from None
        return text
    unit = _UNITS.get(age[2])
    if unit is None:
        raise click.BadParameter(f"{text!r} has no unit of time: write s, m, h, d or w, as in 2h.")
    return timedelta(**{unit: float(age[1])})


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh dead list", "all of them"),
        ("mesh dead list --task proj.mail --since 2h", "of one task, given up in the last two hours"),
        ("mesh dead show 2fc7910e-e9f1-8859-b53c-380000000001", "its history and arguments"),
        ("mesh dead replay 2fc7910e-e9f1-8859-b53c-380000000001", "run it once more"),
        ("mesh dead replay --cause 'unknown task' --yes", "run again what a node did not know, now that it does"),
        ("mesh dead purge --until 30d", "throw away what is older than a month; it asks first"),
        ("mesh dead list --json | jq -r .letters[].id", "for a program"),
    ),
)
@click.argument("action", type=click.Choice(ACTIONS), metavar="ACTION")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--task", metavar="NAME", help="Those of this task.")
@click.option("--cause", metavar="TEXT", help="Those with this cause, or with this text in its description.")
@click.option(
    "--since", metavar="AGE|TIME", type=age_or_time, help="Given up since then: 2h ago, or a time (ISO 8601)."
)
@click.option("--until", metavar="AGE|TIME", type=age_or_time, help="Given up until then.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("-y", "--yes", is_flag=True, help="Replay or purge without asking.")
@timeout_option
@json_option
@click.pass_obj
def command(
    state: State,
    /,
    *,
    action: str,
    ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    timeout: float,
    json_out: bool,
    **chosen: Any,
) -> int:
    """See what was given up, and run it again or throw it away.

    \b
    ACTION is one of
      list    a line for each, the latest last
      show    the history of each, with its arguments
      replay  run them once more, under their ids and with fresh budgets
      purge   throw them away for good

    IDs and options say which are meant: those for which all of it holds. All but list want to be told. Replay and purge
    by anything but ids ask first, and where nobody can be asked they need --yes. The exit code is 1 where an id is no
    dead letter's, or one can't be replayed.
    """
    said = bool(ids) or any(value is not None for value in chosen.values())
    if everything and said:
        raise click.UsageError("--all goes with no ID and no other choice.", click.get_current_context())
    if not (said or everything or action == "list"):
        raise click.UsageError(
            f"Say what to {action}: IDs, --task, --cause, --since, --until, or --all.", click.get_current_context()
        )
    with asking.control(state, timeout) as control:
        letters = control.dead_letters(ids or None, timeout=timeout, **chosen)
        if action in ("list", "show"):
            return _tell(letters, json_out, at_length=action == "show")
        if not (yes or ids):
            until = chosen["until"] or datetime.now(UTC)  # what comes while we ask is not meant
            letters = control.dead_letters(timeout=timeout, **{**chosen, "until": until})
            _confirm(action, letters.count())
        return _replay(letters, json_out) if action == "replay" else _purge(letters, json_out)


# --- list and show -------------------------------------------------------------------------------


def _tell(letters: DeadLetters, json_out: bool, *, at_length: bool) -> int:
    found = letters.list()
    if json_out:
        click.echo(text.as_json({"total": found.total, "crowded_out": found.crowded_out, "letters": found.letters}))
    elif found.letters:
        click.echo("\n".join(shown(found.letters) if at_length else listed(found.letters, time.time())))
    elif not found.unknown:
        click.echo("no dead letters")
    if len(found.letters) < found.total:
        say(f"only the latest {len(found.letters)} of {found.total} are shown; choose by --task, --since or --until")
    if found.crowded_out:
        say(f"{found.crowded_out} older ones had to go: see dead_letters_max and dead_letters_max_bytes")
    return _name_the_unknown(found.unknown)


def listed(letters: Iterable[DeadLetterInfo], now_s: float) -> list[str]:
    """A table of them."""
    rows = [["id", "task", "given up", "runs", "why"]]
    for one in letters:
        age = f"{text.span(max(0.0, now_s - one['time_died']))} ago"
        rows.append([one["id"], one["name"], age, str(one["attempts"]), _short(one)])
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows]


def _short(letter: DeadLetterInfo) -> str:
    """The cause in its word, and the last thing that happened where that says more."""
    last = letter["causes"][-1] if letter["causes"] else letter["reason"]
    why = letter["cause"] if last == letter["cause"] else f"{letter['cause']}: {last}"
    return why if len(why) <= _SHOWN_CAUSE_CHARS else f"{why[: _SHOWN_CAUSE_CHARS - 1]}…"


def shown(letters: Iterable[DeadLetterInfo]) -> list[str]:
    """All that is known of each, in a paragraph."""
    paragraphs = []
    for one in letters:
        died = datetime.fromtimestamp(one["time_died"]).astimezone().isoformat(" ", "seconds")
        lines = [
            click.style(one["id"], bold=True),
            f"    task      {one['name']}",
            f"    queue     {one['queue']}, priority {one['priority']}",
            f"    given up  {died}, after {_counted(one['attempts'], 'run')}",
            f"    cause     {one['cause']}: {one['reason']}"
            if one["reason"] != one["cause"]
            else f"    cause     {one['cause']}",
            *_history(one["causes"]),
            f"    args      {_arguments(one, 'args')}",
            f"    kwargs    {_arguments(one, 'kwargs')}",
        ]
        lines += [f"    headers   {one['headers']!r}"] if one["headers"] else []
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs).splitlines()


def _history(causes: list[str]) -> list[str]:
    return [f"    {'history' if not at else '':<9} {at + 1}. {cause}" for at, cause in enumerate(causes)]


def _arguments(letter: DeadLetterInfo, which: str) -> str:
    value = letter[which]  # type: ignore[literal-required]
    if value is not None:
        return repr(value)
    return f"not shown ({text.size(letter['body_bytes'])}; too large, or of types not known here)"


# --- replay and purge ----------------------------------------------------------------------------


def _confirm(action: str, count: int) -> None:
    """Asks whether it is meant. Raises Failed where nobody can be asked."""
    if not count:
        return
    what = f"{action} {_counted(count, 'dead letter')}"
    if not sys.stdin.isatty():
        raise Failed(f"this would {what}; say --yes to do so", exit_codes.USAGE)
    click.confirm(f"{what[0].upper()}{what[1:]}?", abort=True, err=True)


def _replay(letters: DeadLetters, json_out: bool) -> int:
    done = letters.replay()
    if json_out:
        click.echo(text.as_json({"replayed": done.total, "left": done.left, "unknown": done.unknown}))
    else:
        click.echo(f"{_counted(done.total, 'task')} will run again")
    for one in done.left:
        say(f"{one} can't be replayed: its arguments are lost, or it runs already")
    return _name_the_unknown(done.unknown) or (exit_codes.FAILURE if done.left else exit_codes.OK)


def _purge(letters: DeadLetters, json_out: bool) -> int:
    done = letters.purge()
    if json_out:
        click.echo(text.as_json({"purged": done.total, "unknown": done.unknown}))
    else:
        click.echo(f"{_counted(done.total, 'dead letter')} thrown away")
    return _name_the_unknown(done.unknown)


def _name_the_unknown(ids: list[str]) -> int:
    for one in ids:
        say(f'no dead letter has the id {one}; "mesh dead list" shows those there are')
    return exit_codes.FAILURE if ids else exit_codes.OK


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
