"""On what the figures were taken: a table of numbers means nothing without it."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import msgpack
import zmq


def describe() -> dict[str, str]:
    """What the figures depend on, by name, in the order in which it is printed."""
    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "msgpack": ".".join(str(part) for part in msgpack.version),
        "date": datetime.now(UTC).date().isoformat(),
    }


def line(facts: dict[str, str]) -> str:
    """One line for people."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, "
        f"pyzmq {facts['pyzmq']}, libzmq {facts['libzmq']}, msgpack {facts['msgpack']}, {facts['date']}"
    )


def _cpu_model() -> str:
    for row in Path("/proc/cpuinfo").read_text().splitlines():
        if row.startswith("model name"):
            return row.partition(":")[2].strip()
    return platform.machine()
