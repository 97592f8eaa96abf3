"""`mesh demo`, the README's first command, as a user runs it."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from mesh_cli import census

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
DEMO = (sys.executable, "-m", "mesh", "demo")

#: {file: (source, what is counted: lines, functions, classes, imports, nesting)}
FILES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "empty.py": (b"", (0, 0, 0, 0, 0)),
    "flat.py": (b"import os\nfrom sys import path, argv\nx = 1\n", (3, 0, 0, 2, 0)),
    "no_newline.py": (b"def f(): pass", (1, 1, 0, 0, 1)),
    "package/deep.py": (
        b"class A:\n    async def f(self):\n        def g():\n            for x in y:\n                import z\n",
        (5, 2, 1, 1, 4),
    ),
    "package/elif.py": (b"if a:\n    pass\nelif b:\n    pass\nelif c:\n    pass\nelse:\n    pass\n", (8, 0, 0, 0, 1)),
    "package/else_if.py": (b"if a:\n    pass\nelse:\n    if b:\n        pass\n", (5, 0, 0, 0, 2)),
    "package/try.py": (b"try:\n    pass\nexcept E:\n    pass\nfinally:\n    if a:\n        pass\n", (7, 0, 0, 0, 2)),
    "package/match.py": (b"match a:\n    case 1:\n        def f(): ...\n", (3, 1, 0, 0, 2)),
    "latin.py": ("# coding: latin-1\nx = 'é'\n".encode("latin-1"), (2, 0, 0, 0, 0)),
    "warns.py": (b"x = '\\d'\nassert (x, 'y')\n", (2, 0, 0, 0, 0)),
    "bad_syntax.py": (b"def f(:\n    pass\n", (2, 0, 0, 0, 0)),
    "not_utf8.py": (b"x = '\xff'\n", (1, 0, 0, 0, 0)),
    "zero.py": (b"x = 1\n\x00\n", (2, 0, 0, 0, 0)),
}
NOT_PARSED = {"bad_syntax.py", "not_utf8.py", "zero.py"}


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Demo:
    """A demo that runs, in a process group of its own as a shell would start it. What it says is read as it comes."""

    def __init__(self, *argv: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*DEMO, *argv],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._said: dict[str, list[str]] = {"out": [], "err": []}
        self._more = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(name, getattr(self.process, f"std{name}"))) for name in self._said
        ]
        for reader in self._readers:
            reader.start()

    @property
    def err(self) -> str:
        return "".join(self._said["err"])

    @property
    def directory(self) -> Path:
        """The directory of its mesh."""
        return Path(self.await_said(r"A mesh in (/tmp/mesh-demo-\w+),")[1])

    def await_said(self, pattern: str) -> re.Match[str]:
        """Waits until it has said this on stderr."""
        with self._more:
            assert self._more.wait_for(lambda: re.search(pattern, self.err), DEADLINE_S), f"no {pattern}: {self.err}"
        found = re.search(pattern, self.err)
        assert found
        return found

    def nodes(self) -> list[psutil.Process]:
        """The supervisors that it has started so far."""
        return [child for child in psutil.Process(self.process.pid).children() if "worker" in child.cmdline()]

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal does it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> Ended:
        code = self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return Ended(code, "".join(self._said["out"]), self.err)

    def _read(self, name: str, stream: Any) -> None:
        with stream:
            for line in stream:
                with self._more:
                    self._said[name].append(line)
                    self._more.notify_all()


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Demo]]:
    """Starts demos. One that is left running is interrupted in the end."""
    demos: list[Demo] = []

    def start(*argv: str, **environment: str) -> Demo:
        demos.append(Demo(*argv, **environment))
        return demos[-1]

    yield start
    for demo in demos:
        if demo.process.poll() is None:
            demo.interrupt()
        demo.end()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with the files, and with what is none of them."""
    for name, (source, _) in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
    (tmp_path / "tree" / "notes.txt").write_text("import this")
    os.mkfifo(tmp_path / "tree" / "pipe.py")
    return tmp_path / "tree"


@pytest.fixture
def large_tree(tmp_path: Path) -> Path:
    """So many files that a census of them has a middle in which something can happen."""
    directory = tmp_path / "large"
    directory.mkdir()
    source = "def f(x):\n    return x\n\n\n" * 500
    for number in range(400):
        (directory / f"f{number}.py").write_text(source)
    return directory


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    give_up = time.monotonic() + DEADLINE_S
    while not (seen := condition()):
        assert time.monotonic() < give_up, f"{what} did not come within {DEADLINE_S} s"
        time.sleep(0.01)
    return seen


# --- what is counted -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_counted(tree: Path, name: str) -> None:
    # When it is measured
    row = census.measure(str(tree), name)

    # Then the counts are its own, and of one that does not parse only the lines count
    assert row[1:6] == FILES[name][1]
    assert (row.file, row.fault) == (name, census.NOT_PARSED if name in NOT_PARSED else "")


def test_no_files_come_to_nothing() -> None:
    assert census.total([]) == census.Totals(0, 0, 0, 0, 0, 0, "", 0, 0, [])


def test_json_holds_the_totals_of_the_files_and_nothing_else_is_on_stdout(
    start: Callable[..., Demo], tree: Path
) -> None:
    # Given a tree in which one file can't be read
    (tree / "gone.py").symlink_to("nowhere")

    # When a census is taken of it, for a program
    demo = start("--json", "--path", str(tree), "--nodes", "2", "--concurrency", "1")
    directory, ended = demo.directory, demo.end()

    # Then stdout is one JSON document with the totals
    assert ended.code == 0, ended
    found = json.loads(ended.out)
    lines, functions, classes, imports, nesting = zip(*(counts for _, counts in FILES.values()), strict=True)
    totals = found["totals"]
    assert totals["files"] == len(FILES) + 1
    assert (totals["lines"], totals["functions"]) == (sum(lines), sum(functions))
    assert (totals["classes"], totals["imports"]) == (sum(classes), sum(imports))
    assert (totals["nesting"], totals["deepest"]) == (max(nesting), "package/deep.py")
    assert (totals["not_parsed"], totals["unreadable"]) == (len(NOT_PARSED), 1)
    longest = sorted(FILES, key=lambda name: (-FILES[name][1][0], name))[:10]
    assert [row["file"] for row in totals["top"]] == longest

    # And what was measured, of this mesh, and the check
    assert (found["same"], found["differing"]) == (True, [])
    assert (found["path"], found["nodes"], found["concurrency"]) == (str(tree), 2, 1)
    assert {node.partition("@")[0] for node in found["active"]} == {"demo1", "demo2"}
    assert all(found[figure] > 0 for figure in ("tasks_per_s", "median_call_s", "mesh_s", "serial_s", "speedup"))

    # And the mesh is gone
    assert not directory.exists()


def test_people_get_a_table_the_figures_and_what_to_try_next(start: Callable[..., Demo], tree: Path) -> None:
    # When a census is taken, in an environment that would make nodes and calls go elsewhere
    elsewhere = {
        "MESH_BROKER_URL": "mesh://elsewhere",
        "MESH_TASK_DEFAULT_QUEUE": "other",
        "MESH_CRASH_BUDGET": "nonsense",
        "MESH_CONFIG": "/nowhere.toml",
        "MESH_APP": "nowhere",
        "MESH_WORKER_QUEUES": "other",
        "MESH_WORKDIR": str(tree),
        "PATH": "",
    }
    ended = start("--path", ".", **elsewhere).end()

    # Then all of it is there: the progress on stderr, the findings on stdout, no line of the table over 80 characters
    assert ended.code == 0, ended
    assert re.search(rf"on the mesh +{len(FILES)} of {len(FILES)}\n", ended.err)
    assert re.search(rf"in one process +{len(FILES)} of {len(FILES)}\n", ended.err)
    table, _, rest = ended.out.partition('What "mesh inspect active" showed in the middle:\n')
    assert re.search(r"file +lines +functions +classes +imports +nesting\n", table)
    assert re.search(r"package/deep\.py +5 +2 +1 +1 +4\n", table)
    assert re.search(rf"all {len(FILES)} +41 +4 +1 +3 +4\n", table)
    assert "3 files do not parse" in table
    assert max(map(len, table.splitlines())) <= 80
    assert re.search(r"->  demo1@\S+: OK\n", rest)
    assert re.search(r"on the mesh .*tasks/s on \d+ slots?\nin one process .*the same totals\nratio .*\nmedian ", rest)
    assert ended.out.endswith("python -m mesh --help\n")


def test_on_a_terminal_there_is_a_bar(tree: Path) -> None:
    # Given a terminal
    ours, theirs = pty.openpty()

    # When the demo runs in it
    with subprocess.Popen([*DEMO, "--path", str(tree)], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = _read_all(ours)

    # Then a bar has gone from empty to full
    os.close(ours)
    assert process.returncode == 0, said
    assert re.search(r"on the mesh +\[-+\] +0/13", said)
    assert re.search(r"on the mesh +\[#+\] +13/13", said)


def _read_all(terminal: int) -> str:
    parts = []
    while select.select([terminal], [], [], DEADLINE_S)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        parts.append(part)
    return b"".join(parts).decode()


def test_file_names_of_any_kind_are_counted_and_shown(start: Callable[..., Demo], tmp_path: Path) -> None:
    # Given names that are long, that would be commands to a terminal, and that are no text
    for name in (b"a" * 100 + b".py", b"red\x1b[31m.py", b"latin\xe9.py"):
        (tmp_path / os.fsdecode(name)).write_text("x = 1\n")

    # When they are counted
    ended = start("--path", str(tmp_path)).end()

    # Then each has a row of printable characters
    assert ended.code == 0, ended
    assert re.search(r"^…a+\.py +1 ", ended.out, re.MULTILINE)
    assert re.search(r"^red\?\[31m\.py +1 ", ended.out, re.MULTILINE)
    assert re.search(r"^latin\?\.py +1 ", ended.out, re.MULTILINE)


# --- what can go wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--path", "{tmp}/none"), "does not exist"),
        (("--path", "{tmp}/file"), "is a file"),
        (("--path", "{tmp}/empty"), "there is no .py file below"),
        (("--nodes", "0"), "0 is not in the range"),
        (("--concurrency", "many"), "'many' is not a valid integer"),
    ],
)
def test_what_cannot_be_counted_is_refused_before_anything_is_started(
    start: Callable[..., Demo], tmp_path: Path, argv: tuple[str, ...], says: str
) -> None:
    # Given a file and an empty directory
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()

    # When one of them is to be counted, or by nodes that can't be
    ended = start(*(word.format(tmp=tmp_path) for word in argv)).end()

    # Then the command line is wrong, which one error says
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert "A mesh in" not in ended.err


def test_nodes_that_cannot_start_are_an_error_with_the_lines_of_their_logs(
    start: Callable[..., Demo], tree: Path, tmp_path: Path
) -> None:
    # Given an environment in which nodes fail
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'worker' in sys.orig_argv:\n"
        "    print('this node has no luck', file=sys.stderr, flush=True)\n"
        "    os._exit(1)\n"
    )

    # When the demo runs
    ended = start("--path", str(tree), PYTHONPATH=str(tmp_path)).end()

    # Then it says which node ended, and shows what that wrote
    assert (ended.code, ended.out) == (1, "")
    assert re.search(r"Error: node demo\d ended with exit code 1 before it was ready\.\n", ended.err)
    assert re.search(r"  demo\d\.log:\n  this node has no luck\n", ended.err)
    assert "Traceback" not in ended.err


def test_a_node_that_is_killed_in_the_middle_takes_nothing_with_it(
    start: Callable[..., Demo], large_tree: Path
) -> None:
    # Given a census of which a quarter is done
    demo = start("--json", "--path", str(large_tree), "--nodes", "2", "--concurrency", "1")
    demo.await_said(r"on the mesh +100 of 400")

    # When one of the nodes is killed
    demo.nodes()[0].kill()
    ended = demo.end()

    # Then the other does its tasks, the totals are right, and the loss is told
    assert ended.code == 0, ended
    found = json.loads(ended.out)
    assert (found["same"], found["totals"]["functions"]) == (True, 400 * 500)
    assert re.search(r"Error: node demo\d was killed by SIGKILL", ended.err)


def test_the_census_ends_with_an_error_when_the_last_node_is_killed(
    start: Callable[..., Demo], large_tree: Path
) -> None:
    # Given a census of which a quarter is done, by one node
    demo = start("--path", str(large_tree), "--nodes", "1", "--concurrency", "1")
    demo.await_said(r"on the mesh +100 of 400")

    # When that is killed
    directory = demo.directory
    demo.nodes()[0].kill()
    ended = demo.end()

    # Then the demo says so and waits for nothing
    assert (ended.code, ended.out) == (1, "")
    assert "Error: no node is left: node demo1 was killed by SIGKILL." in ended.err
    assert not directory.exists()


# --- Ctrl-C --------------------------------------------------------------------------------------


def _spawning(demo: Demo) -> None:
    wait_for(demo.nodes, "the first node")


def _on_the_mesh(demo: Demo) -> None:
    demo.await_said(r"on the mesh +100 of 400")


def _in_one_process(demo: Demo) -> None:
    demo.await_said(r"in one process +100 of 400")


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        (_spawning, signal.SIGINT, 130),
        (_on_the_mesh, signal.SIGINT, 130),
        (_in_one_process, signal.SIGINT, 130),
        (_on_the_mesh, signal.SIGTERM, 143),
        (_on_the_mesh, signal.SIGHUP, 129),
    ],
)
def test_an_interrupted_demo_leaves_no_process_and_no_directory(
    start: Callable[..., Demo], large_tree: Path, moment: Callable[[Demo], None], number: int, code: int
) -> None:
    # Given a demo at some moment
    demo = start("--path", str(large_tree))
    moment(demo)
    node = demo.nodes()[0].cmdline()
    directory = Path(node[node.index("-b") + 1].removeprefix("mesh://"))
    assert directory.is_dir()

    # When its whole process group is told to stop
    os.killpg(demo.process.pid, number)
    ended = demo.end()

    # Then it ends in order; that no process is left is what every test checks
    assert (ended.code, ended.out) == (code, "")
    assert "Traceback" not in ended.err
    assert "Error" not in ended.err
    assert not directory.exists()
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(directory) in str(process.info)]


def test_a_second_ctrl_c_does_not_cut_the_cleaning_up_short(start: Callable[..., Demo], large_tree: Path) -> None:
    # Given a demo whose nodes are stopped and so take their time to end
    demo = start("--path", str(large_tree))
    demo.await_said(r"on the mesh +100 of 400")
    directory, nodes = demo.directory, demo.nodes()
    for node in nodes:
        node.suspend()

    # When Ctrl-C is pressed, and again while the demo waits for them
    demo.interrupt()
    demo.interrupt()
    for node in nodes:
        node.resume()
    ended = demo.end()

    # Then it ends as after one
    assert ended.code == 130, ended
    assert "Traceback" not in ended.err
    assert not directory.exists()
