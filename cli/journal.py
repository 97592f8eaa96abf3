"""`mesh journal`: what the router keeps on disk, checked, listed or compacted."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import click

from mesh import ids, journal_file, locate
from mesh.core.records import RowKind
from mesh.journal import unpacked
from mesh.journal_store import Store

from . import exit_codes, text
from .errors import Failed, say
from .help import CONTEXT, examples
from .options import json_option
from .state import State

ACTIONS: Final = ("check", "dump", "compact")
#: {kind of row: the fields of its items, as they are listed}
_FIELDS: Final[dict[int, tuple[str, ...]]] = {
    RowKind.TASKS: ("id", "name", "queue", "priority", "flags", "body", "n_frames", "options"),
    RowKind.CHANGED: (
        *("id", "name", "queue", "priority", "flags", "body", "frames", "options", "attempt", "crashes", "losses"),
        *("causes", "retry_reason", "begun", "revoked", "closed_mono_s"),
    ),
    RowKind.OUTCOMES: ("id", "status", "body", "frames", "stored_wall_s", "custom_id", "kept"),
    RowKind.NOTES: ("client", "gone"),
    RowKind.CALLERS: ("client", "pid", "seen", "gone"),
}
#: Bytes of a body that are shown.
_SHOWN_BYTES: Final = 16


class Journal(NamedTuple):
    """The journal of the mesh that the command line names."""

    place: locate.Place
    directory: str
    path: str


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh journal check", "is it sound, and how much is in it"),
        ("mesh -b mesh://lab journal check --json", "of another mesh, for a program"),
        ("mesh journal dump | grep proj.mail", "the tasks and outcomes of that name or queue"),
        ("mesh journal dump --json | jq -r .id", "one JSON object a line"),
        ("mesh journal compact", "give all unused space back; the router must not run"),
    ),
)
@click.argument("action", type=click.Choice(ACTIONS), metavar="ACTION")
@json_option
@click.pass_obj
def command(state: State, *, action: str, json_out: bool) -> int:
    """Look into what this host's router keeps on disk, or compact it.

    \b
    ACTION is one of
      check    read all of it; the exit code is 65 where anything is damaged
      dump     list what is in it, one item a line, the beginning of bodies only
      compact  make the file as small as can be, and drop rows that can't be read

    check and dump change nothing and may be used while the router runs. A row stays until all of its tasks have ended,
    so what is listed may be done already. A router mends a damaged journal by itself when it starts.
    """
    journal = _find(state)
    return {"check": _check, "dump": _dump, "compact": _compact}[action](journal, json_out)


def _find(state: State) -> Journal:
    place = locate.locate(state.settings().broker_url)
    directory = locate.state_directory(place)
    path = os.path.join(directory, journal_file.FILE_NAME)
    if not os.path.exists(path):
        raise Failed(
            f"mesh {place.mesh!r} has no journal at {path}: no router has written one there. "
            "Name another mesh with -b, as in mesh -b mesh://NAME journal check."
        )
    return Journal(place, directory, path)


@contextlib.contextmanager
def _reading(journal: Journal) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing; what is wrong becomes an error for people."""
    if not os.path.getsize(journal.path) + _log_bytes(journal.path):
        raise Failed(
            f"the journal {journal.path} is empty: no router has written to it yet, or what was in it is lost.",
            exit_codes.DAMAGED,
        )
    try:
        with contextlib.closing(journal_file.open_to_look(journal.path)) as db:
            yield db
    except journal_file.Damaged as error:
        raise Failed(
            f"the journal {journal.path} is damaged: {error}. "
            "The next router that starts saves what can be read and sets this file aside.",
            exit_codes.DAMAGED,
        ) from None
    except BrokenPipeError:
        raise  # whoever read this has had enough
    except (sqlite3.Error, OSError) as error:
        raise journal_file.unavailable(journal.path, error) from None


# --- check ---------------------------------------------------------------------------------------


def _check(journal: Journal, json_out: bool) -> int:
    with _reading(journal) as db:
        walk = journal_file.Walk(db)
        counts, not_understood = _counted(walk)
        facts = {
            "mesh": journal.place.mesh,
            "path": journal.path,
            "schema": journal_file.value(db, "PRAGMA user_version"),
            "file_bytes": os.path.getsize(journal.path),
            "unused_bytes": journal_file.value(db, "PRAGMA freelist_count") * journal_file.PAGE_BYTES,
            "log_bytes": _log_bytes(journal.path),
            "rows": counts,
            "damaged_rows": walk.wrong,
            "not_understood_rows": not_understood,
            "gaps": walk.gaps,
        }
    click.echo(text.as_json(facts) if json_out else "\n".join(_report(facts)))
    bad = len(walk.wrong) + len(not_understood) + walk.gaps
    if bad:
        say(
            f"{bad} of its rows can't be read; a router leaves them out. "
            'Drop them with "mesh journal compact" when you need not look into them.'
        )
    return exit_codes.DAMAGED if bad else exit_codes.OK


def _counted(walk: journal_file.Walk) -> tuple[dict[str, dict[str, int]], list[int]]:
    """{kind: how many rows, items and bytes}, and the numbers of rows that are no records."""
    counts: dict[str, dict[str, int]] = {}
    not_understood = []
    for number, kind, body in walk:
        records = unpacked(kind, body)
        if records is None:
            not_understood.append(number)
            continue
        count = counts.setdefault(_name(kind), {"rows": 0, "items": 0, "bytes": 0})
        count["rows"] += 1
        count["items"] += sum(len(calls) for _, calls, _ in records) if kind == RowKind.TASKS else len(records)
        count["bytes"] += len(body)
    return counts, not_understood


def _report(facts: dict[str, Any]) -> list[str]:
    rows = [["rows", "number", "items", "bytes"]]
    rows += [
        [kind, *(str(count[what]) for what in ("rows", "items", "bytes"))] for kind, count in facts["rows"].items()
    ]
    return [
        f"journal of mesh {facts['mesh']} at {facts['path']}",
        f"schema {facts['schema']}, {text.size(facts['file_bytes'])}, of which {text.size(facts['unused_bytes'])} "
        f"are unused; log {text.size(facts['log_bytes'])}",
        "",
        *text.table(rows),
    ]


# --- dump ----------------------------------------------------------------------------------------


def _dump(journal: Journal, json_out: bool) -> int:
    with _reading(journal) as db:
        walk = journal_file.Walk(db)
        for number, kind, body in walk:
            for item in _items(kind, body):
                facts = {"row": number, "kind": _name(kind), **item}
                click.echo(text.as_json(facts) if json_out else _line(facts))
    bad = len(walk.wrong) + walk.gaps
    if bad:
        say(f'{bad} rows can\'t be read and are not listed; see "mesh journal check".')
    return exit_codes.DAMAGED if bad else exit_codes.OK


def _items(kind: int, body: bytes) -> Iterator[dict[str, Any]]:
    records = unpacked(kind, body)
    if records is None:
        yield {"not understood": _shown(body)}
        return
    if kind == RowKind.TASKS:
        records = [[ids.stamp(prefix, call[0]), *call[1:]] for prefix, calls, _ in records for call in calls]
    for record in records:
        names = _FIELDS.get(kind)
        if names is None or not isinstance(record, list):
            yield {"record": _shown(record)}
        else:
            yield {
                name: _id(value) if name == "id" else _shown(value) for name, value in zip(names, record, strict=False)
            }


def _id(value: Any) -> str:
    return ids.to_text(value) if type(value) is bytes and ids.is_stamp(value) else str(_shown(value))


def _shown(value: Any) -> Any:
    """Bytes become their number and the first of them."""
    if isinstance(value, bytes):
        return {"bytes": len(value), "begin": value[:_SHOWN_BYTES].hex()}
    if isinstance(value, list):
        return [_shown(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _shown(one) for key, one in value.items()}
    return value


def _line(facts: dict[str, Any]) -> str:
    """`12 tasks id=... name=...`: what is empty is left out."""
    rest = {name: value for name, value in facts.items() if name not in ("row", "kind") and value not in (None, [], "")}
    return " ".join([f"{facts['row']} {facts['kind']}", *(f"{name}={_plain(value)}" for name, value in rest.items())])


def _plain(value: Any) -> str:
    """A value without blanks, so that the fields of a line can be told apart."""
    if isinstance(value, dict) and value.keys() == {"bytes", "begin"}:
        return f"{value['bytes']}B:{value['begin']}{'...' if value['bytes'] > _SHOWN_BYTES else ''}"
    return value if isinstance(value, str) and " " not in value else text.as_json(value).replace(" ", "")


def _name(kind: int) -> str:
    return RowKind(kind).name.lower() if kind in set(RowKind) else f"kind {kind}"


# --- compact -------------------------------------------------------------------------------------


def _compact(journal: Journal, json_out: bool) -> int:
    place = journal.place
    locate.prepare(place)
    lock = locate.acquire_router_lock(place)
    if lock is None:
        pid = locate.router_pid(place)
        raise Failed(
            f"the router of mesh {place.mesh!r} runs, with pid {pid}, and writes to the journal. "
            f'Stop it first: "kill {pid}".'
        )
    try:
        before = os.path.getsize(journal.path) + _log_bytes(journal.path)
        store = Store.open(journal.directory)
        try:
            dropped = store.compact()
        finally:
            store.close()
        after = os.path.getsize(journal.path) + _log_bytes(journal.path)
    finally:
        locate.release_router_lock(lock)
    if store.damage is not None:
        say(str(store.damage))
    if json_out:
        click.echo(text.as_json({"before_bytes": before, "after_bytes": after, "dropped_rows": dropped}))
    else:
        click.echo(f"{journal.path}: {text.size(before)} before, {text.size(after)} now")
        if dropped:
            click.echo(f"{dropped} rows that could not be read are dropped")
    return exit_codes.OK if store.damage is None else exit_codes.DAMAGED


def _log_bytes(path: str) -> int:
    try:
        return os.path.getsize(f"{path}-wal")
    except FileNotFoundError:
        return 0
