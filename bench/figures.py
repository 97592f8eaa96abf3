"""Numbers about numbers: percentiles, medians, paired ratios and how sure they are. Pure."""

from collections.abc import Sequence
from math import ceil, comb
from statistics import median
from typing import NamedTuple


class Spread(NamedTuple):
    """A median with the least and the greatest of the rounds."""

    median: float
    low: float
    high: float


class Ratio(NamedTuple):
    """The median of the ratios of round pairs. The interval is there from `rounds_for_interval` pairs on."""

    median: float
    interval: tuple[float, float] | None


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed (nearest rank).

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("percentile of no values")
    rank = max(1, ceil(percent / 100 * len(values)))
    return sorted(values)[rank - 1]


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest. Raises ValueError without values."""
    if not values:
        raise ValueError("spread of no values")
    return Spread(median(values), min(values), max(values))


def median_interval(values: Sequence[float], confidence: float = 0.9) -> tuple[float, float]:
    """An interval that covers the true median with at least `confidence`, whatever the distribution.

    Order statistics: the count of values below the median is binomial(n, 1/2), so the k-th from either end is a bound
    where P(count < k) <= (1 - confidence) / 2. With too few values for that, the least and the greatest.
    """
    ordered = sorted(values)
    tail = (1 - confidence) / 2
    rank, below = 1, 0.0
    while rank <= len(ordered) // 2:
        below += comb(len(ordered), rank - 1) / 2 ** len(ordered)
        if below > tail:
            break
        rank += 1
    rank = max(1, rank - 1)
    return ordered[rank - 1], ordered[-rank]


def paired_ratio(mine: Sequence[float | None], floor: Sequence[float | None], rounds_for_interval: int) -> Ratio | None:
    """mine / floor, round by round. Rounds in which either is missing, or the floor is nothing, are left out.

    None where no pair is left.
    """
    ratios = [a / b for a, b in zip(mine, floor, strict=True) if a is not None and b]
    if not ratios:
        return None
    interval = median_interval(ratios) if len(ratios) >= rounds_for_interval else None
    return Ratio(median(ratios), interval)
