"""The journal on a disk that fails: it says so, nothing is half written, and it works again when the disk does."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.exceptions import JournalUnavailable
from mesh.journal_store import Store
from tests.edges import journal_load as load
from tests.edges.disk import ROOT, Disk

TMPFS_BYTES = 4 << 20


@pytest.mark.cc
@pytest.mark.parametrize(
    ("desc", "field", "number", "says"),
    [
        ("writes fail", "write_errno", "EIO", "the disk reports an error (SQLITE_IOERR_WRITE"),
        ("the disk is full", "write_errno", "ENOSPC", "the disk is full. Make room"),
        ("a quota is used up", "write_errno", "EDQUOT", "the disk reports an error (SQLITE_IOERR_WRITE"),
        ("it has become read-only", "write_errno", "EROFS", "the disk reports an error (SQLITE_IOERR_WRITE"),
        ("syncs fail", "sync_errno", "EIO", "the disk reports an error (SQLITE_IOERR_FSYNC"),
    ],
)
def test_a_commit_that_fails_is_told_and_may_be_repeated(
    disk: Disk, desc: str, field: str, number: str, says: str
) -> None:
    # Given two commits / When the disk fails at the third, twice, and then works
    told = disk.run("fail_and_recover", field, number)

    # Then it says why, nothing of it was there meanwhile, and all of it is afterwards
    assert says in told["reasons"][0], desc
    assert str(disk.directory) in told["reasons"][0], desc
    assert told["reasons"][1] is not None, desc
    assert (told["between"], told["after"]) == (2, 3), desc


@pytest.mark.cc
def test_after_a_sync_that_failed_the_log_is_written_out_before_anything_is_built_on_it(disk: Disk) -> None:
    # Given a sync that failed: the system may have dropped what it was to write
    disk.run("fail_and_recover", "sync_errno", "EIO")

    # When the next commit is taken
    operations = disk.operations()
    begun = next(index for index, one in enumerate(operations) if one.kind == "B")
    acknowledged = next(index for index, one in enumerate(operations) if one.kind == "A")
    steps = [(one.kind, Path(one.path).name, one.offset) for one in operations[begun:acknowledged]]

    # Then all that was in the log is written to the file first, that is synced, and the log begins anew
    written = next(index for index, (kind, name, _) in enumerate(steps) if (kind, name) == ("W", "journal.db"))
    synced = steps.index(("S", "journal.db", 0), written)
    emptied = steps.index(("T", "journal.db-wal", 0), synced)
    assert any(kind == "W" and name == "journal.db-wal" for kind, name, _ in steps[emptied:])


@pytest.mark.cc
def test_a_log_that_can_not_be_folded_in_now_is_folded_in_later(disk: Disk) -> None:
    told = disk.run("fail_to_tidy")

    assert "SQLITE_IOERR" in told["reason"]
    assert told["there"] == 3


@pytest.mark.cc
def test_a_sync_that_takes_its_time_blocks_neither_append_nor_fetch(disk: Disk) -> None:
    # When a hundred commits are appended while a sync does not end
    told = disk.run("wait_for_syncs")

    # Then that, and a fetch, came back before the sync did; and all are answered in order when it has
    assert told["first"] == [[1]]
    assert told["during"] == []
    assert told["fetched"] == [["row 1"]]
    assert told["after"] == list(range(2, 103))


# --- file systems that are really full or read-only ----------------------------------------------


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    mounted = tmp_path / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", mounted], check=True)
    yield mounted
    subprocess.run(["umount", mounted], check=True)


@pytest.mark.root
def test_a_full_disk_refuses_commits_until_there_is_room(tmpfs: Path) -> None:
    # Given a journal and a disk with no room left
    store = Store.open(str(tmpfs / "state"))
    load.write(store, 1)
    _fill(tmpfs / "ballast")

    # When commits come until one needs more than the log has in store
    taken = 1
    reason = ""
    while not reason:
        try:
            load.write(store, taken + 1)
            taken += 1
        except JournalUnavailable as error:
            reason = str(error)

    # Then that is told, and nothing of it is there
    assert "the disk is full. Make room" in reason
    assert load.commits_in(store) == taken

    # When there is room again, then it is taken
    (tmpfs / "ballast").unlink()
    load.write(store, taken + 1)
    assert load.commits_in(store) == taken + 1
    store.close()


@pytest.mark.root
def test_a_full_disk_at_the_start_is_told(tmpfs: Path) -> None:
    _fill(tmpfs / "ballast")

    with pytest.raises(JournalUnavailable):
        Store.open(str(tmpfs / "state"))

    # And it starts when there is room
    (tmpfs / "ballast").unlink()
    Store.open(str(tmpfs / "state")).close()


@pytest.mark.root
def test_a_read_only_disk_is_told(tmpfs: Path) -> None:
    # Given a journal on a disk that is mounted read-only now
    store = Store.open(str(tmpfs / "state"))
    load.write(store, 1)
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)

    # When / Then
    with pytest.raises(
        JournalUnavailable, match=r"/small/state/journal\.db can't be used: it is read-only\. Mount its"
    ):
        Store.open(str(tmpfs / "state"))

    # And it is as it was when the disk can be written
    subprocess.run(["mount", "-o", "remount,rw", tmpfs], check=True)
    store = Store.open(str(tmpfs / "state"))
    assert load.commits_in(store) == 1
    assert store.damage is None
    store.close()


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_state_directory_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(JournalUnavailable, match="Not a directory"):
        Store.open(str(tmp_path / "file" / "state"))


def test_another_process_that_locks_the_file_is_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given another connection that writes and does not end
    monkeypatch.setattr("mesh.journal_file._BUSY_S", 0.01)
    store = Store.open(str(tmp_path))
    from mesh.journal_file import connect

    other = connect(store.path)
    other.execute("BEGIN IMMEDIATE")

    # When / Then
    with pytest.raises(JournalUnavailable, match="another process has locked it"):
        load.write(store, 1)

    # And when it has ended, commits are taken again
    other.close()
    load.write(store, 1)
    assert load.commits_in(store) == 1
    store.close()


# --- kill -9 -------------------------------------------------------------------------------------


def test_all_that_was_acknowledged_survives_the_death_of_the_writer(tmp_path: Path) -> None:
    for round_number in range(1, 4):
        # Given a process that commits as fast as it can
        directory = tmp_path / str(round_number)
        line = [sys.executable, "-m", "tests.edges.journal_programs", "write_for_ever", str(directory)]
        with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            told = [writer.stdout.readline() for _ in range(150 * round_number)]

            # When it is killed in the middle of it
            writer.send_signal(signal.SIGKILL)
            acknowledged = int([*told, *writer.stdout][-1])

        # Then every commit that it had acknowledged is there, and none but whole ones
        store = Store.open(str(directory))
        assert load.commits_in(store) in (acknowledged, acknowledged + 1)
        assert store.damage is None
        store.close()
        shutil.rmtree(directory)
