"""The project whose tasks the tests call. Nodes and tests import it under one name, and so agree on task names."""

from mesh import Mesh

app = Mesh("proj", include=["tests.mesh.proj.tasks", "tests.mesh.proj.lasting"])
