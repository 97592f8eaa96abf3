"""What a user gets from `pip install`: `mesh`, `mesh_cli` and the command, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh.version import VERSION

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOOK = """
import importlib.util, json, sys
specs = {name: importlib.util.find_spec(name) for name in ("mesh", "mesh_cli", "cli", "bench", "tests")}
print(json.dumps([{name: spec and spec.origin for name, spec in specs.items()}, sys.path]))
"""


class Installed(NamedTuple):
    editable: bool
    environment: Path
    source: Path
    elsewhere: Path  #: a folder that is neither


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PIP_FIND_LINKS"}}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_of_the_project(folder: Path) -> Path:
    """Where a build may leave its traces. `tests` and `bench` come along so that they could go in by mistake."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in ("mesh", "cli", "tests", "bench"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory):
    """The packages of this environment without mesh itself, so that fresh ones need no network and still lack mesh."""
    folder = tmp_path_factory.mktemp("dependencies")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("__editable__", "mesh_tasks")):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by way of the source distribution, which therefore has to be complete as well."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy_of_the_project(folder), cwd=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, tmp_path_factory, dependencies):
    folder = tmp_path_factory.mktemp(request.param)
    environment, elsewhere = folder / "environment", folder / "elsewhere"
    elsewhere.mkdir()
    source = copy_of_the_project(folder)
    what = [request.getfixturevalue("wheel")] if request.param == "wheel" else ["--editable", source]
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    pip = (environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, *what, cwd=elsewhere)
    return Installed(request.param == "editable", environment, source, elsewhere)


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel):
    # Given the modules in the tree, under the names they install as
    modules = {
        "/".join((name, *path.relative_to(ROOT / folder).parts))
        for folder, name in (("mesh", "mesh"), ("cli", "mesh_cli"))
        for path in (ROOT / folder).rglob("*.py")
    }

    # When the wheel is listed
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    # Then it holds those, and the marks that say they are typed
    assert files == modules | {"mesh/py.typed", "mesh_cli/py.typed"}


def test_the_wheel_says_what_it_is_and_needs(wheel):
    # Given the wheel's own description
    archive = zipfile.ZipFile(wheel)
    [path] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]

    # When it is read
    lines = archive.read(path).decode().splitlines()

    # Then it names the distribution, its version and its licence, and asks for three packages
    assert {"Name: mesh-tasks", f"Version: {VERSION}", "License-Expression: Apache-2.0"} <= set(lines)
    needs = {
        line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist") and ";" not in line
    }
    assert needs == {"pyzmq>=26.2", "msgpack>=1.0.8", "click>=8.1"}


def test_the_packages_and_only_they_can_be_imported_from_elsewhere(installed):
    # Given an installation, and a working directory that is not the project's
    python = installed.environment / "bin" / "python"

    # When the names are looked for
    origins, path = json.loads(run(python, "-c", LOOK, cwd=installed.elsewhere))

    # Then ours are found, in the sources when it is editable; no folder of the project is, by name or on the path
    assert {name for name, origin in origins.items() if origin} == {"mesh", "mesh_cli"}
    assert str(installed.source) not in path
    home = installed.source if installed.editable else installed.environment
    assert all(Path(origins[name]).is_relative_to(home) for name in ("mesh", "mesh_cli"))


@pytest.mark.parametrize("command", [("mesh",), ("python", "-m", "mesh")], ids=" ".join)
def test_the_command_runs_from_elsewhere(installed, command):
    program = installed.environment / "bin" / command[0]
    assert VERSION in run(program, *command[1:], "--version", cwd=installed.elsewhere)
