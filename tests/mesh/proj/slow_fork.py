"""A module of the project in whose processes a fork takes its time."""

import os
import signal
import time

from tests.mesh.proj import app

os.register_at_fork(after_in_child=lambda: time.sleep(0.3))


@app.task
def fork_and_terminate() -> int:
    """Forks, and terminates the child at once. The signal that has ended it."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
    os.kill(child, signal.SIGTERM)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
