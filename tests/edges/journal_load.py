"""A load of commits of which everybody can tell, after each, what is to be in the store."""

import random

from mesh.journal_file import Found
from mesh.journal_store import Store
from mesh.messages import Ranges

#: How many commits later the rows of a commit are removed.
LAG = 5
ROWS = 3


def body(number: int) -> bytes:
    """Of a few bytes mostly, of several pages now and then; a row's own, so that none can stand for another."""
    size = 20_000 + number if number % 7 == 0 else 1 + number * 37 % 300
    return random.Random(number).randbytes(size)


def rows_of(commit: int) -> list[tuple[int, int, bytes]]:
    first = ROWS * (commit - 1) + 1
    return [(number, 1 + number % 3, body(number)) for number in range(first, first + ROWS)]


def removed_by(commit: int) -> Ranges:
    old = commit - LAG
    return [[ROWS * (old - 1) + 1, ROWS * old]] if old > 0 else []


def is_synced(commit: int) -> bool:
    return commit % 3 == 0


def rows_after(commit: int) -> list[Found]:
    """All that is to be there when this many commits are."""
    return [Found(*row) for number in range(max(1, commit - LAG + 1), commit + 1) for row in rows_of(number)]


def write(store: Store, commit: int) -> None:
    store.write(rows_of(commit), removed_by(commit), synced=is_synced(commit))


def commits_in(store: Store) -> int:
    """How many commits are there, whole. Raises AssertionError where what is there is no number of whole commits."""
    found = list(store.rows())
    commit = -(-found[-1].number // ROWS) if found else 0
    assert found == rows_after(commit), [row.number for row in found]
    return commit
