"""Calls a task in one process and reads its result in another, which knows nothing but the id.

Start a node in this directory with `mesh -A proj worker`, then run `python other_process.py`.
"""

import subprocess
import sys

from proj.mesh import app
from proj.tasks import add

if len(sys.argv) == 1:
    # `confirm` waits until the router answers for the call: from then on this process is not needed for it.
    call = add.apply_async((2, 3), confirm=True)
    print(f"called: {call.id}", flush=True)
    subprocess.run([sys.executable, __file__, call.id], check=True)
else:
    result = app.AsyncResult(sys.argv[1])
    print(f"another process reads: {result.get(timeout=60)}")
