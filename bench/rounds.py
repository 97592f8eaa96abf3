"""Runs a case: the entrants take turns in every round, so that what drifts on the machine drifts for all of them."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeAlias

from bench.cases import Case, Entrant
from bench.operations import Figures
from bench.remote import MeasurementFailed, RemoteSystem
from bench.sizes import Sizes

#: Told of every measurement before it begins: case, round from 1, rounds, entrant.
Progress: TypeAlias = Callable[[Case, int, int, Entrant], None]


@dataclass(slots=True)
class Samples:
    """What came of a case."""

    case: Case
    rounds: int
    #: {label: a round's figures, or None where it failed}. As many as there were rounds, for every entrant.
    figures: dict[str, list[Figures | None]]
    failures: list[MeasurementFailed] = field(default_factory=list)

    def of(self, label: str, metric: str) -> list[float | None]:
        """One metric of one entrant, a value a round; None where the round failed or the system has no such figure."""
        return [None if figures is None else figures.get(metric) for figures in self.figures[label]]


def run_case(case: Case, rounds: int, sizes: Sizes, progress: Progress) -> Samples:
    """Measures every entrant in every round. A system that fails is left out of the rest of the case."""
    rounds = min(rounds, case.most_rounds)
    samples = Samples(case, rounds, {entrant.label: [] for entrant in case.entrants})
    with ExitStack() as stack:
        turns = _Turns(case, sizes, samples, stack)
        for number in range(1, rounds + 1):
            for entrant in case.entrants:
                progress(case, number, rounds, entrant)
                samples.figures[entrant.label].append(turns.measure(entrant))
    return samples


class _Turns:
    """1. Opens the systems of a case when they are first needed. 2. Measures. 3. Leaves out what has failed."""

    def __init__(self, case: Case, sizes: Sizes, samples: Samples, stack: ExitStack) -> None:
        self._case = case
        self._sizes = sizes
        self._samples = samples
        self._stack = stack
        #: {system: its driver}. Those that stay open from round to round; none in a case that is run alone.
        self._open: dict[str, RemoteSystem] = {}
        self._failed: set[str] = set()

    def measure(self, entrant: Entrant) -> Figures | None:
        if entrant.system in self._failed:
            return None
        try:
            if self._case.alone:
                with RemoteSystem(entrant.system) as remote:
                    return self._perform(remote, entrant)
            return self._perform(self._opened(entrant.system), entrant)
        except MeasurementFailed as failure:
            self._failed.add(entrant.system)
            self._samples.failures.append(failure)
            return None

    def _opened(self, system: str) -> RemoteSystem:
        if system not in self._open:
            self._open[system] = remote = self._stack.enter_context(RemoteSystem(system))
            remote.perform("start", self._sizes)
        return self._open[system]

    def _perform(self, remote: RemoteSystem, entrant: Entrant) -> Figures:
        if self._case.alone and self._case.started:
            remote.perform("start", self._sizes)
        return remote.perform(entrant.operation, self._sizes)
