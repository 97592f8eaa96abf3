"""What holds for every source file, whatever it is about."""

import io
import re
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("mesh", "cli", "bench", "tests", "examples")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def unfinished(source: str) -> list[str]:
    """The comments that put work off. Comments only, so that this file may name what it looks for."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT and UNFINISHED.search(token.string)]


def test_no_comment_puts_work_off():
    # Given all sources
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert paths

    # When their comments are read
    found = {str(path.relative_to(ROOT)): unfinished(path.read_text(encoding="utf-8")) for path in paths}

    # Then none says that something is still to be done
    assert {path: comments for path, comments in found.items() if comments} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        pytest.param("x = 1  # TODO: two\n", ["# TODO: two"], id="a comment"),
        pytest.param("# see FIXME below\n", ["# see FIXME below"], id="the middle of a comment"),
        pytest.param("x = 'TODO'\n# the method\n", [], id="a string and another word"),
    ],
)
def test_an_unfinished_comment_is_told_from_other_text(source, found):
    assert unfinished(source) == found


def test_every_package_is_declared_for_the_wheel():
    # Given the folders that are packages, under the names they install as
    packages = {path.parent.relative_to(ROOT) for folder in ("mesh", "cli") for path in (ROOT / folder).rglob("*.py")}
    names = {".".join(["mesh_cli" if part == "cli" else part for part in package.parts]) for package in packages}

    # When the project's list is read
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    # Then it is the same: add a new subpackage to [tool.setuptools] packages
    assert set(project["tool"]["setuptools"]["packages"]) == names
