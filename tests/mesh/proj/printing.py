"""Tasks that have something to say. Nodes import them by `-I tests.mesh.proj.printing`."""

from __future__ import annotations

import os
import sys

from mesh import get_task_logger
from tests.mesh.proj import app

logger = get_task_logger(__name__)


@app.task
def say(text: str, end: str = "\n", to_stderr: bool = False) -> int:
    print(text, end=end, file=sys.stderr if to_stderr else sys.stdout)
    return os.getpid()


@app.task
def log(text: str) -> None:
    logger.warning(text)


@app.task
def shout(letter: str, length: int) -> None:
    """Prints and logs long lines, and fails with a long one."""
    print(letter * length)
    logger.warning(letter * length)
    raise ValueError(letter * length)


@app.task
def write_directly(text: str) -> None:
    """As C code and subprocesses do."""
    os.write(1, f"{text}\n".encode())
    os.write(2, f"{text}\n".encode())


@app.task
def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
