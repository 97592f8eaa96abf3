"""Mutation check: makes small mistakes in the core and the journal, and counts those that the tests notice.

mutmut makes the mutants and runs them; what it mutates, and by which tests, is in pyproject.toml. Here is chosen which
of them run: a sample that the commit decides (what CI does), or all (`--all`: hours, what `make nightly` does).
Survivors are listed; those that are no gap in the tests stand in survivors.toml, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: Where mutmut works.
MUTANTS = ROOT / "mutants"
KNOWN = Path(__file__).with_name("survivors.toml")
MUTMUT = Path(sys.executable).with_name("mutmut")
#: Mutants of one sample: about five minutes on two idle CPUs, of which one and a half go before the first mutant runs.
SAMPLE = 200
#: The share that must be killed.
REQUIRED = 0.8
#: Exit codes of mutmut's workers; every other one is a mutant that was noticed, by a failing test or by its time.
_SURVIVED, _UNTESTED = 0, 33


class Mutant(NamedTuple):
    """One mistake."""

    name: str  #: as mutmut calls it
    where: str  #: module, class and function
    was: str
    becomes: str

    def __str__(self) -> str:
        return f"{self.where}\n    - {self.was}\n    + {self.becomes}"


class Reason(NamedTuple):
    """Why a survivor is no gap in the tests. What is left out holds for all."""

    why: str
    where: str = "*"  #: a glob
    was: str = ""  #: regular expressions to be found in the lines
    becomes: str = ""

    def explains(self, mutant: Mutant) -> bool:
        """Whether this is such a survivor."""
        return (
            fnmatchcase(mutant.where, self.where)
            and re.search(self.was, mutant.was) is not None
            and re.search(self.becomes, mutant.becomes) is not None
        )


def main() -> int:
    """Runs the check. The exit code says whether enough mutants were killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every mutant, not a sample")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"how many mutants ({SAMPLE})")
    parser.add_argument("--seed", help="what decides the sample; the commit, if not given")
    parser.add_argument("--only", default="*", help='a glob for names: "mesh.core.ledger.*"')
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="mutants at a time")
    asked = parser.parse_args()
    names = sorted(name for name in generate() if fnmatchcase(name, asked.only))
    if not asked.all:
        seed = asked.seed or commit()
        print(f"{min(asked.sample, len(names))} of {len(names)} mutants, picked by {seed}")
        names = sorted(random.Random(seed).sample(names, min(asked.sample, len(names))))
    subprocess.run([MUTMUT, "run", "--max-children", str(asked.jobs), *names], cwd=ROOT, check=True)
    return judge(names)


def commit() -> str:
    """The commit that is checked out."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    return found.stdout.strip()


def generate() -> list[str]:
    """Makes all mutants, and learns which tests run which function. Their names."""
    # Asked for a mutant that does not exist, mutmut stops when it has done just that.
    made = subprocess.run([MUTMUT, "run", "none"], cwd=ROOT, check=False, capture_output=True, text=True)
    names = list(exit_codes())
    if not names or not (MUTANTS / "mutmut-stats.json").exists():
        sys.exit(f"mutmut could not make its mutants:\n{made.stdout}\n{made.stderr}")
    return names


def exit_codes() -> dict[str, int | None]:
    """{mutant: exit code of its tests}; None where they have not run."""
    codes: dict[str, int | None] = {}
    for path in sorted(MUTANTS.rglob("*.py.meta")):
        codes |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return codes


def judge(names: list[str]) -> int:
    """Prints how many were killed, by module, and who has survived and why."""
    codes = exit_codes()
    survivors = [name for name in names if codes[name] in (_SURVIVED, _UNTESTED)]
    modules: dict[str, list[int]] = {}
    for name in names:
        count = modules.setdefault(module_of(name), [0, 0])
        count[0] += codes[name] not in (_SURVIVED, _UNTESTED)
        count[1] += 1
    killed = len(names) - len(survivors)
    print_survivors([shown(name) for name in survivors])
    for module, (noticed, of) in sorted(modules.items()):
        print(f"{module:32}{noticed:6} of {of:5}{100 * noticed / of:8.1f} %")
    share = killed / max(1, len(names))
    print(f"{'all':32}{killed:6} of {len(names):5}{100 * share:8.1f} %, required {100 * REQUIRED:.0f} %")
    return int(share < REQUIRED)


def print_survivors(survivors: Iterable[Mutant]) -> None:
    """Those that are known by their reason, then the others."""
    reasons = [Reason(**one) for one in tomllib.loads(KNOWN.read_text(encoding="utf-8"))["reason"]]
    explained: dict[str, int] = {}
    unexplained = []
    for mutant in survivors:
        why = next((reason.why for reason in reasons if reason.explains(mutant)), None)
        if why is None:
            unexplained.append(mutant)
        else:
            explained[why] = explained.get(why, 0) + 1
    for why, count in explained.items():
        print(f"{count:4} survived: {why}")
    for mutant in unexplained:
        print(f"survived without a reason: {mutant}")


def module_of(name: str) -> str:
    """The module of a mutant."""
    return name.rpartition(".")[0]


def shown(name: str) -> Mutant:
    """What a mutant is, from its name."""
    diff = subprocess.run([MUTMUT, "show", name], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    was = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    becomes = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    # mutmut mangles Class.function of a module as xǁClassǁfunction__mutmut_7, and a function as x_function__mutmut_7.
    mangled = name.rpartition(".")[2].partition("__mutmut_")[0]
    function = mangled.removeprefix("xǁ").replace("ǁ", ".") if "ǁ" in mangled else mangled.removeprefix("x_")
    return Mutant(name, f"{module_of(name)}.{function}", was, becomes)


if __name__ == "__main__":
    sys.exit(main())
