"""Everything that the README and the docs tell a reader to type, typed; and what is generated in them is up to date."""

import inspect
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from docs import generate
from mesh import exceptions
from mesh_cli import exit_codes
from tests.acceptance.walkthrough import DEADLINE_S, Block, Reader, blocks, matches, pages, steps

ROOT = Path(__file__).parents[2]
PAGES = {str(page.relative_to(ROOT)): page for page in pages(ROOT)}
FOLLOWED = ("python", "console")
#: Pages that are linked to and that another change brings.
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#([^)\s]+))?\)")


@pytest.fixture
def reader(mesh_dir, tmp_path):
    shutil.copytree(ROOT / "examples/proj", tmp_path / "proj", ignore=shutil.ignore_patterns("__pycache__"))
    reader = Reader(tmp_path, mesh_dir)
    yield reader
    reader.close()


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if "```" in page.read_text()])
def test_what_a_page_tells_to_type_says_what_the_page_shows(name, reader):
    for block in blocks(PAGES[name].read_text()):
        if block.language not in FOLLOWED:
            continue
        try:
            reader.follow(block)
        except AssertionError as error:
            raise AssertionError(f"{name}:{block.line}: {error}") from None


@pytest.mark.parametrize("name", sorted(generate.GENERATED))
def test_what_is_generated_is_up_to_date(name):
    if name == "cli.md" and f"click=={version('click')} " not in (ROOT / "requirements.lock").read_text():
        pytest.skip("each release of click words the help a little differently, and this is not the locked one")
    page = ROOT / "docs" / name
    assert page.read_text() == generate.render(name, page.read_text()), "run: make docs"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_link_leads_to_a_page_and_a_heading(name):
    # Given the links of a page to files of the project
    page = PAGES[name]

    # When each is followed
    broken = [
        f"{target}#{heading}" if heading else target
        for target, heading in LINK.findall(page.read_text())
        if not _leads_somewhere(page, target, heading)
    ]

    # Then all lead somewhere
    assert broken == []


def _leads_somewhere(page: Path, target: str, heading: str) -> bool:
    file = page.parent / target
    return file.exists() and (not heading or heading in _anchors(file.read_text()))


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_make_target_that_a_page_names_is_there():
    # Given the targets of the Makefile
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    # When the pages name some
    named = {target for page in PAGES.values() for target in re.findall(r"\bmake ([a-z-]+)`", page.read_text())}
    shell = "\n".join(block.text for page in PAGES.values() for block in blocks(page.read_text()))
    named |= set(re.findall(r"^make ([a-z-]+)", shell, re.MULTILINE))

    # Then all are there
    assert named
    assert named <= targets


def test_every_error_and_exit_code_has_its_remedy():
    # Given the page on troubles
    page = PAGES["docs/troubleshooting.md"].read_text()

    # When the errors of mesh and the exit codes of its commands are looked for
    errors = [
        name for name, kind in inspect.getmembers(exceptions, inspect.isclass) if kind.__module__ == "mesh.exceptions"
    ]
    codes = [value for name, value in vars(exit_codes).items() if name.isupper()]

    # Then each is there
    assert [name for name in errors if f"`{name}`" not in page] == []
    assert [code for code in codes if f"| {code} |" not in page] == []


def test_every_word_of_the_glossary_is_explained_once():
    words = re.findall(r"^\*\*(.+?)\*\*", PAGES["docs/glossary.md"].read_text(), re.MULTILINE)
    assert words == sorted(words, key=str.lower)
    assert len(words) == len(set(words))


# --- the reader itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        pytest.param("4", "4\n", True, id="the same"),
        pytest.param("4", "5", False, id="another value"),
        pytest.param("4\n...\n5", "4\nmuch\nmore\n5", True, id="dots stand for anything"),
        pytest.param("a.b", "aXb", False, id="a dot stands for itself"),
        pytest.param("pid 4711.", "pid 12.", True, id="a pid may differ"),
        pytest.param("pid 4711.", "pid none.", False, id="but has to be one"),
        pytest.param("v0.1.0 ready", "v1.2.3.dev4 ready", True, id="so may a version"),
    ],
)
def test_what_is_said_is_held_against_what_is_shown(shown, said, same):
    assert matches(shown, said) is same


def test_a_console_block_is_read_as_commands_and_what_they_say():
    assert steps("$ one \\\n    two\nsaid\nmore\n$ three\n^C\nbye\n") == [
        ("one \\\n    two", "said\nmore"),
        ("three", ""),
        ("^C", "bye"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("$ echo no\nyes\n", id="another output"),
        pytest.param("$ exit 3\n", id="an exit code of which nothing is shown"),
    ],
)
def test_a_page_that_is_wrong_is_found_out(reader, text):
    with pytest.raises(AssertionError):
        reader.follow(Block("console", 1, text))


@pytest.mark.parametrize("text", [">>> 2 + 2\n5\n", "assert False\n"])
def test_a_session_that_is_wrong_is_found_out(reader, text):
    with pytest.raises(AssertionError):
        reader.follow(Block("python", 1, text))


def test_the_deadline_leaves_room_within_that_of_a_test(pytestconfig):
    assert float(pytestconfig.getini("timeout")) > DEADLINE_S
