"""`python -m tests.sim --seeds 0-99`: many storms, and a count of what happened in them.

`--hours 2 --jobs 2` runs new seeds for so long, picked by the commit: what `make nightly` does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.sim.coverage import table
from tests.sim.many import EVENTS, Asked, Total, describe_alike, play_all


def main() -> int:
    options = _options()
    total = Total()
    begun_s = time.perf_counter()
    for played in play_all(_asked(options), options.jobs):
        total.add(played)
        if played.error:
            shown = f"seed {played.seed} ({played.climate}): {played.error[:300]}"
            if not options.quiet:
                shown = describe_alike(Asked(played.seed, options.events, options.fair), played.error)
            print(shown, flush=True)
    took_s = time.perf_counter() - begun_s
    for name, count in sorted(total.counts.items()):
        print(f"{count:12,} {name}")
    if options.table:
        print(table(total.met))
    print(f"{total.n_played} seeds, {len(total.failed)} failed, {took_s:.1f} s, {total.n_played / took_s:.2f} a second")
    return 1 if total.failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0-99", help="first-last, both included; or one, which may be any text")
    parser.add_argument("--events", type=int, default=EVENTS, help="events of each")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--fair", action="store_true", help="without faults")
    parser.add_argument("--hours", type=float, help="new seeds for so long, instead of --seeds")
    parser.add_argument("--table", action="store_true", help="print how often each transition was met under each fault")
    parser.add_argument("--quiet", action="store_true", help="one line a failing seed, no shrinking")
    return parser.parse_args()


def _asked(options: argparse.Namespace) -> Iterator[Asked]:
    seeds: Iterator[int | str]
    if options.hours is not None:
        seeds = _new_seeds(options.hours)
    else:
        first, _, last = options.seeds.partition("-")
        seeds = iter(range(int(first), int(last or first) + 1)) if first.isdigit() else iter([options.seeds])
    return (Asked(seed, options.events, options.fair) for seed in seeds)


def _new_seeds(hours: float) -> Iterator[str]:
    """Seeds that no earlier commit has seen, until the time is up."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:12]
    deadline_s, number = time.monotonic() + 3600 * hours, 0
    while time.monotonic() < deadline_s:
        yield f"{commit}.{number}"
        number += 1


if __name__ == "__main__":
    sys.exit(main())
