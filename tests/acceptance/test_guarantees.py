"""Every cell of the guarantees names the test that shows it, and every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text()
PROMISES, TESTS = PAGE.split("## The tests")
NAMED = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z_0-9]+)`", TESTS)


def test_each_number_of_the_page_is_explained():
    told = {int(number) for number in re.findall(r"\[(\d+)\]", PROMISES)}
    explained = [int(number) for number in re.findall(r"^\| (\d+) \|", TESTS, re.MULTILINE)]
    assert explained == sorted(told)


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_the_test_that_a_guarantee_names_is_there(path: str, name: str):
    source = ROOT / path
    assert source.exists(), f"docs/guarantees.md names {path}"
    assert f"\ndef {name}(" in source.read_text(), f"docs/guarantees.md names {name} in {path}"
