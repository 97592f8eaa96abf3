"""Ending what was started: by pid, and in the end whatever names the run's own directory."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

_POLL_S = 0.01


def stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Asks with SIGTERM, waits, then kills. Returns when the process has been reaped."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def marked(marker: str) -> list[int]:
    """Processes, other than this one, that name `marker` (a directory of this run) in environment or command line."""
    wanted = marker.encode()
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in numbers if pid != os.getpid() and wanted in _environment_and_command(pid)]


def sweep(marker: str, grace_s: float) -> None:
    """Ends every marked process: SIGTERM, then SIGKILL for what is there after `grace_s`. Returns when none is left."""
    _signal_all(marked(marker), signal.SIGTERM)
    deadline_s = time.monotonic() + grace_s
    while left := marked(marker):
        if time.monotonic() > deadline_s:
            _signal_all(left, signal.SIGKILL)
        time.sleep(_POLL_S)


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _environment_and_command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
