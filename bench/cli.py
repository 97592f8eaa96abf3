"""The command line of the benchmarks."""

import argparse
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType

from bench import machine, report
from bench.cases import CASES, Case, Entrant, select
from bench.rounds import Samples, run_case
from bench.sizes import DEFAULT_ROUNDS, FULL, QUICK, Sizes

EXIT_OK = 0
#: Something could not be measured. A missed budget is a result and not a failure.
EXIT_NOT_MEASURED = 1
EXIT_INTERRUPTED = 130

_EPILOG = """\
examples:
  python -m bench                                   everything, as a Markdown table
  python -m bench --cases sequential,loop --rounds 15
  python -m bench --cases memory --queued 1000000   once, with the drain
  python -m bench --quick --json                    does it run at all
"""
#: A queue of N tasks gets N times this for each of its waits: a tenth of the budgeted speed of a node.
_SECONDS_PER_QUEUED_TASK = 1 / 2_000


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{case.name:12}{case.title}" for case in CASES))
        return EXIT_OK
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        runs = _run(options.cases, options.rounds, _sizes(options.quick, options.queued))
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been ended", file=sys.stderr)
        return EXIT_INTERRUPTED
    _write(_text(runs, options.json, options.quick), options.out)
    return EXIT_NOT_MEASURED if any(samples.failures for samples in runs) else EXIT_OK


def _run(cases: tuple[Case, ...], rounds: int, sizes: Sizes) -> list[Samples]:
    runs: list[Samples] = []
    told: set[str] = set()
    for case in cases:
        runs.append(run_case(case, rounds, sizes, _show))
        for failure in runs[-1].failures:
            print(f"\n{case.name}: {failure}\n{'' if failure.reason in told else failure.log}", file=sys.stderr)
            told.add(failure.reason)
    return runs


def _text(runs: list[Samples], as_json: bool, quick: bool) -> str:
    facts = machine.describe()
    if as_json:
        return json.dumps(report.as_json(runs, facts, quick), indent=2, ensure_ascii=False) + "\n"
    return report.markdown(runs, facts, quick)


def _write(text: str, out: Path | None) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    sys.stdout.write(text)
    if out is not None:
        out.write_text(text)


def _sizes(quick: bool, queued: int | None) -> Sizes:
    sizes = QUICK if quick else FULL
    if queued is None:
        return sizes
    timeout_s = max(sizes.operation_timeout_s, queued * _SECONDS_PER_QUEUED_TASK)
    return replace(sizes, queued_tasks=queued, operation_timeout_s=timeout_s)


def _show(case: Case, number: int, rounds: int, entrant: Entrant) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{case.name}: round {number} of {rounds}, {entrant.label}", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures mesh beside raw pyzmq and a process pool, in turns, on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", type=_cases, default=CASES, metavar="A,B", help="only these (see --list)")
    parser.add_argument(
        "--rounds",
        type=_positive,
        default=DEFAULT_ROUNDS,
        help="rounds a case (%(default)s); from 15 on with intervals",
    )
    parser.add_argument("--queued", type=_positive, metavar="N", help="tasks of the memory case (200 000)")
    parser.add_argument("--quick", action="store_true", help="sizes too small to mean anything, for tests")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it to FILE as well")
    parser.add_argument("--list", action="store_true", help="list the cases and exit")
    return parser


def _cases(names: str) -> tuple[Case, ...]:
    try:
        return select([name.strip() for name in names.split(",")])
    except KeyError as error:
        raise argparse.ArgumentTypeError(error.args[0]) from None


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
