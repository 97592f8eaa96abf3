"""Many storms, several at a time, in the processes of a pool: their counts summed, the events of failures shrunk."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final, NamedTuple

from mesh.sim.history import History
from tests.sim.storm import Script, run, script_of
from tests.sim.workload import Event

#: Events of one storm.
EVENTS: Final = 300
#: Seeds that a pool is given at a time.
AT_ONCE: Final = 400
#: Seeds that a process takes at a time.
CHUNK: Final = 8
#: How long is looked for fewer events that fail as well.
SHRINK_S: Final = 60.0


class Played(NamedTuple):
    """What came of one seed."""

    seed: int | str
    climate: str
    n_faults: int
    counts: Counter[str]
    met: Counter[tuple[str, str]]
    error: str  #: what failed; empty where nothing did


class Asked(NamedTuple):
    """One seed to be played."""

    seed: int | str
    n_events: int = EVENTS
    fair: bool = False

    def script(self) -> Script:
        """What this seed decides."""
        return script_of(self.seed, self.n_events, fair=self.fair)


def play(asked: Asked) -> Played:
    """Plays one seed. What it finds wrong it tells, it does not raise."""
    script = asked.script()
    n_faults = sum(event.kind in script.climate.kinds for event in script.events)
    history, said = History(), ""
    try:
        history = run(script)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    return Played(asked.seed, script.climate.name, n_faults, history.counts, history.met, said)


def play_all(asked: Iterable[Asked], jobs: int) -> Iterator[Played]:
    """Plays all of them, in no order, in processes in which sets of bytes have the same order each time."""
    with _hashes_alike(), multiprocessing.get_context("spawn").Pool(jobs, initializer=_in_peace) as pool:
        asked = iter(asked)
        while some := list(islice(asked, AT_ONCE)):  # a pool takes all that it is given at once, however much
            yield from pool.imap_unordered(play, some, chunksize=CHUNK)
        pool.close()
        pool.join()


@contextmanager
def _hashes_alike() -> Iterator[None]:
    """Processes that start meanwhile hash alike: only so is a seed all that a story depends on."""
    known = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        yield
    finally:
        if known is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = known


def _in_peace() -> None:
    """A world is thrown away whole: there is little for collections to find meanwhile."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)


class Total:
    """The sum of many."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.met: Counter[tuple[str, str]] = Counter()
        self.failed: list[Played] = []
        self.n_played = 0

    def add(self, played: Played) -> None:
        """One more."""
        self.n_played += 1
        self.counts.update(played.counts)
        self.counts[f"climate {played.climate}"] += 1
        self.met.update(played.met)
        if played.error:
            self.failed.append(played)


# --- failures ------------------------------------------------------------------------------------


def shrink(script: Script, for_s: float = SHRINK_S) -> list[Event]:
    """Fewer events that fail as well: leaves out ever smaller parts of the list, until the time is up."""
    deadline_s = time.monotonic() + for_s
    events = list(script.events)
    part = len(events) // 2
    while part:
        at = 0
        while at < len(events):
            if time.monotonic() >= deadline_s:
                return events
            fewer = events[:at] + events[at + part :]
            if _fails(script, fewer):
                events = fewer
            else:
                at += part
        part //= 2
    return events


def _fails(script: Script, events: Sequence[Event]) -> bool:
    try:
        run(script, events)
    except Exception:
        return True
    return False


def describe_alike(asked: Asked, error: str, for_s: float = SHRINK_S) -> str:
    """As `describe`, in a process as those that `play_all` plays in."""
    with _hashes_alike(), multiprocessing.get_context("spawn").Pool(1) as pool:
        told = pool.apply(describe, (asked, error, for_s))
        pool.close()
        pool.join()
    return told


def describe(asked: Asked, error: str, for_s: float) -> str:
    """What failed, the fewest events found that lead there, and how to see it again."""
    script = asked.script()
    events = shrink(script, for_s)
    lines = [
        f"seed {asked.seed} ({script.climate.name}): {error}",
        str(script.plan),
        f"{len(events)} of {len(script.events)} events are enough for a failure:",
        *(str(event)[:400] for event in events),
        f"again: python -m tests.sim --seeds {asked.seed}",
    ]
    return "\n".join(lines)
