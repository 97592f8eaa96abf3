"""The benchmark's end of a driver: gives it a directory, asks it to measure, and leaves nothing of it behind."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from bench.operations import Figures
from bench.processes import stop, sweep
from bench.sizes import Sizes

#: Names the driver's directory in the environment of everything that the driver starts.
DIRECTORY_VARIABLE = "MESH_BENCH_DIRECTORY"
#: An operation consists of several waits, each bounded by the sizes' time-out.
_WAITS = 40
_STOP_S = 10.0
#: Where `python -m bench.driver` is found.
_ROOT = Path(__file__).parents[1]
_SWEEP_S = 2.0


class MeasurementFailed(Exception):
    """A driver could not do what it was asked to. `system`, `operation`, `reason` and the end of its log."""

    def __init__(self, system: str, operation: str, reason: str, log: str) -> None:
        super().__init__(f"{operation} on {system}: {reason}")
        self.system = system
        self.operation = operation
        self.reason = reason
        self.log = log


class RemoteSystem:
    """1. Runs one driver process. 2. Sends it requests, one at a time. 3. Ends it and all that it started."""

    def __init__(self, system: str) -> None:
        self.system = system
        # Short, and not in TMPDIR: an ipc address has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp"))
        #: Whether an answer is due: a driver at work does not see that it is no longer wanted.
        self._asked = False
        self._log = self.directory / "driver.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.driver", system, str(self.directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
                env={**os.environ, DIRECTORY_VARIABLE: str(self.directory)},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def perform(self, operation: str, sizes: Sizes) -> Figures:
        """Figures of one operation; "start" has none. Raises MeasurementFailed."""
        request = json.dumps({"operation": operation, "sizes": asdict(sizes)})
        assert self._process.stdin is not None
        self._asked = True
        try:
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._line(sizes.operation_timeout_s * _WAITS))
        except (OSError, ValueError) as error:
            raise self._failed(operation, str(error)) from error
        self._asked = False
        if "error" in answer:
            raise self._failed(operation, answer["error"])
        figures: Figures = answer["figures"]
        return figures

    def close(self) -> None:
        """Ends the driver, then every process that its directory marks, then the directory."""
        try:
            self._hang_up()
        finally:
            stop(self._process, _SWEEP_S)
            sweep(str(self.directory), _SWEEP_S)
            shutil.rmtree(self.directory, ignore_errors=True)

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if self._asked else _STOP_S)

    def _line(self, timeout_s: float) -> bytes:
        """The next answer. Raises TimeoutError where none comes, BrokenPipeError where the driver has died."""
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + timeout_s
        received = b""
        while not received.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer within {timeout_s:.0f} s")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                raise BrokenPipeError("the driver process has died")
            received += part
        return received

    def _failed(self, operation: str, reason: str) -> MeasurementFailed:
        return MeasurementFailed(self.system, operation, reason, self._log.read_text(errors="replace")[-2000:])
