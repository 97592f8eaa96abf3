"""What the kernel says about a process: memory, CPU, wake-ups. Read from /proc, so Linux only."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def pss_bytes(pid: int) -> int:
    """Proportional set size: private pages, and of each shared page the share of one of its users.

    Raises OSError where the process is gone.
    """
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no Pss in the smaps_rollup of process {pid}")


def descriptors(pid: int) -> int:
    """How many descriptors it has open."""
    return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())


def cpu_ns(pid: int) -> int:
    """CPU time of the living threads. From schedstat, because the ticks of `stat` are 10 ms."""
    return sum(int(text.split()[0]) for text in _of_threads(pid, "schedstat"))


def wake_ups(pid: int) -> int:
    """Voluntary context switches of the living threads: how often one of them went to sleep, and so was woken."""
    prefix = "voluntary_ctxt_switches:"
    lines = (line for text in _of_threads(pid, "status") for line in text.splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith(prefix))


def _of_threads(pid: int, name: str) -> Iterable[str]:
    for thread in (_PROC / str(pid) / "task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            yield (thread / name).read_text()
