"""The benchmarks: their arithmetic, their table, and that a run gives figures and leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import report
from bench.budgets import Budget, Sense, Verdict, judge
from bench.cases import CASES, select
from bench.figures import median_interval, paired_ratio, percentile, spread
from bench.operations import Figures
from bench.processes import marked
from bench.remote import MeasurementFailed, RemoteSystem
from bench.rounds import Samples
from bench.sizes import QUICK, ROUNDS_FOR_INTERVAL

ROOT = Path(__file__).parents[2]
FACTS = {"cpu": "a CPU", "cores": "2", "kernel": "6", "python": "3", "pyzmq": "27", "libzmq": "4", "msgpack": "1"}
FACTS["date"] = "2026-01-01"


@pytest.mark.parametrize(
    ("desc", "values", "percent", "expected"),
    [
        ("one value is every percentile", [7.0], 99, 7.0),
        ("the median of an odd number", [3.0, 1.0, 2.0], 50, 2.0),
        ("the lower of two", [1.0, 2.0], 50, 1.0),
        ("a hundred values", [float(n) for n in range(1, 101)], 99, 99.0),
    ],
)
def test_a_percentile_is_the_value_of_the_nearest_rank(desc, values, percent, expected):
    assert percentile(values, percent) == expected, desc


def test_no_values_have_neither_percentile_nor_spread():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no values"):
        spread([])


@pytest.mark.parametrize(("count", "rank"), [(15, 4), (20, 6), (30, 11)])
def test_the_interval_of_a_median_lies_between_the_ranks_of_the_sign_test(count, rank):
    # Given the values 1 … n, so that a value is its rank; the ranks are those of the usual table for 90 %
    values = [float(n) for n in range(count, 0, -1)]

    # When / Then
    assert median_interval(values) == (rank, count + 1 - rank)


def test_too_few_values_give_an_interval_from_the_least_to_the_greatest():
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_a_ratio_is_taken_round_by_round_and_leaves_out_what_is_missing():
    # Given a machine that is twice as slow in the second round, and a third round that failed
    mesh, floor = [20.0, 40.0, None], [10.0, 20.0, 10.0]

    # When
    ratio = paired_ratio(mesh, floor, ROUNDS_FOR_INTERVAL)

    # Then the drift does not show
    assert ratio is not None
    assert (ratio.median, ratio.interval) == (2.0, None)


def test_a_ratio_has_an_interval_from_enough_rounds_on():
    ratio = paired_ratio([2.0] * ROUNDS_FOR_INTERVAL, [1.0] * ROUNDS_FOR_INTERVAL, ROUNDS_FOR_INTERVAL)

    assert ratio is not None
    assert ratio.interval == (2.0, 2.0)


def test_there_is_no_ratio_without_a_pair():
    assert paired_ratio([None, 1.0], [1.0, None], ROUNDS_FOR_INTERVAL) is None
    assert paired_ratio([1.0], [0.0], ROUNDS_FOR_INTERVAL) is None


_MANY = ROUNDS_FOR_INTERVAL
_AT_MOST = Budget(Sense.AT_MOST, 1.25, "raw")


@pytest.mark.parametrize(
    ("desc", "budget", "mesh", "floor", "expected"),
    [
        ("a ratio within its limit", _AT_MOST, [1.2], [1.0], Verdict.OK),
        ("a ratio beyond it", _AT_MOST, [1.3], [1.0], Verdict.MISSED),
        ("at least so many times", Budget(Sense.AT_LEAST, 3, "pool"), [31.0], [10.0], Verdict.OK),
        ("less than so many times", Budget(Sense.AT_LEAST, 3, "pool"), [29.0], [10.0], Verdict.MISSED),
        ("an absolute limit", Budget(Sense.AT_MOST, 600), [600.0], [], Verdict.OK),
        ("nothing measured", Budget(Sense.AT_MOST, 600), [None], [], Verdict.UNKNOWN),
        ("no floor measured", _AT_MOST, [1.0], [None], Verdict.UNKNOWN),
        ("one bad round of five", _AT_MOST, [1.2] * 4 + [9.0], [1.0] * 5, Verdict.OK),
        ("a clear interval", _AT_MOST, [1.2] * (_MANY - 1) + [9.0], [1.0] * _MANY, Verdict.OK),
        ("an interval across the limit", _AT_MOST, [1.2] * (_MANY - 5) + [9.0] * 5, [1.0] * _MANY, Verdict.MISSED),
    ],
)
def test_a_budget_is_judged_by_the_median_and_with_enough_rounds_by_the_interval(desc, budget, mesh, floor, expected):
    assert judge(budget, mesh, floor) is expected, desc


@pytest.fixture
def samples():
    """Two rounds of the sequential case, in the second of which mesh failed."""
    (case,) = select(["sequential"])
    figures: dict[str, list[Figures | None]] = {
        "mesh": [{"p50": 240.0, "p99": 500.0}, None],
        "raw": [{"p50": 200.0, "p99": 400.0}, {"p50": 220.0, "p99": 450.0}],
        "pool": [{"p50": 120.0, "p99": 600.0}, {"p50": 130.0, "p99": 700.0}],
    }
    failed = MeasurementFailed("mesh", "sequential", "no answer within 1 s", "a log")
    return Samples(case, 2, figures, [failed])


def test_the_table_has_a_line_a_metric_with_floors_ratios_budget_and_verdict(samples):
    table = report.markdown([samples], FACTS, quick=False)

    row = "240 | raw 210 (200 – 220); pool 125 (120 – 130) | 1.20 × raw; 2.00 × pool | ≤ 1.25 × raw | ok |"
    assert f"| one call at a time: p50, µs | {row}" in table
    assert "| ≤ 3 × raw p50 | ok |" in table
    assert "- sequential: sequential on mesh: no answer within 1 s" in table
    assert table.startswith("a CPU, 2 cores")


def test_the_json_holds_every_round_and_survives_a_round_trip(samples):
    told = json.loads(json.dumps(report.as_json([samples], FACTS, quick=True)))

    first = told["rows"][0]
    assert first["rounds"]["mesh"] == [240.0, None]
    assert first["verdict"] == "ok"
    assert told["failures"][0]["system"] == "mesh"
    assert told["quick"] is True


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (12345.6, "12,346")]
)
def test_a_figure_has_about_three_digits(value, text):
    assert report.figure(value) == text


def test_every_case_has_mesh_first_and_budgets_that_name_an_entrant():
    for case in CASES:
        labels = [entrant.label for entrant in case.entrants]
        floors = {metric.budget.floor for metric in case.metrics if metric.budget and metric.budget.floor}
        assert labels[0] == "mesh", case.name
        assert floors <= set(labels[1:]), case.name
        assert len(set(labels)) == len(labels), case.name


def test_an_unknown_case_is_refused_with_the_known_ones():
    with pytest.raises(KeyError, match="no case is called sideways; there are sequential, loop"):
        select(["sideways"])


@pytest.mark.parametrize("system", ["raw", "pool"])
def test_a_floor_measures_and_leaves_no_process_behind(system):
    # Given a started floor
    with RemoteSystem(system) as remote:
        remote.perform("start", QUICK)

        # When it is measured
        figures = [remote.perform(operation, QUICK) for operation in ("sequential", "loop", "batch", "gather", "echo")]
        directory = remote.directory

    # Then there are figures, and nobody names its directory any more
    assert all(value > 0 for found in figures for value in found.values())
    assert not marked(str(directory))
    assert not directory.exists()


def test_an_operation_that_fails_says_why_and_the_driver_goes_on():
    with RemoteSystem("pool") as remote:
        with pytest.raises(MeasurementFailed, match="sequential_typo on pool"):
            remote.perform("sequential_typo", QUICK)
        assert remote.perform("cold", QUICK)["time"] > 0


def test_a_quick_run_prints_pure_json_with_mesh_beside_its_floors():
    # When
    command = [sys.executable, "-m", "bench", "--cases", "sequential", "--quick", "--rounds", "1", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100, check=False)

    # Then
    told = json.loads(run.stdout)
    assert told["failures"] == [], run.stderr.decode()
    assert run.returncode == 0
    rounds = {row["metric"]: row["rounds"] for row in told["rows"]}
    assert set(rounds["p50"]) == {"mesh", "raw", "pool"}
    assert all(value > 0 for values in rounds["p50"].values() for value in values)
