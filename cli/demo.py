"""`mesh demo`: a mesh for a few seconds, which takes a census of Python code. The README's first command."""

from __future__ import annotations

import os
import statistics
import sysconfig
import time
from typing import Any, Final, NamedTuple, TypeVar

import click

from mesh.exceptions import MeshError, RouterUnreachable, TimeoutError
from mesh.results import AsyncResult

from . import census, demo_text, errors, exit_codes
from .census import Row
from .demo_text import Findings, track
from .errors import Failed
from .help import CONTEXT, examples
from .interruption import Interruption
from .options import json_option
from .state import State
from .throwaway import ThrowAwayMesh, forget_settings

T = TypeVar("T")

#: Below the standard library, and no part of it.
_LEFT_OUT: Final = frozenset({"site-packages", "dist-packages"})
#: So many single calls make a steady median, in a tenth of a second.
_SINGLE_CALLS: Final = 200
_ASKED_MAX: Final = 10
#: How often a wait for a result looks whether any node is left, in seconds.
_LOOK_S: Final = 0.5


class Work(NamedTuple):
    """What is to be counted."""

    root: str  #: absolute
    files: list[str]  #: relative to it, sorted
    closed: list[str]  #: directories that can't be listed, absolute


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh demo", "a census of Python's standard library"),
        ("mesh demo --path ~/src/project", "of other code"),
        ("mesh demo --nodes 4 --concurrency 1", "on four nodes of one slot each"),
        ("mesh demo --json | jq .tasks_per_s", "for a program"),
    ),
)
@click.option("--nodes", metavar="N", type=click.IntRange(1, 100), default=2, show_default=True, help="Nodes to start.")
@click.option(
    "-c",
    "--concurrency",
    metavar="N",
    type=click.IntRange(1, 100),
    help="Slots of each node [default: the CPUs, shared out among the nodes].",
)
@click.option(
    "--path",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Count all .py files below DIR [default: Python's standard library].",
)
@json_option
@click.pass_obj
def command(state: State, *, nodes: int, concurrency: int | None, path: str | None, json_out: bool) -> int:
    """Show mesh at work, on a mesh of its own that is gone afterwards.

    It starts a router and some nodes in a directory of their own and takes a census of Python code: one task for each
    file, and a final one that reduces their rows to totals and a table. Then it takes the same census in one process,
    without the mesh, and compares. The exit code is 1 where the two differ.

    No other mesh is touched, and nothing is left behind, also after Ctrl-C.
    """
    forget_settings()
    work = _find_work(path)
    slots = concurrency or max(1, len(os.sched_getaffinity(0)) // nodes)
    with Interruption() as interruption, ThrowAwayMesh("mesh-demo") as mesh, census.app:
        state._replace(app=census.app, broker=mesh.url).apply_broker()
        begun_mono_s = time.monotonic()
        for number in range(1, nodes + 1):
            mesh.start_node(f"demo{number}", census.__name__, slots)
        with interruption.heard():
            try:
                findings = _find(mesh, work, nodes, slots, begun_mono_s, state.quiet)
            except MeshError as error:
                code = exit_codes.UNAVAILABLE if isinstance(error, RouterUnreachable) else exit_codes.FAILURE
                raise Failed(f"{error}{mesh.last_words()}", code) from error
            for fate in mesh.fates():
                errors.say(f"{fate}\nThe others did its tasks.")
            click.echo(demo_text.as_json(findings) if json_out else "\n".join(demo_text.report(findings)))
    if not (json_out or state.quiet):
        click.echo(demo_text.farewell())
    if findings.differing:
        raise Failed(demo_text.difference(findings))
    return exit_codes.OK


# --- what is counted -----------------------------------------------------------------------------


def _find_work(path: str | None) -> Work:
    """The .py files below a directory, or of the standard library.

    Raises:
        BadParameter: there is none.
    """
    root = path or os.path.realpath(sysconfig.get_path("stdlib"))
    left_out = frozenset() if path else _LEFT_OUT
    files, closed = [], []
    for directory, below, names in os.walk(root, onerror=lambda error: closed.append(str(error.filename))):
        below[:] = [name for name in below if name not in left_out]
        paths = (os.path.join(directory, name) for name in names if name.endswith(".py"))
        files += [os.path.relpath(path, root) for path in paths if _can_be_opened(path)]
    if not files:
        raise click.BadParameter(f"there is no .py file below {root}.", param_hint="--path")
    return Work(root, sorted(files), sorted(closed))


def _can_be_opened(path: str) -> bool:
    """Whether opening it returns or fails: that of a pipe would wait."""
    return os.path.isfile(path) or not os.path.exists(path)


# --- the census ----------------------------------------------------------------------------------


def _find(mesh: ThrowAwayMesh, work: Work, nodes: int, slots: int, begun_mono_s: float, quiet: bool) -> Findings:
    """Takes the census on the mesh, then without it."""
    mesh.await_nodes(census.app.control)
    start_s = time.monotonic() - begun_mono_s
    if not quiet:
        demo_text.announce(mesh.directory, work.root, len(work.files), nodes, slots, start_s)

    bulk_mono_s = time.monotonic()
    rows, active = _measure_all(mesh, work, quiet)
    bulk_s = time.monotonic() - bulk_mono_s
    totals = _value_of(census.total.delay(rows), mesh)
    mesh_s = time.monotonic() - bulk_mono_s
    median_s = _median_call_s(mesh)

    serial_mono_s = time.monotonic()
    serial_rows = [census.measure(work.root, file) for file in track(work.files, "in one process", quiet)]
    serial_totals = census.total(serial_rows)
    serial_s = time.monotonic() - serial_mono_s
    return Findings(
        path=work.root,
        nodes=nodes,
        concurrency=slots,
        totals=totals,
        closed=work.closed,
        active=active,
        start_s=start_s,
        mesh_s=mesh_s,
        serial_s=serial_s,
        tasks_per_s=len(rows) / bulk_s,
        median_call_s=median_s,
        calls=_SINGLE_CALLS,
        differing=_differing(rows, serial_rows, totals == serial_totals),
    )


def _measure_all(mesh: ThrowAwayMesh, work: Work, quiet: bool) -> tuple[list[Row], dict[str, Any]]:
    """The rows in the order of the files, and what was active when half of them were there."""
    results = [census.measure.delay(work.root, file) for file in work.files]
    rows: list[Row] = []
    active: dict[str, Any] = {}
    for result in track(results, "on the mesh", quiet):
        if len(rows) == len(results) // 2:
            active = _active()
        rows.append(_value_of(result, mesh))
    return rows, active


def _active() -> dict[str, Any]:
    """What every node runs now. Asks again where the question met one between two tasks, but not for ever."""
    active: dict[str, Any] = {}
    for _ in range(_ASKED_MAX):
        active = census.app.control.inspect().active() or {}
        if active and all(active.values()):
            break
    return active


def _median_call_s(mesh: ThrowAwayMesh) -> float:
    """From call to value, one call after the other: the nodes have nothing else to do."""
    spans_s = []
    for number in range(_SINGLE_CALLS):
        begun_mono_s = time.perf_counter()
        _value_of(census.echo.delay(number), mesh)
        spans_s.append(time.perf_counter() - begun_mono_s)
    return statistics.median(spans_s)


def _value_of(result: AsyncResult[T], mesh: ThrowAwayMesh) -> T:
    """Waits for a result for as long as there is a node. Raises Failed where none is left."""
    while True:
        try:
            return result.get(timeout=_LOOK_S)
        except TimeoutError:
            mesh.check()


def _differing(rows: list[Row], serial_rows: list[Row], same_totals: bool) -> list[str]:
    """The files that were counted differently; the totals themselves where nothing else explains that they differ."""
    files = [serial.file for row, serial in zip(rows, serial_rows, strict=True) if row != serial]
    return files or ([] if same_totals else ["the totals"])
