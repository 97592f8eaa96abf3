"""The limits of the design's cost budget, and whether a measurement keeps them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from bench.figures import median_interval, paired_ratio
from bench.sizes import ROUNDS_FOR_INTERVAL


class Sense(StrEnum):
    """On which side of its limit a figure must lie."""

    AT_MOST = "≤"
    AT_LEAST = "≥"


class Verdict(StrEnum):
    """What became of a budget; `UNKNOWN` where the figure or its floor is missing."""

    OK = "ok"
    MISSED = "missed"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on mesh: absolute in the metric's unit, or a multiple of what a floor reached in the same round."""

    sense: Sense
    limit: float
    #: Label of the floor whose figure is the unit of `limit`.
    floor: str | None = None
    #: The floor's metric, where it is not the one that is limited.
    floor_metric: str | None = None

    def text(self, unit: str) -> str:
        """For the table: `≤ 1.25 × raw`."""
        if self.floor is None:
            return f"{self.sense} {self.limit:,g} {unit}"
        of = f" {self.floor_metric}" if self.floor_metric else ""
        return f"{self.sense} {self.limit:g} × {self.floor}{of}"


def judge(budget: Budget, mine: Sequence[float | None], floor: Sequence[float | None]) -> Verdict:
    """By the median; from ROUNDS_FOR_INTERVAL rounds on by the 90 % interval, the whole of which must keep the limit.

    `mine` and `floor` hold a figure a round; `floor` is not looked at for an absolute limit.
    """
    if budget.floor is None:
        figures = [figure for figure in mine if figure is not None]
        if not figures:
            return Verdict.UNKNOWN
        interval = median_interval(figures) if len(figures) >= ROUNDS_FOR_INTERVAL else None
        return _verdict(budget, median(figures), interval)
    ratio = paired_ratio(mine, floor, ROUNDS_FOR_INTERVAL)
    return Verdict.UNKNOWN if ratio is None else _verdict(budget, ratio.median, ratio.interval)


def _verdict(budget: Budget, middle: float, interval: tuple[float, float] | None) -> Verdict:
    low, high = interval or (middle, middle)
    kept = high <= budget.limit if budget.sense is Sense.AT_MOST else low >= budget.limit
    return Verdict.OK if kept else Verdict.MISSED
