"""The command `mesh`: what it prints, where, and with which exit code. Where a mesh is needed, it is a real one."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import click
import pytest

from mesh import locate
from mesh_cli import exit_codes, naming, options, root, words

DEADLINE_S = 20.0
HOST = socket.gethostname()

APP = """
from mesh import Mesh
app = Mesh("proj", include=["proj.tasks"])
if __name__ == "__main__":
    app.start()
"""

TASKS = """
import os, sys, time
from .celery import app

@app.task
def add(x, y):
    return x + y

@app.task
def greet(name):
    return f"hello {name}"

@app.task
def fail(why):
    raise ValueError(why)

@app.task
def modules():
    return sorted(sys.modules)

@app.task
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Shell:
    """Runs the command as a user would: in a process of its own, from the directory that holds the project."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory, self.environment = directory, environment

    def __call__(self, *argv: str, **environment: str) -> Ended:
        with self.start(*argv, **environment) as process:
            out, err = process.communicate(timeout=DEADLINE_S)
            return Ended(process.returncode, out, err)

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[str]:
        return self.python("-m", "mesh", *argv, **environment)

    def python(self, *argv: str, **environment: str) -> subprocess.Popen[str]:
        return self.python_by('exec "$@"', *argv, environment=environment)

    def python_by(
        self, line: str, *argv: str, pass_fds: Sequence[int] = (), environment: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.Popen[str]:
        """Python, by a line of bash that has it and its arguments as `$@`."""
        return subprocess.Popen(
            ["bash", "-c", line, "bash", sys.executable, *argv],
            cwd=self.directory,
            env={**os.environ, **self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            text=True,
        )


class Node:
    """A node in a process of its own. What it has said so far is in `out` and `err`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: dict[str, list[str]] = {"out": [], "err": []}
        self._ready = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), name=f"reads {name} of a node")
            for name, stream in (("out", process.stdout), ("err", process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def out(self) -> str:
        return "".join(self.said["out"])

    @property
    def err(self) -> str:
        return "".join(self.said["err"])

    def ready(self) -> Node:
        assert self._ready.wait(DEADLINE_S), f"the node is not ready: {self.said}"
        assert " ready" in self.err, self.said
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join()
        return code

    def _read(self, name: str, stream: Any) -> None:
        with stream:
            for line in stream:
                self.said[name].append(line)
                if " ready" in line:
                    self._ready.set()
        self._ready.set()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with the package `proj`."""
    package = tmp_path / "proj"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "celery.py").write_text(APP)
    (package / "tasks.py").write_text(TASKS)
    return tmp_path


@pytest.fixture
def mesh(project: Path, mesh_url: str) -> Shell:
    """The command, in a mesh of its own."""
    return Shell(project, {"MESH_BROKER_URL": mesh_url})


@pytest.fixture
def start_node(mesh: Shell) -> Iterator[Callable[..., Node]]:
    """Starts nodes, which are stopped in the end."""
    nodes: list[Node] = []

    def start(*argv: str, **environment: str) -> Node:
        nodes.append(Node(mesh.start("-A", "proj", "worker", "-c", "2", *argv, **environment)))
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs a command line in this process, where it can go no further than its own checks."""
    for variable in ("MESH_APP", "MESH_BROKER_URL", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)

    def run(*argv: str) -> Ended:
        before = dict(os.environ)
        try:
            return Ended(root.run(argv), *capfd.readouterr())
        finally:
            for added in os.environ.keys() - before.keys():
                del os.environ[added]

    return run


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    give_up = time.monotonic() + DEADLINE_S
    while not (seen := condition()):
        assert time.monotonic() < give_up, f"{what} did not come within {DEADLINE_S} s"
        time.sleep(0.01)
    return seen


# --- help ----------------------------------------------------------------------------------------


def test_without_a_command_the_help_is_shown_and_nothing_is_wrong(run: Callable[..., Ended]) -> None:
    # When no command is given, with or without options, then the help lists them all
    for argv in ((), ("-A", "proj"), ("-h",), ("--help",)):
        ended = run(*argv)
        assert (ended.code, ended.err) == (0, "")
        for command, what in root.COMMANDS.items():
            assert re.search(rf"^  {command} +{re.escape(what)}$", ended.out, re.MULTILINE)


@pytest.mark.parametrize(
    "argv", [(), *((command,) for command in root.COMMANDS)], ids=lambda argv: "-".join(argv) or "mesh"
)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_help_ends_in_worked_examples(run: Callable[..., Ended], argv: tuple[str, ...], option: str) -> None:
    ended = run(*argv, option)
    assert (ended.code, ended.err) == (0, "")
    _, _, shown = ended.out.partition("Examples:\n")
    lines = shown.rstrip("\n").splitlines()
    assert len(lines) > 1
    assert all(re.match(r" +mesh .*\S  +\S", line) for line in lines)


def test_the_list_of_commands_says_what_each_command_says_of_itself() -> None:
    # Given the commands, once imported
    context = click.Context(root.root)
    for name, what in root.COMMANDS.items():
        command = root.root.get_command(context, name)

        # Then the table that spares the import tells the truth
        assert command is not None
        assert command.get_short_help_str(200).rstrip(".") == what.rstrip(".")


def test_the_version_is_told(run: Callable[..., Ended]) -> None:
    from mesh import __version__

    assert run("--version") == (0, f"mesh {__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "spared"), [("-h", "zmq msgpack mesh.app"), ("worker -h", "zmq mesh.app mesh.control")]
)
def test_a_command_line_imports_what_it_needs_and_no_more(mesh: Shell, argv: str, spared: str) -> None:
    code = "import atexit, sys; from mesh_cli import main; atexit.register(lambda: print('', *sys.modules)); main()"
    process = mesh.python("-c", code, *argv.split())
    loaded = set(process.communicate(timeout=DEADLINE_S)[0].splitlines()[-1].split())
    assert "click" in loaded
    assert not loaded & set(spared.split())


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ("worker", "worker"),
        ("-A proj -q worker -c 2", "worker"),
        ("-Aproj --no-color --broker=mesh://lab worker", "worker"),
        ("-A worker call x", "call"),
        ("--app=worker status", "status"),
        ("--bogus worker", None),
        ("--version", None),
        ("-A", None),
        ("", None),
    ],
)
def test_the_command_shows_before_the_line_is_read(argv: str, command: str | None) -> None:
    assert words.command_in(argv.split()) == command


def test_the_options_before_a_command_are_known_before_the_line_is_read() -> None:
    takes_value = {
        name: not option.is_flag
        for option in root.root.params
        if isinstance(option, click.Option) and option.name not in ("help", "version")
        for name in option.opts
    }
    assert takes_value == words.GLOBAL_OPTIONS
    assert set(root.COMMANDS) > set(words.SERVICES)


def test_a_node_carries_nothing_of_what_has_read_its_command_line(mesh: Shell, start_node: Callable[..., Node]) -> None:
    start_node().ready()
    ended = mesh("call", "proj.tasks.modules", "--wait")
    assert "'mesh.slot'" in ended.out
    assert "'click'" not in ended.out


def test_a_reader_of_the_command_line_that_is_killed_is_reported(mesh: Shell, tmp_path: Path) -> None:
    # Given what is killed where it begins to read
    (tmp_path / "killer").mkdir()
    (tmp_path / "killer" / "click.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

    # When a service is started, then it says so
    ended = mesh("router", PYTHONPATH=str(tmp_path / "killer"))
    assert ended == (128 + 9, "", "Error: the process that reads the command line was ended by signal 9\n")


@pytest.mark.parametrize(
    ("desc", "start"),
    [
        ("SIGCHLD is ignored", "trap '' CHLD; exec \"$@\""),
        ("stdin and stdout are closed", 'exec "$@" <&- >&-'),
        ("nobody reads stdout", 'exec "$@" >&UNREAD'),
        ("there is no room for stdout", 'exec "$@" >/dev/full'),
    ],
)
@pytest.mark.parametrize("argv", ["router", "-A proj worker -c 1 -l INFO"])
def test_a_service_starts_in_odd_surroundings(mesh: Shell, argv: str, desc: str, start: str) -> None:
    # Given a pipe that nobody reads, for who wants it
    read_end, unread = os.pipe()
    os.close(read_end)

    # When the service is started, then it works, and ends as ever
    line = start.replace("UNREAD", str(unread))
    process = mesh.python_by(line, "-m", "mesh", *argv.split(), pass_fds=[unread])
    os.close(unread)
    service = Node(process)
    try:
        wait_for(lambda: " ready" in service.err or process.poll() is not None, "readiness")
    finally:
        code = service.stop()
    assert code == exit_codes.OK, desc
    assert "Traceback" not in service.err


def test_a_node_works_with_all_streams_closed(mesh: Shell) -> None:
    # Given a node that can say nothing
    node = Node(mesh.python_by('exec "$@" <&- >&- 2>&-', "-m", "mesh", "-A", "proj", "worker", "-c1"))

    # When a task is called, then it runs
    try:
        ended = mesh("call", "proj.tasks.add", "-a", "[2, 3]", "--wait")
    finally:
        code = node.stop()
    assert (ended.code, ended.out, code) == (0, "5\n", 0)


def test_where_the_directory_is_gone_that_is_said(mesh: Shell) -> None:
    lines = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    for argv in (["-A", "proj", "worker"], ["--config", "x.toml", "settings"]):
        with mesh.python_by(lines, "-m", "mesh", *argv) as process:
            printed = process.communicate(timeout=DEADLINE_S)
        said = "Error: the current directory is gone. Change to one that exists, or give --workdir.\n"
        assert (process.returncode, *printed) == (exit_codes.USAGE, "", said)


def test_a_file_of_a_program_that_was_started_without_stdout_is_left_alone(mesh: Shell) -> None:
    # Given a program whose first file gets the number of the stream that is closed
    (mesh.directory / "own.py").write_text(
        "import os\n"
        "from mesh import Mesh\n"
        "file = open('data.bin', 'wb')\n"
        "assert file.fileno() == 1\n"
        "Mesh('own').start(['settings'])\n"
    )

    # When it runs a command, then nothing of that gets into the file
    with mesh.python_by('exec "$@" >&-', "own.py") as process:
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert (mesh.directory / "data.bin").read_bytes() == b""


def test_a_program_has_its_signals_again_when_a_node_could_not_start(mesh: Shell) -> None:
    # Given a program that runs a node of an app whose tasks do not import, and has its children ignored
    (mesh.directory / "fails.py").write_text(
        "import signal\n"
        "from mesh import Mesh\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "try:\n"
        "    Mesh('fails', include=['nowhere']).worker_main([])\n"
        "except SystemExit as error:\n"
        "    print(error.code, [signal.getsignal(number) == signal.SIG_DFL for number in (10, 15, 1, 3)])\n"
    )

    # When it can't start, then that is said, and the program goes on as before
    process = mesh.python("fails.py")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert out == f"{exit_codes.USAGE} [True, True, True, True]\n"
    assert "'nowhere' does not import" in err


def test_a_full_device_is_no_traceback(mesh: Shell) -> None:
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(
            [sys.executable, "-m", "mesh", "-h"], stdout=full, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        said = process.communicate(timeout=DEADLINE_S)[1]
    assert said == "Error: No space left on device. Make room there, or where the output goes.\n"
    assert process.returncode == exit_codes.FAILURE


# --- what can be wrong with a command line -------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("wroker", "No such command 'wroker'. Did you mean 'worker'?"),
        ("frobnicate", f"No such command 'frobnicate'. There are {', '.join(sorted(root.COMMANDS))}."),
        ("worker", 'no app is given: name the module that holds it, as in "mesh -A proj worker", or set MESH_APP'),
        ("-A proj worker --bogus", "No such option"),
        ("-A proj worker -c 0", "0 is not in the range 1<=x<=5000"),
        ("-A proj worker -c two", "'two' is not a valid int"),
        ("-A proj worker -l loud", "'loud' is not one of"),
        ("-A proj worker -Q -a", "'-a' is no queue: give a queue name"),
        ("-A proj worker -n a,b", "'a,b' is no node name: give NAME@HOST"),
        ("-b redis://me:secret@host status", "broker='redis://...@host' is not a URL that mesh can use"),
        ("-b mesh://Lab status", "the mesh 'Lab' can't be used: a name has 1 to 41 of"),
        ("--workdir /nonexistent status", "'/nonexistent' does not exist"),
        ("-A proj worker --time-limit 0", "0 is not in the range"),
        ("-A proj worker --time-limit 1 --soft-time-limit 1", "--soft-time-limit 1 comes too late"),
        ("inspect", "Missing argument 'QUESTION'"),
        ("inspect actve", "No such question 'actve'. Did you mean 'active'? There are active, ping, registered."),
        ("inspect active -t 0", "0 is not in the range"),
        ("call", "Missing argument 'NAME'"),
        ("call add -a 2", "'2' is no JSON array. Give one such as '[2, 2]'."),
        ("call add -a [2", "'[2' is no JSON ("),
        ("call add -k []", "'[]' is no JSON object."),
        ("call add --timeout 1", "--timeout is for --wait."),
        ("call add --priority 10", "10 is not in the range 0<=x<=9"),
        ("call add --queue -x", "queue='-x' is not possible: give a queue name"),
        ("call add --eta soon", "eta='soon' is not possible: give a datetime or an ISO 8601 text"),
        ("-A no.such.app call add", "no mesh app found at 'no.such.app'"),
    ],
)
def test_a_wrong_command_line_gets_two_lines_with_the_remedy_and_code_2(
    run: Callable[..., Ended], argv: str, says: str
) -> None:
    ended = run(*argv.split())
    assert ended.code == exit_codes.USAGE == 2
    assert says in ended.err
    assert "secret" not in ended.err
    assert ended.err.startswith("Error: ")
    assert ended.err.count("\n") <= 2
    assert ended.out == ""


@pytest.mark.parametrize(
    ("argv", "written"),
    [
        ("worker -A proj -l INFO", "mesh -A proj worker -l INFO"),
        ("worker -l INFO --app proj", "mesh --app proj worker -l INFO"),
        ("worker --app=proj", "mesh --app=proj worker"),
        ("worker -Aproj", "mesh -Aproj worker"),
        ("-q status -b mesh://lab", "mesh -b mesh://lab -q status"),
        ("status -C", "mesh -C status"),
        ("status --workdir '/a b'", "mesh --workdir '/a b' status"),
    ],
)
def test_an_option_that_belongs_before_the_command_is_told_how(
    run: Callable[..., Ended], argv: str, written: str
) -> None:
    import shlex

    ended = run(*shlex.split(argv))
    option = written.split()[1].split("=", maxsplit=1)[0].replace("-Aproj", "-A")
    assert ended == (2, "", f"Error: {option} goes before the command. Write:\n  {written}\n")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("w1", f"w1@{HOST}"),
        ("w1@there", "w1@there"),
        ("w1@%h", "w1@lab.example.org"),
        ("w1@%n", "w1@lab"),
        ("%n@%d", "lab@example.org"),
    ],
)
def test_a_node_is_named_as_with_celery(given: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "%" in given:
        monkeypatch.setattr(socket, "gethostname", lambda: "lab.example.org")
    assert naming.node_name(given) == name


def test_lists_keep_their_order_and_name_nothing_twice() -> None:
    assert options.names("b, a,,b,c ") == ("b", "a", "c")


def test_exit_codes_are_told_apart() -> None:
    codes = [value for name, value in vars(exit_codes).items() if name.isupper()]
    assert sorted(codes) == [0, 1, 2, 65, 69, 73, 130]


# --- without a mesh ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "inspect active", "status --json"])
def test_asking_where_no_router_runs_says_so_and_starts_none(mesh: Shell, mesh_dir: Path, command: str) -> None:
    ended = mesh(*command.split())
    assert ended.code == exit_codes.UNAVAILABLE == 69
    assert ended.err.startswith(f"Error: no router of mesh {mesh_dir.name!r} answered")
    assert 'Start one with "mesh router"' in ended.err
    assert ended.err.count("\n") == 1
    assert list(mesh_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("desc", "code", "line", "says"),
    [
        ("an error", "1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("an import that fails", "\nimport nowhere", 2, "No module named 'nowhere'"),
        ("no Python", "\n\n1 +", 3, "SyntaxError: invalid syntax"),
    ],
)
@pytest.mark.parametrize("command", ["worker", "call proj.add"])
def test_an_app_that_does_not_load_is_shown_where_it_fails(
    mesh: Shell, project: Path, command: str, desc: str, code: str, line: int, says: str
) -> None:
    # Given a module that can't be imported
    (project / "broken.py").write_text(code)

    # When a command needs it
    ended = mesh("-A", "broken", *command.split())

    # Then the user sees the place in the own code, no frame of ours, and the error
    assert ended.code == exit_codes.USAGE
    assert re.findall(r'File "(.*)", line (\d+)', ended.err) == [(str(project / "broken.py"), str(line))]
    assert says in ended.err.splitlines()[-1]
    assert ended.err.splitlines()[-1].startswith("Error: the task module 'broken' does not import: ")


@pytest.mark.parametrize("argv", ["-A nowhere worker", "-A proj worker -I nowhere"])
def test_a_module_that_is_not_there_needs_no_traceback(mesh: Shell, argv: str) -> None:
    ended = mesh(*argv.split())
    assert ended.code == exit_codes.USAGE
    assert ended.err.startswith("Error: ")
    assert "'nowhere'" in ended.err
    assert ended.err.count("\n") == 1


# --- a router ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_router_in_the_foreground_runs_until_it_is_told_to_stop(mesh: Shell, mesh_url: str, number: int) -> None:
    # Given one
    router = Node(mesh.start("router")).ready()
    place = locate.locate(mesh_url)
    assert locate.router_pid(place) == router.process.pid

    # When another is started, then that names the first and ends
    second = mesh("router")
    assert second.code == exit_codes.FAILURE == 1
    assert second.err == (
        f"Error: a router of mesh {place.mesh!r} runs already, with pid {router.process.pid}. "
        f'See it with "mesh status"; stop it with "kill {router.process.pid}".\n'
    )

    # And the first stops in order
    assert router.stop(number) == exit_codes.OK
    assert f'msg="router of mesh {place.mesh!r} ready in {place.directory}"' in router.err
    assert locate.router_pid(place) is None


def test_a_mesh_without_nodes_is_unavailable_but_its_router_is_shown(mesh: Shell) -> None:
    # Given a router alone
    router = Node(mesh.start("router")).ready()

    # When it is looked at
    status, told, asked = mesh("status"), mesh("status", "--json"), mesh("inspect", "ping", "--json")

    # Then there is something to see, and a remedy
    assert [status.code, told.code, asked.code] == [69, 69, 69]
    assert f"pid {router.process.pid}, up " in status.out
    assert "0 nodes online." in status.out
    assert json.loads(told.out)["nodes"] == []
    assert json.loads(asked.out) == {}
    assert 'Start one with "mesh -A APP worker".' in status.err
    assert 'Start one with "mesh -A APP worker".' in asked.err
    router.stop()


# --- a node --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_says_what_it_is_then_that_it_is_ready_and_stops_in_order(
    start_node: Callable[..., Node], mesh_dir: Path, number: int
) -> None:
    # Given a node with a lower-case level under Celery's other letter
    node = start_node("-L", "info", "-Q", "mail,images,celery", "-X", "images", "-n", "w1").ready()

    # When it is told to stop
    code = node.stop(number)

    # Then that was in order, and its output told everything
    assert code == exit_codes.OK == 0
    assert node.out.splitlines()[0].startswith(f"w1@{HOST} v")
    for line in ("app:         proj", f"mesh:        {mesh_dir.name} in {mesh_dir}", "concurrency: 2 (prefork)"):
        assert f".> {line}" in node.out
    assert "[queues]\n.> mail\n.> celery\n" in node.out
    assert "[tasks]\n  . proj.tasks.add\n" in node.out
    assert f'msg="w1@{HOST} ready."' in node.err


def test_at_the_default_level_a_node_lists_no_tasks_but_says_that_it_is_ready(start_node: Callable[..., Node]) -> None:
    node = start_node().ready()
    assert node.stop() == 0
    assert "[tasks]" not in node.out
    assert len(node.err.splitlines()) == 1


def test_options_may_come_from_the_environment(mesh: Shell) -> None:
    node = Node(mesh.start("-q", "worker", MESH_APP="proj", MESH_WORKER_CONCURRENCY="1", MESH_WORKER_HOSTNAME="e@x"))
    node.ready()
    (shown,) = json.loads(mesh("status", "--json").out)["nodes"]
    assert node.stop() == 0
    assert (shown["name"], shown["concurrency"], len(shown["slots"])) == ("e@x", 1, 1)
    assert node.out == ""


@pytest.mark.parametrize("program", [("main.py",), ("-m", "proj.celery")])
def test_a_program_that_starts_its_app_is_the_command(mesh: Shell, program: tuple[str, ...]) -> None:
    # Given a program that calls app.start(), as a script or as a module
    (mesh.directory / "main.py").write_text("from proj.celery import app\napp.start()\n")

    # When it is run with the arguments of a node
    node = Node(mesh.python(*program, "worker", "-c", "1")).ready()

    # Then that is one with the app's tasks
    registered = mesh("inspect", "registered", "--json")
    assert node.stop() == 0
    assert "proj.tasks.add" in json.loads(registered.out)[f"mesh@{HOST}"]


def test_a_node_may_be_run_from_elsewhere(mesh: Shell) -> None:
    node = Node(Shell(Path("/"), mesh.environment).start("--workdir", str(mesh.directory), "-A", "proj", "worker"))
    assert node.ready().stop() == 0


# --- calls and questions -------------------------------------------------------------------------


def test_a_task_is_called_by_its_name(mesh: Shell, start_node: Callable[..., Node]) -> None:
    # Given a node
    start_node().ready()

    # When tasks are called, then their values are printed as they are wanted
    assert mesh("call", "proj.tasks.add", "-a", "[2, 2]", "--wait") == (0, "4\n", "")
    assert mesh("call", "proj.tasks.greet", "-k", '{"name": "you"}', "--wait") == (0, "hello you\n", "")
    told = mesh("-A", "proj", "call", "proj.tasks.add", "--args", "[[1], [2]]", "--wait", "--json")
    assert told.code == 0
    assert json.loads(told.out)["state"] == "SUCCESS"
    assert json.loads(told.out)["result"] == [1, 2]

    # And without --wait the id
    called = mesh("call", "proj.tasks.add", "-a", "[2, 2]", "--priority", "9", "--expires", "60")
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\n", called.out)
    assert mesh("call", "proj.tasks.add", "-a", "[1, 1]", "--task-id", "mine", "-j").out == '{"id": "mine"}\n'


def test_a_task_that_fails_makes_the_call_fail(mesh: Shell, start_node: Callable[..., Node]) -> None:
    # Given a node, and a task that raises
    start_node().ready()

    # When it is called and waited for
    ended = mesh("call", "proj.tasks.fail", "-a", '["no\\nway"]', "--wait")
    told = mesh("call", "proj.tasks.fail", "-a", '["no"]', "--wait", "--json")

    # Then one line says which, how and why, and JSON stays JSON
    assert ended.code == told.code == exit_codes.FAILURE
    assert re.fullmatch(r"Error: task \S+ ended as FAILURE: ValueError: no\n", ended.err)
    assert ended.out == ""
    assert json.loads(told.out) | {"id": ""} == {
        **{"id": "", "state": "FAILURE", "result": None},
        "error": "ValueError: no",
    }


def test_a_wait_that_takes_too_long_is_over_and_the_task_is_not(mesh: Shell) -> None:
    # Given a mesh without nodes; the call starts its router
    ended = mesh("call", "proj.tasks.add", "-a", "[2, 2]", "--wait", "--timeout", "0.2")

    # Then it says that the task goes on
    assert ended.code == exit_codes.FAILURE
    assert "did not come within 0.2 s. The task goes on" in ended.err
    assert json.loads(mesh("status", "--json").out)["router"]["tasks"]["ready"] == 1


def test_ctrl_c_ends_a_wait_without_a_traceback(mesh: Shell) -> None:
    # Given a call that waits, as the router knows
    with mesh.start("call", "proj.tasks.add", "-a", "[2, 2]", "--wait") as call:
        wait_for(lambda: '"ready": 1' in mesh("status", "--json").out, "the call")

        # When it gets a Ctrl-C
        call.send_signal(signal.SIGINT)
        out, err = call.communicate(timeout=DEADLINE_S)

    # Then it ends as shells expect
    assert (call.returncode, out, err.strip()) == (exit_codes.INTERRUPTED, "", "")
    assert exit_codes.INTERRUPTED == 128 + signal.SIGINT


def test_what_runs_is_shown_with_its_arguments(mesh: Shell, start_node: Callable[..., Node], tmp_path: Path) -> None:
    # Given a task that runs on one of two nodes
    start_node("-n", "w1").ready()
    start_node("-n", "w2", "-Q", "other").ready()
    end = str(tmp_path / "end")
    task_id = mesh("call", "proj.tasks.wait_for", "-a", json.dumps([end])).out.strip()
    told = wait_for(
        lambda: (ended := mesh("inspect", "active", "-j")).out.count(task_id) and ended, "the task on its node"
    )

    # When the nodes are asked
    shown = mesh("inspect", "active")
    one = mesh("inspect", "active", "-d", f"w2@{HOST}")
    status = mesh("status")
    Path(end).touch()

    # Then the answer is Celery's, for programs and for people
    ((task,), others) = (json.loads(told.out)[f"{name}@{HOST}"] for name in ("w1", "w2"))
    assert (task["id"], task["name"], task["args"]) == (task_id, "proj.tasks.wait_for", [end])
    assert (task["hostname"], others) == (f"w1@{HOST}", [])
    lines = shown.out.splitlines()
    below = lines[lines.index(f"->  w1@{HOST}: OK") + 1]
    assert below.startswith("    * {")
    assert ast.literal_eval(below.removeprefix("    * "))["id"] == task_id
    assert lines[-2:] == ["", "2 nodes online."]
    assert one.out.splitlines() == [f"->  w2@{HOST}: OK", "    - empty -", "", "1 node online."]
    assert "1 of 2 slots busy" in status.out
    assert status.code == shown.code == one.code == told.code == 0


def test_a_node_that_does_not_answer_is_named_beside_those_that_do(
    mesh: Shell, start_node: Callable[..., Node]
) -> None:
    # Given a node that answers, one that is stopped, and one that never was
    start_node("-n", "well").ready()
    stopped = start_node("-n", "stopped").ready()
    stopped.process.send_signal(signal.SIGSTOP)
    names = ",".join(f"{name}@{HOST}" for name in ("well", "stopped", "never"))

    # When all are asked
    ended = mesh("inspect", "ping", "-d", names, "-t", "0.3")
    alone = mesh("inspect", "ping", "-d", f"never@{HOST}", "--json")
    stopped.process.send_signal(signal.SIGCONT)

    # Then who is missing is named on stderr, with the reason; only if nobody answers is that a failure
    assert ended.code == 0
    assert ended.out.splitlines() == [f"->  well@{HOST}: OK", "    pong", "", "1 node online."]
    assert f"Error: stopped@{HOST} did not answer: no answer in 0.3 s\n" in ended.err
    assert f"Error: never@{HOST} did not answer: no node of this name is known\n" in ended.err
    assert (alone.code, alone.out) == (69, "{}\n")


@pytest.mark.parametrize("argv", ["status", "worker --help"])
def test_a_reader_that_has_enough_is_no_error(mesh: Shell, argv: str) -> None:
    # Given a reader that goes before anything is written
    router = Node(mesh.start("router")).ready()
    read_end, write_end = os.pipe()
    os.close(read_end)

    # When something is written to it
    ended = subprocess.run(
        [sys.executable, "-m", "mesh", *argv.split()],
        cwd=mesh.directory,
        env=os.environ | mesh.environment,
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    os.close(write_end)
    router.stop()

    # Then there is no complaint about it
    assert ended.returncode != 0
    assert "Broken" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["worker", "status"])
def test_an_app_that_exits_as_it_is_imported_is_named(mesh: Shell, command: str) -> None:
    (mesh.directory / "exits.py").write_text("import sys\n\nsys.exit(7)\n")
    ended = mesh("-A", "exits", command)
    assert (ended.code, ended.out) == (exit_codes.USAGE, "")
    assert "SystemExit: 7" in ended.err.splitlines()[-1]
    assert [line for line in ended.err.splitlines() if line.startswith("  File")] == [
        f'  File "{mesh.directory}/exits.py", line 3, in <module>'
    ]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os._exit(0)", "exited with code 0"),
        ("import os; os._exit(7)", "exited with code 7"),
        ("import os; os.kill(os.getpid(), 11)", "was ended by signal 11 (SIGSEGV)"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--no-preload",)])
def test_how_the_import_of_an_app_ended_its_process_is_said(
    mesh: Shell, code: str, says: str, options: tuple[str, ...]
) -> None:
    (mesh.directory / "dies.py").write_text(code)
    ended = mesh("-A", "dies", "worker", *options)
    assert ended == (exit_codes.USAGE, "", f"Error: the process that loads the app {says}\n")


def test_an_app_that_closes_all_there_is_and_lives_on_does_not_hold_up_the_node(mesh: Shell) -> None:
    (mesh.directory / "closes.py").write_text("import os, time; os.closerange(3, 1000); time.sleep(3600)")
    ended = mesh("-A", "closes", "worker")
    says = "the process that loads the app has closed its line to the node"
    assert ended == (exit_codes.USAGE, "", f"Error: {says}\n")


# --- colours -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desc", "argv", "environment", "coloured"),
    [
        ("a wrong word", "wroker", {}, True),
        ("a wrong word, -C", "-C wroker", {}, False),
        ("a wrong word, NO_COLOR", "wroker", {"NO_COLOR": "1"}, False),
        ("a service", "worker", {}, True),
        ("a service, -C", "-C worker", {}, False),
        ("a service, NO_COLOR", "worker", {"NO_COLOR": "1"}, False),
        ("an app", "-A nowhere worker", {}, True),
        ("an app, -C", "-C -A nowhere worker", {}, False),
        ("an app of a call, -C", "-C -A nowhere call x", {}, False),
        ("a complaint of a command", "status", {}, True),
        ("a complaint of a command, -C", "-C status", {}, False),
        ("a complaint of a command, NO_COLOR", "status", {"NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_for_terminals(
    mesh: Shell, desc: str, argv: str, environment: dict[str, str], coloured: bool
) -> None:
    # Given a terminal
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mesh", *argv.split()],
        cwd=mesh.directory,
        env={key: value for key, value in os.environ.items() if key != "NO_COLOR"} | mesh.environment | environment,
        stderr=follower,
        stdout=follower,
        stdin=follower,
    )
    os.close(follower)

    # When an error is printed to it
    shown = _read_terminal(leader)
    assert process.wait(DEADLINE_S) in (exit_codes.USAGE, exit_codes.UNAVAILABLE)

    # Then it is coloured, unless that is not wanted
    assert "Error:" in shown
    assert ("\x1b[31m" in shown) is coloured, desc


def _read_terminal(leader: int) -> str:
    shown = b""
    try:
        while select.select([leader], [], [], DEADLINE_S)[0]:
            shown += os.read(leader, 4096)
    except OSError:  # all who had the terminal open are gone
        pass
    finally:
        os.close(leader)
    return shown.decode()
