"""Follows a page of the docs as a reader would: writes its files, types its commands, and compares what is shown.

How a page is read:

- A `python` block whose first line is a comment with a path is that file. Any other is typed into one Python session
  that lasts as long as the page; where it has `>>>` prompts, what is shown behind them is compared.
- In a `console` block each line behind `$ ` is run by a shell, and what follows it is compared. A node or router goes
  on in the background, as in another terminal, until `^C`.
- `...` stands for any text. Versions, ids, pids, times and numbers of slots may differ; so may the place: pages show
  the mesh `default` of uid 1000 on the host `laptop`.
"""

import doctest
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DEADLINE_S = 30.0

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w/]+\.py)\n")
_SERVICE = re.compile(r"^mesh\b(?!.*--help).* (worker|router)\b")
_VARYING = [
    r"\.\.\.",
    r"router: +(?:is being started|pid \d+)",
    r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}",
    r"\b(?:INFO|WARNING|ERROR) \d+\]",
    r"\b(?:pid|kill) \d+",
    r"\bup \d+ (?:s|min)",
    r"(?<![\d.])\d+\.\d+\.\d+(?:\.dev\d+)?",
    r"\b\d+ of \d+ slots",
    r"'time_start': [\d.]+",
    r"'worker_pid': \d+",
]
_ANY_VARYING = re.compile("|".join(f"({pattern})" for pattern in _VARYING))

#: Answers each line on stdin, [source, mode], with what running it printed and whether it raised.
_SESSION = """
import contextlib, io, json, sys, traceback
names, answers = {"__name__": "__main__"}, sys.stdout
for line in sys.stdin:
    source, mode = json.loads(line)
    said, raised = io.StringIO(), False
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            exec(compile(source, "<page>", mode), names)
        except Exception:
            traceback.print_exc()
            raised = True
    print(json.dumps([said.getvalue(), raised]), file=answers, flush=True)
"""


class Block(NamedTuple):
    language: str
    line: int
    text: str


class Step(NamedTuple):
    """One command of a console block and what is shown behind it."""

    command: str
    shown: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page that say what language they are in."""
    return [Block(found[1], page.count("\n", 0, found.start()) + 2, found[2]) for found in _FENCE.finditer(page)]


def steps(text: str) -> list[Step]:
    """The commands of a console block. A line that ends in a backslash goes on in the next."""
    assert text.startswith(("$ ", "^C")), f"a console block begins with a command: {text!r}"
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if found and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        elif line.startswith("$ ") or line == "^C":
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return [Step(command, "\n".join(shown)) for command, shown in found]


def matches(shown: str, said: str) -> bool:
    """Whether what was said is what the page shows."""
    return re.fullmatch(_pattern(shown.strip()), said.strip(), re.DOTALL) is not None


def _pattern(shown: str) -> str:
    pattern, at = "", 0
    for found in _ANY_VARYING.finditer(shown):
        assert found.lastindex is not None
        varying = _VARYING[found.lastindex - 1]
        pattern += re.escape(shown[at : found.start()]) + (".*?" if found[0] == "..." else varying)
        at = found.end()
    return pattern + re.escape(shown[at:])


class Service:
    """A node or router that goes on in the background, on a terminal of its own."""

    def __init__(self, command: str, directory: Path, environment: dict[str, str]) -> None:
        self._terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._unread = ""
        self._stopped = False

    def said_until(self, last: str) -> str:
        """What it has said that was not read yet, once that holds `last`; all of it where it ends before."""
        deadline_mono_s = time.monotonic() + DEADLINE_S
        while last not in self._unread:
            left_s = deadline_mono_s - time.monotonic()
            assert left_s > 0, f"{last!r} did not come: {self._unread!r}"
            if not select.select([self._terminal], [], [], left_s)[0]:
                continue
            try:
                said = os.read(self._terminal, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                break
            self._unread += said.decode().replace("\r\n", "\n")
        said_so_far, self._unread = self._unread, ""
        return said_so_far

    def stop(self) -> str:
        """Ctrl-C. Returns what was said after it."""
        self.process.send_signal(signal.SIGINT)
        self._stopped = True
        said = self.said_until("\0")
        self.close()
        assert self.process.returncode == 0, said
        return said

    def close(self) -> None:
        """Waits for its end, or brings it about with SIGTERM where it was not told to stop."""
        if not self._stopped:
            self.process.terminate()
        self.process.wait(DEADLINE_S)
        os.close(self._terminal)


class Reader:
    """One reader of one page, with a directory and a mesh of their own."""

    def __init__(self, directory: Path, mesh_dir: Path) -> None:
        self._directory, self._mesh_dir = directory, mesh_dir
        programs = os.path.dirname(sys.executable)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MESH_BR")},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "MESH_BROKER_URL": f"mesh://{mesh_dir}",
            "NO_COLOR": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._services: list[Service] = []
        self._session: subprocess.Popen[str] | None = None

    def follow(self, block: Block) -> None:
        """Does what a block says."""
        if block.language == "console":
            for step in steps(block.text):
                self.type(step)
        elif (file := _FILE.match(block.text)) is not None:
            path = self._directory / file[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)
        else:
            self._enter(block.text)

    def type(self, step: Step) -> None:
        """Runs one command, and compares what it says where the page shows that."""
        command = step.command.replace("@laptop", f"@{socket.gethostname()}")
        if command == "^C":
            said = self._services.pop().stop()
        elif _SERVICE.match(command):
            service = Service(command, self._directory, self._environment)
            self._services.append(service)
            said = service.said_until("(action=ready)")
        else:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=DEADLINE_S,
                check=False,
            )
            said = done.stdout
            assert done.returncode == 0 or "Error:" in step.shown, f"$ {command}\n{said}"
        self._compare(command, step.shown, said)

    def _enter(self, source: str) -> None:
        examples = doctest.DocTestParser().get_examples(source)
        if not examples:
            said, raised = self._run(source, "exec")
            assert not raised, said
        for example in examples:
            said, raised = self._run(example.source, "single")
            assert not raised or example.exc_msg, said
            self._compare(example.source, example.want, said)

    def _run(self, source: str, mode: str) -> tuple[str, bool]:
        if self._session is None:
            self._session = subprocess.Popen(
                [sys.executable, "-c", _SESSION],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._session.stdin is not None
        assert self._session.stdout is not None
        print(json.dumps([source, mode]), file=self._session.stdin, flush=True)
        said, raised = json.loads(self._session.stdout.readline())
        return said, raised

    def _compare(self, typed: str, shown: str, said: str) -> None:
        if not shown.strip():
            return
        said = said.replace(str(self._mesh_dir), "/tmp/mesh-1000/default").replace(self._mesh_dir.name, "default")
        said = said.replace(f"@{socket.gethostname()}", "@laptop")
        assert matches(shown, said), f"typed: {typed}\n--- the page shows\n{shown}\n--- it says\n{said}"

    def close(self) -> None:
        """Ends what is still there: the session first, which may wait for the router."""
        if self._session is not None:
            self._session.communicate(timeout=DEADLINE_S)
        for service in reversed(self._services):
            service.close()


def pages(root: Path) -> Iterator[Path]:
    """Every page with blocks to follow."""
    yield from (root / "README.md", *sorted((root / "docs").glob("**/*.md")))
