"""DESIGN's layers hold in `mesh`, and the checker that says so can tell."""

from pathlib import Path

import pytest

from tests.architecture.layering import read_sources, violations

PACKAGE = Path(__file__).parents[2] / "mesh"

BREACHES = [
    pytest.param(
        {"clock": "from mesh.router import Router", "router": ""},
        "mesh.clock:1 imports mesh.router, which is in a layer below it",
        id="a module imports from below",
    ),
    pytest.param(
        {"codec": "import mesh.app as application", "app": ""},
        "mesh.codec:1 imports mesh.app, which is in a layer below it",
        id="a module imports from below under another name",
    ),
    pytest.param(
        {"codec": "from .app import Mesh", "app": ""},
        "mesh.codec:1 imports mesh.app, which is in a layer below it",
        id="a module imports from below by a relative name",
    ),
    pytest.param(
        {"codec": "def late():\n    from mesh.app import Mesh", "app": ""},
        "mesh.codec:2 imports mesh.app, which is in a layer below it",
        id="a module imports from below inside a function",
    ),
    pytest.param(
        {"core": "", "core.leases": "from ..journal import Journal", "journal": ""},
        "mesh.core.leases:1 imports mesh.journal, which is in a layer below it",
        id="the core imports from below by a relative name",
    ),
    pytest.param(
        {"codec": "from mesh.pools import prefork", "pools": "", "pools.prefork": ""},
        "mesh.codec:1 imports mesh.pools.prefork, which is in a layer below it",
        id="a module imports a module out of a subpackage below",
    ),
    pytest.param(
        {"app": "import mesh"},
        "mesh.app:1 imports the package root; import the module that defines the name",
        id="a module imports the root",
    ),
    pytest.param(
        {"app": "from mesh import Task"},
        "mesh.app:1 imports the package root; import the module that defines the name",
        id="a module imports from the root",
    ),
    pytest.param(
        {"app": "from . import Task", "task": ""},
        "mesh.app:1 imports the package root; import the module that defines the name",
        id="a module imports from the root by a relative name",
    ),
    pytest.param(
        {"app": "import mesh.task", "task": ""},
        "mesh.app:1 imports the package root; import the module that defines the name",
        id="a plain import of a submodule binds the root",
    ),
    pytest.param(
        {"client": "import zmq"},
        "mesh.client:1 imports zmq; only security and transport may",
        id="a shell imports zmq",
    ),
    pytest.param(
        {"client": "from zmq.auth import load_certificate"},
        "mesh.client:1 imports zmq; only security and transport may",
        id="a shell imports from a subpackage of zmq",
    ),
    *(
        pytest.param(
            {"core.dispatch": f"import {impure}"},
            f"mesh.core.dispatch:1 imports {impure}; what decides is pure and gets clocks, chance and ids as arguments",
            id=f"the core imports {impure}",
        )
        for impure in ("asyncio", "multiprocessing", "os", "random", "socket", "threading", "time")
    ),
    pytest.param(
        {"core": "from os.path import join"},
        "mesh.core:1 imports os; what decides is pure and gets clocks, chance and ids as arguments",
        id="the package of the core imports from os.path",
    ),
    pytest.param(
        {"core.dispatch": "from zmq import Poller"},
        "mesh.core.dispatch:1 imports zmq; what decides is pure and gets clocks, chance and ids as arguments",
        id="the core imports zmq",
    ),
    pytest.param(
        {"loading": "import mesh_cli"},
        "mesh.loading:1 imports mesh_cli: the command line may know mesh, but not mesh the command line",
        id="a module imports the command line",
    ),
    pytest.param(
        {"loading": "from cli.demo import command"},
        "mesh.loading:1 imports cli: the command line may know mesh, but not mesh the command line",
        id="a module imports the command line by its folder",
    ),
    pytest.param(
        {"utils": ""},
        "mesh/utils is in no layer: add it to LAYERS in tests/architecture/layering.py",
        id="a module is in no layer",
    ),
    pytest.param(
        {"states": "from mesh.clock import Now", "clock": "from mesh.states import State"},
        "import circle: states -> clock -> states",
        id="two modules of a layer import each other",
    ),
    pytest.param(
        {
            "core.leases": "from mesh.core.credit import Credit",
            "core.credit": "from . import ready",
            "core.ready": "from .leases import Lease",
            "core": "",
        },
        "import circle: core.leases -> core.credit -> core.ready -> core.leases",
        id="three modules of the core import each other",
    ),
]


def test_the_layers_hold():
    # Given the package as it is
    sources = read_sources(PACKAGE)

    assert "core" in sources

    # When it is judged
    found = violations(sources)

    # Then nothing is wrong
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("sources", "breach"), BREACHES)
def test_the_checker_sees_that(sources, breach):
    assert breach in violations(sources)


def test_the_checker_is_content_with_imports_from_above_and_beside():
    # Given one module of each kind that is allowed something
    sources = {
        "exceptions": "import os",
        "states": "from mesh.exceptions import MeshError",
        "core": "",
        "core.leases": "from mesh.states import State\nfrom dataclasses import dataclass",
        "core.dispatch": "from mesh.core import leases\nfrom .leases import Lease",
        "security": "import zmq.auth",
        "transport": "import zmq\nfrom mesh.security import keys",
        "router": "import time\nimport mesh.core.dispatch as dispatch",
        "task": "",
        "app": "from mesh.task import Task",
        "__init__": "from mesh.app import Mesh\nfrom .states import State",
        "__main__": "from mesh_cli import main",
    }

    # When they are judged, then none is blamed
    assert violations(sources) == []


def test_sources_are_read_under_the_names_the_layers_use(tmp_path):
    # Given a package with a subpackage
    (tmp_path / "core").mkdir()
    for path in ("__init__.py", "app.py", "core/__init__.py", "core/leases.py"):
        (tmp_path / path).write_text("import socket\n")

    # When it is read
    sources = read_sources(tmp_path)

    # Then each module goes by its dotted name, and only the root keeps its `__init__`
    assert set(sources) == {"__init__", "app", "core", "core.leases"}
