"""What children of multiprocessing run: they import it."""

from __future__ import annotations

from tests.mesh.proj import tasks


def send(path: str, calls: int) -> None:
    """Calls so many times and ends without waiting."""
    for number in range(calls):
        tasks.note.delay(path, str(number))


def add_up(upto: int) -> int:
    """0 + 1 + ... by calls."""
    return sum(result.get(30) for result in [tasks.add.delay(number, 0) for number in range(upto)])
