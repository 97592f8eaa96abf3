"""The result of a run as rows, as Markdown for people and as JSON for programs. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.budgets import Verdict, judge
from bench.cases import MESH, Metric
from bench.figures import Ratio, Spread, paired_ratio, spread
from bench.machine import line
from bench.rounds import Samples
from bench.sizes import ROUNDS_FOR_INTERVAL

_HEAD = "| case | mesh | floors | mesh / floor | budget | |\n|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one case: mesh, its floors by label, the ratio to each, and the budget if there is one."""

    samples: Samples
    metric: Metric
    mesh: Spread | None
    floors: dict[str, Spread]
    ratios: dict[str, Ratio]
    verdict: Verdict | None


def rows_of(samples: Samples) -> list[Row]:
    """A row a metric; metrics that nobody has a figure for are left out, unless they have a budget."""
    rows = (_row(samples, metric) for metric in samples.case.metrics)
    return [row for row in rows if row.mesh or row.floors or row.verdict]


def markdown(runs: Iterable[Samples], facts: dict[str, str], quick: bool) -> str:
    """The table, with the machine above it and what failed below it."""
    runs = list(runs)
    most = max((samples.rounds for samples in runs), default=0)
    parts = [
        line(facts),
        f"Medians (least – greatest) of up to {most} rounds, the systems taking turns. mesh / floor is the median of "
        f"the rounds' ratios, from {ROUNDS_FOR_INTERVAL} rounds on with its 90 % interval, which then decides.",
        "\n".join([_HEAD, *(_line(row) for samples in runs for row in rows_of(samples))]),
    ]
    if quick:
        parts.insert(1, "A quick run: its sizes are too small for the figures to mean anything.")
    if failed := [f"- {samples.case.name}: {failure}" for samples in runs for failure in samples.failures]:
        parts.append("Not measured:\n\n" + "\n".join(failed))
    return "\n\n".join(parts) + "\n"


def as_json(runs: Iterable[Samples], facts: dict[str, str], quick: bool) -> dict[str, Any]:
    """Everything that was measured, round by round; `quick` says that the sizes were too small to mean anything."""
    runs = list(runs)
    return {
        "machine": facts,
        "quick": quick,
        "rows": [_row_as_json(row) for samples in runs for row in rows_of(samples)],
        "failures": [
            {
                "case": samples.case.name,
                "system": failure.system,
                "operation": failure.operation,
                "reason": failure.reason,
            }
            for samples in runs
            for failure in samples.failures
        ],
    }


def figure(value: float) -> str:
    """Three digits that count; thousands are grouped."""
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _row(samples: Samples, metric: Metric) -> Row:
    mine = samples.of(MESH, metric.key)
    labels = [entrant.label for entrant in samples.case.entrants if entrant.label != MESH]
    floors = {label: samples.of(label, metric.key) for label in labels}
    ratios = {label: paired_ratio(mine, values, ROUNDS_FOR_INTERVAL) for label, values in floors.items()}
    spreads = {label: _spread(values) for label, values in floors.items()}
    return Row(
        samples,
        metric,
        _spread(mine),
        {label: found for label, found in spreads.items() if found},
        {label: ratio for label, ratio in ratios.items() if ratio},
        _verdict(samples, metric, mine),
    )


def _verdict(samples: Samples, metric: Metric, mine: list[float | None]) -> Verdict | None:
    budget = metric.budget
    if budget is None:
        return None
    floor = samples.of(budget.floor, budget.floor_metric or metric.key) if budget.floor else []
    return judge(budget, mine, floor)


def _spread(values: list[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return spread(known) if known else None


def _line(row: Row) -> str:
    metric = row.metric
    cells = (
        f"{row.samples.case.title}: {metric.title}, {metric.unit}",
        _spread_text(row.mesh) if row.mesh else "–",
        "; ".join(f"{label} {_spread_text(found)}" for label, found in row.floors.items()),
        "; ".join(_ratio_text(label, ratio) for label, ratio in row.ratios.items()),
        metric.budget.text(metric.unit) if metric.budget else "",
        row.verdict or "",
    )
    return "| " + " | ".join(cells) + " |"


def _spread_text(found: Spread) -> str:
    if found.low == found.high:
        return figure(found.median)
    return f"{figure(found.median)} ({figure(found.low)} – {figure(found.high)})"


def _ratio_text(label: str, ratio: Ratio) -> str:
    interval = f" [{ratio.interval[0]:.2f} – {ratio.interval[1]:.2f}]" if ratio.interval else ""
    return f"{ratio.median:.2f} × {label}{interval}"


def _row_as_json(row: Row) -> dict[str, Any]:
    samples, metric = row.samples, row.metric
    return {
        "case": samples.case.name,
        "metric": metric.key,
        "unit": metric.unit,
        "rounds": {entrant.label: samples.of(entrant.label, metric.key) for entrant in samples.case.entrants},
        "mesh": row.mesh._asdict() if row.mesh else None,
        "floors": {label: found._asdict() for label, found in row.floors.items()},
        "ratios": {label: ratio._asdict() for label, ratio in row.ratios.items()},
        "budget": metric.budget.text(metric.unit) if metric.budget else None,
        "verdict": row.verdict,
    }
