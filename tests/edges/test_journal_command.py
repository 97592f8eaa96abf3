"""`mesh journal`: what it says of a journal that is sound, damaged, newer, in use or not there."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh import codec, ids, journal_file, locate
from mesh.core.effects import Commit
from mesh.core.records import Row, RowKind
from mesh.journal import Committed, Journal
from mesh.journal_store import Store
from mesh.messages import Call, Publish
from mesh_cli import exit_codes, root
from tests.edges import journal_damage as damage
from tests.edges.disk import ROOT

HOLD_THE_LOCK = """
import sys
from mesh import locate
locate.acquire_router_lock(locate.locate(sys.argv[1]))
print("held", flush=True)
input()
"""
PREFIX = ids.prefix(b"abcdef", 12345)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def mesh_journal(mesh_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `mesh journal` on the mesh of the test."""
    monkeypatch.setenv("MESH_BROKER_URL", mesh_url)

    def run(*argv: str) -> Ended:
        code = root.run(["journal", *argv])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def path(mesh_dir: Path) -> Path:
    """The journal of the mesh of the test, with three tasks, one outcome and a note."""
    calls = [
        [*Call(sequence, "proj.tasks.add", "mail", 5, 0, b"b" * 40, 0, {"id": "mine"} if sequence == 2 else None)]
        for sequence in (1, 2, 3)
    ]
    rows = [
        Row(1, RowKind.TASKS, [[PREFIX, codec.encode(Publish(False, calls)), []]]),
        Row(2, RowKind.OUTCOMES, [[ids.stamp(PREFIX, 1), 0, b"three", [], 1.5, None, False]]),
        Row(3, RowKind.NOTES, [[PREFIX, [[7, 9]]]]),
    ]
    written = threading.Event()
    journal = Journal.open(str(mesh_dir), written.set)
    journal.append(Commit(1, rows, [], synced=False))
    journal.close()
    assert journal.answers() == [Committed(1)]
    return mesh_dir / journal_file.FILE_NAME


def test_check_tells_how_much_is_in_a_sound_journal(mesh_journal: Command, path: Path) -> None:
    ended = mesh_journal("check")

    assert (ended.code, ended.err) == (exit_codes.OK, "")
    assert f"at {path}" in ended.out
    assert re.search(r"^schema 1, [0-9.]+ KiB, of which 0 B are unused; log 0 B$", ended.out, re.MULTILINE)
    assert re.findall(r"^(\w+) +(\d+) +(\d+) +\d+$", ended.out, re.MULTILINE) == [
        ("tasks", "1", "3"),
        ("outcomes", "1", "1"),
        ("notes", "1", "1"),
    ]


def test_check_changes_nothing_and_works_beside_a_router(mesh_journal: Command, path: Path) -> None:
    # Given a router's connection, and something in its log
    store = Store.open(str(path.parent))
    store.write([(4, RowKind.NOTES, b"\x90")], [], synced=False)
    before = path.read_bytes(), path.with_name("journal.db-wal").read_bytes()

    # When
    facts = json.loads(mesh_journal("check", "--json").out)

    # Then the log was read as well, and all is as it was
    assert facts["rows"]["notes"] == {"rows": 2, "items": 1, "bytes": facts["rows"]["notes"]["bytes"]}
    assert facts["log_bytes"] > 0
    assert (path.read_bytes(), path.with_name("journal.db-wal").read_bytes()) == before
    store.close()


def test_check_finds_a_flipped_bit(mesh_journal: Command, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"three", b"thrae"))

    ended = mesh_journal("check", "--json")

    assert ended.code == exit_codes.DAMAGED
    assert json.loads(ended.out)["damaged_rows"] == [2]
    assert "1 of its rows can't be read" in ended.err
    assert "mesh journal compact" in ended.err


def test_check_finds_a_row_that_holds_no_records(mesh_journal: Command, path: Path) -> None:
    store = Store.open(str(path.parent))
    store.write([(9, RowKind.TASKS, b"nonsense")], [], synced=False)
    store.close()

    ended = mesh_journal("check", "--json")

    assert ended.code == exit_codes.DAMAGED
    assert json.loads(ended.out)["not_understood_rows"] == [9]


@pytest.mark.parametrize("action", ["check", "dump"])
def test_a_broken_file_is_told_and_left_for_the_router_to_save(
    mesh_journal: Command, mesh_dir: Path, action: str
) -> None:
    path = damage.fill(mesh_dir)
    damage.break_page(path)
    before = path.read_bytes()

    ended = mesh_journal(action)

    assert (ended.code, ended.out) == (exit_codes.DAMAGED, "")
    assert f"the journal {path} is damaged: " in ended.err
    assert "The next router that starts saves what can be read" in ended.err
    assert path.read_bytes() == before


@pytest.mark.parametrize("action", ["check", "dump"])
def test_an_empty_file_is_told(mesh_journal: Command, mesh_dir: Path, action: str) -> None:
    path = mesh_dir / journal_file.FILE_NAME
    path.touch()

    ended = mesh_journal(action)

    assert (ended.code, ended.out) == (exit_codes.DAMAGED, "")
    assert f"the journal {path} is empty" in ended.err


@pytest.mark.root
def test_a_journal_that_can_t_be_written_can_be_looked_into(mesh_journal: Command, path: Path) -> None:
    # Given a journal on a disk that is read-only now
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    subprocess.run(["mount", "--bind", path.parent, path.parent], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path.parent], check=True)

        # When / Then
        assert json.loads(mesh_journal("check", "--json").out)["rows"]["tasks"]["items"] == 3
        assert mesh_journal("dump").code == exit_codes.OK

        # And what would write says why it can't
        ended = mesh_journal("compact")
        assert ended.code == exit_codes.UNAVAILABLE
        assert f"the directory {path.parent} of mesh {path.parent.name!r} can't be used: Read-only" in ended.err
    finally:
        subprocess.run(["umount", path.parent], check=True)


@pytest.mark.parametrize("action", ["check", "dump", "compact"])
def test_a_newer_journal_is_refused(
    mesh_journal: Command, mesh_dir: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    with monkeypatch.context() as later:
        later.setitem(journal_file.MIGRATIONS, 2, lambda db: None)
        damage.fill(mesh_dir)

    ended = mesh_journal(action)

    assert ended.code == exit_codes.FAILURE
    assert "has schema 2" in ended.err


@pytest.mark.parametrize("action", ["check", "dump", "compact"])
def test_a_mesh_without_a_journal_is_told(mesh_journal: Command, mesh_dir: Path, action: str) -> None:
    ended = mesh_journal(action)

    assert ended.code == exit_codes.FAILURE
    assert f"mesh {mesh_dir.name!r} has no journal at {mesh_dir}/journal.db" in ended.err
    assert list(mesh_dir.iterdir()) == []


def test_dump_lists_every_item_on_a_line(mesh_journal: Command, path: Path) -> None:
    ended = mesh_journal("dump")

    first = ids.to_text(ids.stamp(PREFIX, 1))
    second = ids.to_text(ids.stamp(PREFIX, 2))
    body = f"40B:{'62' * 16}..."
    lines = ended.out.splitlines()
    assert (ended.code, len(lines)) == (exit_codes.OK, 5)
    assert lines[0] == f"1 tasks id={first} name=proj.tasks.add queue=mail priority=5 flags=0 body={body} n_frames=0"
    assert lines[1].startswith(f"1 tasks id={second} ")
    assert lines[1].endswith('options={"id":"mine"}')
    assert lines[3] == f"2 outcomes id={first} status=0 body=5B:7468726565 stored_wall_s=1.5 kept=false"
    assert lines[4] == f"3 notes client=11B:{PREFIX.hex()} gone=[[7,9]]"


def test_dump_for_programs_is_one_object_a_line(mesh_journal: Command, path: Path) -> None:
    items = [json.loads(line) for line in mesh_journal("dump", "--json").out.splitlines()]

    assert [item["row"] for item in items] == [1, 1, 1, 2, 3]
    assert items[3] == {
        "row": 2,
        "kind": "outcomes",
        "id": ids.to_text(ids.stamp(PREFIX, 1)),
        "status": 0,
        "body": {"bytes": 5, "begin": b"three".hex()},
        "frames": [],
        "stored_wall_s": 1.5,
        "custom_id": None,
        "kept": False,
    }


def test_dump_shows_what_it_does_not_understand(mesh_journal: Command, path: Path) -> None:
    store = Store.open(str(path.parent))
    store.write([(9, RowKind.TASKS, b"nonsense"), (10, 99, b"\x91\x01")], [[1, 3]], synced=False)
    store.close()

    ended = mesh_journal("dump")

    assert ended.out.splitlines() == ["9 tasks not understood=8B:6e6f6e73656e7365", "10 kind 99 record=1"]


def test_compact_gives_space_back_and_drops_what_can_not_be_read(mesh_journal: Command, mesh_dir: Path) -> None:
    # Given a journal most of which is unused, with one damaged row
    path = damage.fill(mesh_dir)
    store = Store.open(str(mesh_dir))
    store.write([(1000 + number, 1, bytes(50_000)) for number in range(40)], [], synced=False)
    store.write([], [[1000, 2000]], synced=False)
    store.close()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"row 77 row 77", b"row 77 row 78", 1))

    # When
    ended = mesh_journal("compact")

    # Then it is as short as a fresh one, and what can be read is there
    assert (ended.code, ended.err) == (exit_codes.OK, "")
    assert re.match(rf"{re.escape(str(path))}: [0-9.]+ MiB before, [0-9.]+ KiB now\n1 rows that", ended.out)
    assert path.stat().st_size < len(content) / 10
    store = Store.open(str(mesh_dir))
    assert list(store.rows()) == [row for row in damage.rows(1, damage.ROWS) if row.number != 77]
    assert store.skipped == 0
    store.close()
    assert json.loads(mesh_journal("compact", "-j").out)["dropped_rows"] == 0


def test_compact_tells_that_it_could_save_but_a_part(mesh_journal: Command, mesh_dir: Path) -> None:
    path = damage.fill(mesh_dir)
    damage.break_page(path)

    ended = mesh_journal("compact")

    assert ended.code == exit_codes.DAMAGED
    assert "of its rows, which hold a call or many, were saved" in ended.err
    assert json.loads(mesh_journal("check", "--json").out)["gaps"] == 0


def test_compact_waits_for_the_router_to_be_stopped(mesh_journal: Command, path: Path, mesh_url: str) -> None:
    # Given another process that is this mesh's router
    line = [sys.executable, "-c", HOLD_THE_LOCK, mesh_url]
    with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as router:
        assert router.stdout is not None
        router.stdout.readline()

        # When
        ended = mesh_journal("compact")
        router.communicate(b"\n")

    # Then it is told which process that is
    assert ended.code == exit_codes.FAILURE
    assert f'runs, with pid {router.pid}, and writes to the journal. Stop it first: "kill {router.pid}"' in ended.err

    # And it is done when that has ended, and leaves the place to the next router
    assert mesh_journal("compact").code == exit_codes.OK
    assert locate.router_pid(locate.locate(mesh_url)) is None


def test_an_unknown_action_is_refused_with_those_there_are(mesh_journal: Command) -> None:
    ended = mesh_journal("repair")

    assert ended.code == exit_codes.USAGE
    assert "check" in ended.err


def test_a_reader_that_has_had_enough_of_a_dump_is_no_error_of_the_journal(path: Path) -> None:
    # Given a dump whose reader is gone
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "mesh", "-b", f"mesh://{path.parent}", "journal", "dump"]

    # When it is written
    ended = subprocess.run(argv, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)

    # Then the journal is not blamed
    assert ended.stderr == ""
