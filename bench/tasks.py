"""The app whose node and client are measured. MESH_BROKER_URL names the broker: every run has a mesh of its own."""

import os

from bench import functions
from mesh import Mesh

app = Mesh("bench", broker=os.environ["MESH_BROKER_URL"])

add = app.task(functions.add)
echo = app.task(functions.echo)
nap = app.task(functions.nap)
tick = app.task(functions.tick)
