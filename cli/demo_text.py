"""What `mesh demo` prints."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click

from . import inspect, text
from .census import UNREADABLE, Row, Totals

T = TypeVar("T")

#: Cells of a file's name in the table, so that a row fits in 80.
_NAME_CHARS: Final = 34
_BAR_CHARS: Final = 32
_COLUMNS: Final = ("lines", "functions", "classes", "imports", "nesting")
#: Of the tasks that are active, as many of each node are shown.
_ACTIVE_SHOWN: Final = 1
_DIFFERING_SHOWN: Final = 3


class Findings(NamedTuple):
    """All that the demo has found out. `--json` prints it."""

    path: str
    nodes: int
    concurrency: int  #: slots of each node
    totals: Totals
    closed: list[str]  #: directories that can't be listed
    active: dict[str, Any]  #: as `mesh inspect active --json`
    start_s: float  #: until all nodes were there, the router included
    mesh_s: float  #: the census on the mesh, with the final task
    serial_s: float  #: the census in one process, likewise
    tasks_per_s: float  #: without the final task
    median_call_s: float
    calls: int  #: that this is the median of
    differing: list[str]  #: the files that the two censuses count differently


def as_json(found: Findings) -> str:
    """One line, for programs."""
    totals = {**found.totals._asdict(), "top": [row._asdict() for row in found.totals.top]}
    more = {"totals": totals, "speedup": _speedup(found), "same": not found.differing}
    return text.as_json({**found._asdict(), **more})


# --- while it runs -------------------------------------------------------------------------------


def announce(directory: Path, root: str, files: int, nodes: int, slots: int, start_s: float) -> None:
    """What runs, and what comes; on stderr, like the progress."""
    click.echo(
        f"A mesh in {directory}, up in {start_s:.2f} s: 1 router, {_count(nodes, 'node')} of {_count(slots, 'slot')}.\n"
        f"A census of {_printable(root)}:\n{_count(files, 'file')} of Python, one task each.\n",
        err=True,
    )


def track(items: Sequence[T], label: str, quiet: bool) -> Iterator[T]:
    """The items one by one, with a bar on stderr; where that is no terminal, a line at each quarter."""
    label = f"  {label:<14}"
    if quiet:
        yield from items
    elif sys.stderr.isatty():
        with click.progressbar(items, label=label, file=sys.stderr, width=_BAR_CHARS, show_pos=True) as bar:
            yield from bar
    else:
        yield from _in_quarters(items, label)


def _in_quarters(items: Sequence[T], label: str) -> Iterator[T]:
    told = 0
    for done, item in enumerate(items, start=1):
        yield item
        if done * 4 // len(items) > told:
            told = done * 4 // len(items)
            click.echo(f"{label} {done} of {len(items)}", err=True)


# --- in the end ----------------------------------------------------------------------------------


def report(found: Findings) -> list[str]:
    """Everything, for people."""
    return [
        "",
        *_table(found.totals),
        *_remarks(found),
        "",
        'What "mesh inspect active" showed in the middle:',
        *inspect.lines(_first_of_each(found.active), quiet=True),
        "",
        *_figures(found),
    ]


def farewell() -> str:
    """The last words."""
    return f"\nAll stopped and cleaned up. See what else there is: {_program()} --help"


def difference(found: Findings) -> str:
    """The error where the check fails."""
    more = len(found.differing) - _DIFFERING_SHOWN
    shown = ", ".join(map(_printable, found.differing[:_DIFFERING_SHOWN])) + (f" and {more} more" if more > 0 else "")
    return f"the two censuses differ in {shown}. Where no file has changed meanwhile, this is a defect of mesh."


def _table(totals: Totals) -> list[str]:
    rows = [["file", *_COLUMNS]]
    rows += [[_shortened(row.file), *_numbers(row)] for row in totals.top]
    rows.append([f"all {totals.files:,}", *_numbers(totals)])
    head, *lines, last = text.table(rows)
    return [click.style(head, bold=True), *lines, "-" * len(head), click.style(last, bold=True)]


def _numbers(counted: Row | Totals) -> list[str]:
    return [f"{getattr(counted, column):,}" for column in _COLUMNS]


def _remarks(found: Findings) -> Iterator[str]:
    totals = found.totals
    yield f"The deepest nesting is in {_printable(totals.deepest)}."
    if totals.not_parsed:
        do = "does" if totals.not_parsed == 1 else "do"
        yield f"{_count(totals.not_parsed, 'file')} {do} not parse: of such, only the lines count."
    if totals.unreadable:
        yield f"{_count(totals.unreadable, 'file')} {UNREADABLE}."
    if found.closed:
        yield f"{_count(len(found.closed), 'folder')} can't be listed, such as {_printable(found.closed[0])}."


def _figures(found: Findings) -> list[str]:
    tasks = f"{found.tasks_per_s:,.0f} tasks/s on {_count(found.nodes * found.concurrency, 'slot')}"
    check = "DIFFERENT" if found.differing else "the same totals"
    return [
        f"on the mesh      {found.mesh_s:6.2f} s    {tasks}",
        f"in one process   {found.serial_s:6.2f} s    {click.style(check, fg='red' if found.differing else 'green')}",
        f"ratio            {_speedup(found):6.2f} ×    as fast on the mesh as in one process",
        f"median latency   {found.median_call_s * 1e3:6.2f} ms   from call to value, of {found.calls} single calls",
    ]


def _first_of_each(active: dict[str, Any]) -> dict[str, Any]:
    """Not more of each node's tasks than people read."""
    shown = {}
    for node, tasks in active.items():
        more = len(tasks) - _ACTIVE_SHOWN
        shown[node] = tasks[:_ACTIVE_SHOWN] + ([f"and {more} more"] if more > 0 else [])
    return shown


def _speedup(found: Findings) -> float:
    return found.serial_s / found.mesh_s


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _shortened(name: str) -> str:
    """The end of a long path tells more than its beginning."""
    shown = _printable(name)
    return shown if len(shown) <= _NAME_CHARS else "…" + shown[1 - _NAME_CHARS :]


def _printable(name: str) -> str:
    """A file may have any name: nothing of it reaches the terminal as a command, or fails to be encoded."""
    return "".join(char if char.isprintable() else "?" for char in name)


def _program() -> str:
    """This program as the user can call it: by its name where the shell finds it."""
    called = sys.argv[0]
    if os.path.basename(called) != "mesh":
        return "python -m mesh"
    return "mesh" if shutil.which("mesh") == called else os.path.relpath(called)
