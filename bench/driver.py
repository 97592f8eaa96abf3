"""The process of one system's client: nothing else adds to its CPU and memory, and no pool forks a ZeroMQ context.

`python -m bench.driver SYSTEM DIRECTORY` reads requests from stdin, a JSON object a line, {"operation": …, "sizes": …},
and answers each with a line, {"figures": …} or {"error": …}. The operation "start" starts the system. The end of stdin,
or SIGTERM, stops the system and ends the process.
"""

import contextlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from bench.operations import OPERATIONS, Figures
from bench.sizes import Sizes
from bench.systems.protocol import System

#: {system: the level at which its calls are made}: mesh at its default, and beside it at others.
LEVELS = {"mesh": "journaled", "none": "none", "synced": "synced"}
SYSTEMS = (*LEVELS, "raw", "pool")


def open_system(name: str, directory: Path) -> System:
    """Imports only what the named system needs. Raises KeyError for an unknown name."""
    if name in LEVELS:
        from bench.systems.mesh_system import MeshSystem

        return MeshSystem(directory, LEVELS[name])
    if name == "raw":
        from bench.systems.raw_system import RawSystem

        return RawSystem(directory)
    if name == "pool":
        from bench.systems.pool_system import PoolSystem

        return PoolSystem()
    raise KeyError(f"no system is called {name!r}; there are {', '.join(SYSTEMS)}")


def serve(system: System, directory: Path, requests: TextIO, answers: TextIO) -> None:
    """Answers requests until there are no more."""
    for line in requests:
        request = json.loads(line)
        print(json.dumps(_answer(system, directory, request)), file=answers, flush=True)


def perform(system: System, directory: Path, operation: str, sizes: Sizes) -> Figures:
    """Does one request. Raises what the system raises."""
    if operation == "start":
        system.start(sizes)
        return {}
    return OPERATIONS[operation](system, sizes, directory)


def main(name: str, directory: Path) -> None:
    """Serves stdin; stdout is kept for answers, and whatever else is printed goes to stderr."""
    signal.signal(signal.SIGTERM, _leave)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    system = open_system(name, directory)
    with contextlib.ExitStack() as stack:
        stack.callback(system.stop)
        serve(system, directory, sys.stdin, answers)


def _answer(system: System, directory: Path, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"figures": perform(system, directory, request["operation"], Sizes(**request["sizes"]))}
    except Exception as error:  # whatever a system raises is the result of its measurement
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
