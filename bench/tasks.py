"""The app whose node and client are measured.

MESH_BROKER_URL names the broker: every run has a mesh of its own. MESH_BENCH_DURABILITY is the level of its calls.
"""

import os

from bench import functions
from mesh import Mesh

app = Mesh("bench", broker=os.environ["MESH_BROKER_URL"])
app.conf.task_durability = os.environ.get("MESH_BENCH_DURABILITY", "journaled")

add = app.task(functions.add)
echo = app.task(functions.echo)
nap = app.task(functions.nap)
tick = app.task(functions.tick)
pause = app.task(functions.pause)
