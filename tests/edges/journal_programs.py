"""Programs that use the journal on a disk of `disk.Disk`, each in a process of its own; they print JSON."""

import errno
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from mesh import journal_store
from mesh.core.effects import Commit
from mesh.core.records import Row
from mesh.exceptions import JournalUnavailable
from mesh.journal import Journal
from mesh.journal_store import Store
from tests.edges import journal_load as load
from tests.edges.disk import Control, mark


def write(directory: str, commits: str, fold_bytes: str) -> int:
    """Writes commits, with marks in the trace. The log is folded in and the file shortened more often than usual."""
    journal_store.FOLD_BYTES = int(fold_bytes)  # type: ignore[misc]
    journal_store.SPARE_BYTES = 1 << 14  # type: ignore[misc]
    journal_store.SHRINK_BYTES = 1 << 14  # type: ignore[misc]
    trace = os.open(os.environ["DISK_TRACE"], os.O_WRONLY | os.O_APPEND)
    store = Store.open(directory)
    for commit in range(1, int(commits) + 1):
        mark(trace, "B", commit)
        load.write(store, commit)
        mark(trace, "A", commit)
        store.tidy()
    store.close()
    return int(commits)


def write_for_ever(directory: str) -> None:
    """Writes commits and prints the number of each that is acknowledged."""
    store = Store.open(directory)
    for commit in itertools.count(1):
        load.write(store, commit)
        store.tidy()
        print(commit, flush=True)


def open_only(directory: str) -> Any:
    """Opens, which saves what it can of a damaged file."""
    store = Store.open(directory)
    trace = os.open(os.environ["DISK_TRACE"], os.O_WRONLY | os.O_APPEND)
    mark(trace, "A", 0)
    store.close()
    return store.damage


def fail_and_recover(directory: str, field: str, number: str) -> Any:
    """Writes a commit, fails with the next two, and writes the one that failed when the disk is well again."""
    control, trace = Control(os.environ["DISK_CONTROL"]), os.open(os.environ["DISK_TRACE"], os.O_WRONLY | os.O_APPEND)
    store = Store.open(directory)
    for commit in (1, 2):
        load.write(store, commit)
    control[field] = getattr(errno, number)
    reasons = [_failure(store, 3), _failure(store, 3)]
    control[field] = 0
    between = load.commits_in(store)
    mark(trace, "B", 3)
    load.write(store, 3)
    mark(trace, "A", 3)
    store.close()
    store = Store.open(directory)
    after = load.commits_in(store)
    store.close()
    return {"reasons": reasons, "between": between, "after": after}


def _failure(store: Store, commit: int) -> str | None:
    try:
        load.write(store, commit)
    except JournalUnavailable as error:
        return str(error)
    return None


def fail_to_tidy(directory: str) -> Any:
    """Commits while nothing but the folding of the log fails: what is answered stays, and the log is folded later."""
    control = Control(os.environ["DISK_CONTROL"])
    journal_store.FOLD_BYTES = 1  # type: ignore[misc]
    store = Store.open(directory)
    load.write(store, 1)
    control["sync_errno"] = errno.EIO
    try:
        store.tidy()
        reason = ""
    except JournalUnavailable as error:
        reason = str(error)
    control["sync_errno"] = 0
    for commit in (2, 3):
        load.write(store, commit)
        store.tidy()
    there = load.commits_in(store)
    store.close()
    return {"reason": reason, "there": there}


def wait_for_syncs(directory: str) -> Any:
    """Appends and reads while a sync does not end."""
    control = Control(os.environ["DISK_CONTROL"])
    answered = threading.Event()
    journal = Journal.open(directory, answered.set)
    journal.append(_commit(1, synced=False))
    answered.wait()
    first = journal.answers()
    begun = control["syncs_begun"]
    control["syncs_wait"] = 1
    journal.append(_commit(2, synced=True))
    while control["syncs_begun"] == begun:
        os.sched_yield()
    for number in range(3, 103):
        journal.append(_commit(number, synced=True))
    during, fetched = journal.answers(), journal.fetch(1)
    control["syncs_wait"] = 0
    journal.close()
    return {"first": first, "during": during, "fetched": fetched, "after": [one.number for one in journal.answers()]}


def _commit(number: int, *, synced: bool) -> Commit:
    return Commit(number, [Row(number, 2, [[f"row {number}"]])], [], synced)


PROGRAMS: dict[str, Callable[..., Any]] = {
    program.__name__: program
    for program in (write, write_for_ever, open_only, fail_and_recover, fail_to_tidy, wait_for_syncs)
}

if __name__ == "__main__":
    json.dump(PROGRAMS[sys.argv[1]](*sys.argv[2:]), sys.stdout)
