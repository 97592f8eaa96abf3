"""`python -m tests.sim --seeds A-B --events N [--shrink]`: many storms, and a count of what happened in them."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.sim.storm import Script, run, script_of
from tests.sim.workload import Event


def shrink(script: Script) -> list[Event]:
    """Fewer events that fail as well: leaves out ever smaller parts of the list."""
    events = list(script.events)
    part = len(events) // 2
    while part:
        at = 0
        while at < len(events):
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


def describe(script: Script, error: BaseException, events: Sequence[Event]) -> str:
    """What failed, and the events that lead there."""
    lines = [f"seed {script.seed} ({script.climate.name}): {type(error).__name__}: {error}", str(script.plan)]
    return "\n".join([*lines, *(str(event)[:400] for event in events)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0-99", help="first-last, both included")
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument(
        "--shrink", action="store_true", help="look for the fewest events that make a failing seed fail"
    )
    parser.add_argument("--quiet", action="store_true", help="one line a failing seed")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    total: Counter[str] = Counter()
    failed = 0
    begun_s = time.perf_counter()
    for seed in range(int(first), int(last or first) + 1):
        script = script_of(seed, options.events)
        total[f"climate {script.climate.name}"] += 1
        try:
            total.update(run(script).counts)
        except Exception as error:
            failed += 1
            if options.quiet:
                print(f"seed {seed} ({script.climate.name}): {type(error).__name__}: {str(error)[:200]}", flush=True)
                continue
            print(describe(script, error, shrink(script) if options.shrink else script.events), flush=True)
    for name, count in sorted(total.items()):
        print(f"{count:12,} {name}")
    print(f"{failed} failed, {time.perf_counter() - begun_s:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
