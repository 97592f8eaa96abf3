"""Every example is run as its own first lines say: in its directory, with a node of `proj` running."""

import ast
import re
import shutil
from pathlib import Path

import pytest

from tests.acceptance.walkthrough import Reader, Step

EXAMPLES = Path(__file__).parents[2] / "examples"
#: {example: what it prints}
SAID = {
    "batch.py": "the last of 2000 squares is 3996001",
    "fan_out.py": "10 parts add up to 499999500000",
    "other_process.py": "called: 2fc7910e-e9f1-8859-b53c-380000000001\nanother process reads: 5",
}


@pytest.fixture
def reader(mesh_dir, tmp_path):
    directory = shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    reader = Reader(directory, mesh_dir)
    yield reader
    reader.close()


def test_every_example_is_known_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == SAID.keys()


@pytest.mark.parametrize("name", sorted(SAID))
def test_an_example_does_what_it_says(name, reader):
    # Given what its first lines tell to type
    docstring = ast.get_docstring(ast.parse((EXAMPLES / name).read_text()))
    node, example = re.findall(r"`([^`]+)`", docstring or "")

    # When both are typed, then the example prints what is expected
    reader.type(Step(node, ""))
    reader.type(Step(example, SAID[name]))


def test_the_project_starts_as_a_module_too(reader):
    reader.type(Step("python -m proj.mesh --version", "mesh 0.1.0"))
