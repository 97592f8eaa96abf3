"""Power loss and kill -9 at every point: what the journal wrote is cut off there, and opened.

The writes and syncs of a load of commits are recorded. From each prefix of them the files are built anew, with what was
not synced kept (as kill -9 leaves it), dropped, torn, in any order or with flipped bits (as power loss leaves it).
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.journal_store import Store
from tests.edges import journal_damage as damage
from tests.edges import journal_load as load
from tests.edges.disk import VARIANTS, Crash, Disk

COMMITS = 14
#: The log is folded in at every other commit or so.
FOLD_BYTES = 1 << 16

pytestmark = pytest.mark.cc


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """Where thousands of small files are made; a disk that really syncs would take minutes."""
    shared = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="mesh-", dir=shared if os.access(shared, os.W_OK) else tmp_path))
    yield made
    shutil.rmtree(made)


def test_whatever_is_acknowledged_survives_a_crash_at_any_point(disk: Disk, ram: Path) -> None:
    # Given a load of commits, some of them synced
    disk.run("write", str(COMMITS), str(FOLD_BYTES))
    crash = Crash(str(disk.directory))
    begun = acknowledged = synced = 0
    for point, operation in enumerate(disk.operations()):
        if operation.kind == "B":
            begun = operation.offset
        elif operation.kind == "A":
            acknowledged = operation.offset
            synced = acknowledged if load.is_synced(acknowledged) else synced
        else:
            crash.apply(operation)

        # When it crashes there, in each way / Then what was promised is there, by whole commits
        for variant in VARIANTS:
            there = _commits_after(crash, variant, random.Random(f"{point} {variant}"), disk, ram)
            promised = acknowledged if variant == "kept" else synced
            assert promised <= there <= begun, (point, operation[:4], variant)
    assert (begun, acknowledged) == (COMMITS, COMMITS)


def test_a_crash_at_any_point_while_a_damaged_file_is_saved_loses_no_more(disk: Disk, ram: Path) -> None:
    # Given a journal with a broken page and a log
    path = damage.fill_with_a_log(disk.directory)
    lost = damage.break_page(path)
    readable = [row for row in damage.rows(1, damage.ROWS + damage.LATE) if row.number not in lost]
    crash = Crash(str(disk.directory), {str(one): one.read_bytes() for one in disk.directory.iterdir()})

    # When it is opened, and that crashes at any point, in any way
    disk.run("open_only")
    points = 0
    for operation in disk.operations():
        if operation.kind == "A":
            break
        crash.apply(operation)
        points += 1
        for variant in VARIANTS:
            _build(crash.files(variant, random.Random(f"{points} {variant}")), disk.directory, ram)

            # Then who opens it afterwards has what could be read before
            store = Store.open(str(ram))
            there = list(store.rows())
            store.close()
            assert there == readable, (points, operation[:4], variant)
    assert points > 0


def test_only_synced_commits_wait_for_the_disk(disk: Disk) -> None:
    # Given a load of commits during which the log is not folded in
    disk.run("write", str(COMMITS), str(1 << 30))

    # When the syncs of each are counted
    syncs: dict[int, int] = {}
    commit = 0
    for operation in disk.operations():
        if operation.kind == "B":
            commit = operation.offset
            syncs[commit] = 0
        elif operation.kind == "A":
            commit = 0
        elif operation.kind == "S" and commit:
            syncs[commit] += 1

    # Then those have one that asked for it; the first one also has that of the new log's head
    assert syncs == {commit: int(load.is_synced(commit) or commit == 1) for commit in range(1, COMMITS + 1)}


def _commits_after(crash: Crash, variant: str, chance: random.Random, disk: Disk, ram: Path) -> int:
    _build(crash.files(variant, chance), disk.directory, ram)
    store = Store.open(str(ram))
    try:
        assert store.damage is None
        return load.commits_in(store)
    finally:
        store.close()


def _build(files: dict[str, bytes], recorded: Path, into: Path) -> None:
    """Writes the files of the recorded directory into another, and nothing else is there."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o700)
    for path, content in files.items():
        (into / Path(path).relative_to(recorded)).write_bytes(content)
