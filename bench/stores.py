"""`python -m bench.stores`: the journal's store beside LMDB, with commits as a router makes them.

Each commit writes one row of so many calls of 100 bytes and removes the row that was written some commits before. LMDB
is no dependency of mesh: where it is not installed, only the store is measured. The two take turns for some rounds; the
table has the medians.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from bench import machine
from mesh.journal_store import Store

CALL_BYTES: Final = 100
#: Calls of one row: a single call, a small batch, a batch, and what waits behind a commit under load.
ROWS_OF: Final = (1, 32, 256, 2048)
#: How many commits later a row is removed.
LAG: Final = 20
#: What one measurement writes at most, and how many commits it makes at most.
MEASURED_BYTES: Final = 48 << 20
COMMITS_MAX: Final = 1500
SYNCED_COMMITS_MAX: Final = 200


class Entrant(Protocol):
    """A store under test."""

    def commit(self, number: int, body: bytes, removed: int | None) -> None:
        """Writes one row and removes another."""

    def close(self) -> None:
        """Gives everything back."""


class Sqlite:
    """The store of mesh, with what its thread does between commits."""

    def __init__(self, directory: str, synced: bool) -> None:
        self._store, self._synced = Store.open(directory), synced

    def commit(self, number: int, body: bytes, removed: int | None) -> None:
        """Writes one row and removes another."""
        ranges = [] if removed is None else [[removed, removed]]
        self._store.write([(number, 1, body)], ranges, synced=self._synced)
        self._store.tidy()

    def close(self) -> None:
        """Gives everything back."""
        self._store.close()


class Lmdb:
    """LMDB as the journal would use it: big-endian keys that ascend. Without syncs it may lose all when power goes."""

    def __init__(self, directory: str, synced: bool) -> None:
        self._environment = importlib.import_module("lmdb").open(directory, map_size=4 << 30, sync=synced)

    def commit(self, number: int, body: bytes, removed: int | None) -> None:
        """Writes one row and removes another."""
        with self._environment.begin(write=True) as transaction:
            transaction.put(number.to_bytes(8, "big"), body, append=True)
            if removed is not None:
                transaction.delete(removed.to_bytes(8, "big"))

    def close(self) -> None:
        """Gives everything back."""
        self._environment.close()


class Figures(NamedTuple):
    """One measurement."""

    calls_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float  #: of the process, for a commit


ENTRANTS: Final[dict[str, Callable[[str, bool], Entrant]]] = {"SQLite": Sqlite, "LMDB": Lmdb}


def measure(make: Callable[[str, bool], Entrant], calls: int, synced: bool, commits: int, directory: str) -> Figures:
    """Makes commits on a fresh store."""
    body = os.urandom(calls * CALL_BYTES)
    durations = []
    with _entrant(make, synced, directory) as entrant:
        cpu_s, begun_s = time.process_time(), time.perf_counter()
        for number in range(1, commits + 1):
            before_s = time.perf_counter()
            entrant.commit(number, body, number - LAG if number > LAG else None)
            durations.append(time.perf_counter() - before_s)
        took_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - cpu_s
    durations.sort()
    return Figures(
        calls_per_s=commits * calls / took_s,
        p50_us=durations[commits // 2] * 1e6,
        p99_us=durations[commits * 99 // 100] * 1e6,
        cpu_us=cpu_s / commits * 1e6,
    )


@contextmanager
def _entrant(make: Callable[[str, bool], Entrant], synced: bool, directory: str) -> Iterator[Entrant]:
    with tempfile.TemporaryDirectory(prefix="stores-", dir=directory) as own:
        entrant = make(own, synced)
        try:
            yield entrant
        finally:
            entrant.close()


def run(names: list[str], rounds: int, directory: str, share: float) -> list[dict[str, Any]]:
    """The medians of all entrants, in turns; `share` of the usual number of commits."""
    rows = []
    for synced in (False, True):
        for calls in ROWS_OF:
            most = SYNCED_COMMITS_MAX if synced else COMMITS_MAX
            commits = max(2, int(share * min(most, MEASURED_BYTES // (calls * CALL_BYTES))))
            taken: dict[str, list[Figures]] = {name: [] for name in names}
            for _ in range(rounds):
                for name in names:
                    taken[name].append(measure(ENTRANTS[name], calls, synced, commits, directory))
            rows += [
                {"store": name, "synced": synced, "calls": calls, **_medians(figures)._asdict()}
                for name, figures in taken.items()
            ]
    return rows


def _medians(figures: list[Figures]) -> Figures:
    return Figures(*(statistics.median(column) for column in zip(*figures, strict=True)))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| commits of | store | synced | calls/s | p50 | p99 | CPU a commit | CPU a call |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['calls']} calls | {row['store']} | {'yes' if row['synced'] else 'no'} | {row['calls_per_s']:,.0f} | "
        f"{row['p50_us']:,.0f} µs | {row['p99_us']:,.0f} µs | {row['cpu_us']:,.0f} µs | "
        f"{row['cpu_us'] / row['calls']:.2f} µs |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.stores", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--rounds", type=int, default=5, help="rounds (%(default)s)")
    parser.add_argument(
        "--dir", type=Path, default=Path.cwd(), help="on which disk to measure (that of this directory)"
    )
    parser.add_argument("--quick", action="store_true", help="sizes too small to mean anything, for tests")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    options = parser.parse_args(arguments)
    names = list(ENTRANTS)
    if importlib.util.find_spec("lmdb") is None:
        names.remove("LMDB")
        print(
            "LMDB is left out: it is not installed (pip install lmdb, into an environment of its own)", file=sys.stderr
        )
    rows = run(names, 1 if options.quick else options.rounds, str(options.dir), 0.01 if options.quick else 1.0)
    if options.json:
        print(json.dumps({"machine": machine.describe(), "rows": rows}, indent=2))
    else:
        print(f"{machine.line(machine.describe())}\n\n{table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
