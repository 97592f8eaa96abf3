"""Nodes and routers in the background: who waits for them, what they leave, and who they are."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from mesh import Mesh
from mesh_cli import exit_codes
from tests.mesh import reachable
from tests.mesh.proj import printing, tasks
from tests.mesh.running import DEADLINE_S, PROJECT, ROOT, Host, eventually, is_alive


class Started(NamedTuple):
    """What the command that starts a daemon says before it ends."""

    code: int
    out: str
    err: str


class Background:
    """Starts daemons, and ends those that have a pidfile."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host, self.directory = host, directory
        #: Further groups of whoever starts daemons; None for those of the tests.
        self.groups: list[int] | None = None
        #: What stands before each command.
        self.prefix: list[str] = []

    def node(self, *options: str, app: str = PROJECT, **environment: str) -> Started:
        """`mesh worker -D` with a log and a pidfile in the directory."""
        return self.run("-A", app, *self._common("worker", "w1"), "-n", "w1@here", "-c", "1", *options, **environment)

    def router(self, *options: str) -> Started:
        """`mesh router -D`."""
        return self.run(*self._common("router", "router"), *options)

    def run(self, *argv: str, **environment: str) -> Started:
        ended = subprocess.run(
            [*self.prefix, sys.executable, "-m", "mesh", *argv],
            cwd=ROOT,
            env=os.environ | environment,
            extra_groups=self.groups,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Started(ended.returncode, ended.stdout, ended.stderr)

    def _common(self, command: str, name: str) -> list[str]:
        files = ["-f", f"{self.directory}/{name}.log", "--pidfile", f"{self.directory}/{name}.pid"]
        return ["-b", self.host.url, command, "-D", *files]

    def path(self, name: str) -> Path:
        return self.directory / name

    def pid(self, name: str = "w1") -> int:
        return int(self.path(f"{name}.pid").read_text())

    def stop(self, number: int = signal.SIGTERM, name: str = "w1") -> None:
        pid = self.pid(name)
        os.kill(pid, number)
        eventually(lambda: not is_alive(pid))

    def close(self) -> None:
        for pidfile in self.directory.glob("*.pid"):
            with contextlib.suppress(ValueError, ProcessLookupError):
                if int(pidfile.read_text()) != os.getpid():
                    self.stop(name=pidfile.stem)


@pytest.fixture
def background(host: Host, tmp_path: Path) -> Iterator[Background]:
    background = Background(host, tmp_path / "files")
    background.directory.mkdir()
    yield background
    background.close()


# --- starting ------------------------------------------------------------------------------------


def test_a_detached_node_is_ready_when_its_starter_ends_with_0(background: Background, host: Host, app: Mesh) -> None:
    # When a node is started in the background
    started = background.node("-l", "INFO")

    # Then its starter has shown the banner, and the node works
    assert (started.code, started.err) == (exit_codes.OK, "")
    pid = background.pid()
    assert f"(pid {pid})" in started.out.splitlines()[0]
    assert f".> log:         {background.path('w1.log')}\n" in started.out
    assert [node["pid"] for node in host.status()["nodes"]] == [pid]
    assert tasks.add.delay(2, 3).get(DEADLINE_S) == 5

    # And it has neither a terminal nor a parent nor the starter's session, and prints into its log
    assert os.getsid(pid) not in (os.getsid(0), pid)
    process = psutil.Process(pid)
    assert process.terminal() is None
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)} == {str(background.path("w1.log"))}
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    assert process.cwd() == str(ROOT)
    assert 'msg="w1@here ready."' in background.path("w1.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_pidfile_goes_with_the_node_however_it_is_stopped(background: Background, number: int) -> None:
    assert background.node().code == exit_codes.OK
    background.stop(number)
    assert not background.path("w1.pid").exists()


def test_a_detached_router_is_ready_too_and_stops_in_order(background: Background, host: Host) -> None:
    # When a router is started in the background
    started = background.router()

    # Then it is there when its starter ends
    assert started == (exit_codes.OK, "", "")
    assert host.router_pid() == background.pid("router")
    background.stop(name="router")
    assert not background.path("router.pid").exists()


# --- what can go wrong ---------------------------------------------------------------------------


def test_a_second_node_with_the_pidfile_of_one_that_runs_is_refused(background: Background) -> None:
    # Given a node in the background
    background.node()
    pid = background.pid()

    # When another is started with the same pidfile
    started = background.node("-n", "w2@here")

    # Then it says so, and the first one is as it was
    assert started.code == exit_codes.CANT_CREATE == 73
    assert started.err == (
        f"Error: the pidfile {background.path('w1.pid')} can't be made: process {pid} has it, and runs. "
        f'Stop it with "kill {pid}", or give another path.\n'
    )
    assert background.pid() == pid
    assert is_alive(pid)


def test_the_pidfile_of_a_node_that_was_killed_is_taken_over(background: Background) -> None:
    # Given a node that could not tidy up
    background.node()
    first = background.pid()
    background.stop(signal.SIGKILL)
    assert background.pid() == first

    # When it is started again, then that works
    assert background.node().code == exit_codes.OK
    assert background.pid() != first


def test_a_pidfile_that_is_somebody_else_s_by_now_stays(background: Background) -> None:
    background.node()
    pid = background.pid()
    background.path("w1.pid").write_text(f"{os.getpid()}\n")
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not is_alive(pid))
    assert background.pid() == os.getpid()


@pytest.mark.parametrize(
    ("desc", "app", "options", "code", "says"),
    [
        ("no app", "nowhere", (), 2, "Error: no mesh app found at 'nowhere'"),
        (
            "a setting that is none",
            PROJECT,
            (".concurency=3",),
            2,
            "unknown setting 'worker_concurency' of the command line",
        ),
        ("no queue", PROJECT, ("-X", "celery"), 2, "exclude_queues='celery' is not possible: give --queues too"),
        ("a directory that is none", PROJECT, ("--pidfile", "/nonexistent/%n.pid"), 73, "/nonexistent/w1.pid can't be"),
        ("a log that can't be", PROJECT, ("-f", "/nonexistent/%n.log"), 73, "/nonexistent/w1.log can't be opened: No"),
        ("a log in a letter that is none", PROJECT, ("-f", "%x.log"), 2, "logfile='%x.log' is not possible"),
    ],
)
def test_the_starter_says_why_a_node_does_not_become_ready(
    background: Background, desc: str, app: str, options: tuple[str, ...], code: int, says: str
) -> None:
    # When a node is started that can't be
    started = background.node(*options, app=app)

    # Then its starter ends with the code and the error that it would have had in the foreground
    assert (started.code, started.out) == (code, ""), desc
    assert says in started.err
    assert started.err.count("Error: ") == 1
    assert not background.path("w1.pid").exists()


def test_the_log_of_a_node_that_does_not_become_ready_has_the_error_in_its_form(background: Background) -> None:
    # When a node is started that can't be, with a log for programs
    started = background.node("--log-format", "json", app="nowhere")

    # Then the error is a record
    (record,) = (json.loads(line) for line in background.path("w1.log").read_text().splitlines())
    assert (record["level"], record["action"]) == ("error", "failed")
    assert started.err == f"Error: {record['msg']}\n"


def test_the_starter_says_that_a_node_was_killed_before_it_was_ready(background: Background, tmp_path: Path) -> None:
    # Given an app that kills its node as it is imported
    (tmp_path / "deadly.py").write_text("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nsignal.pause()\n")

    # When a node is started with it
    started = background.node(app="deadly", PYTHONPATH=str(tmp_path))

    # Then the starter does not wait for ever
    assert started.code == 128 + signal.SIGKILL
    assert started.err == f"Error: it ended with exit code 137 before it was ready. See {background.path('w1.log')}\n"


def test_ctrl_c_while_a_node_starts_ends_both(background: Background, tmp_path: Path) -> None:
    # Given an app that takes its time to be imported
    begun = tmp_path / "begun"
    (tmp_path / "slow.py").write_text(f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(600)\n")
    argv = ["-A", "slow", "-b", background.host.url, "worker", "-D", "-f", str(tmp_path / "log")]
    starter = subprocess.Popen(
        [sys.executable, "-m", "mesh", *argv],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    eventually(begun.exists)

    # When who started it loses patience
    starter.send_signal(signal.SIGINT)

    # Then the starter ends, and (as the net under the tests sees) nothing goes on
    starter.communicate(timeout=DEADLINE_S)
    assert starter.returncode == 128 + signal.SIGTERM


# --- who it is -----------------------------------------------------------------------------------


def test_a_umask_holds_in_tasks_and_for_the_log(background: Background, app: Mesh) -> None:
    background.node("--umask", "027", "-I", printing.__name__)
    assert printing.umask.delay().get(DEADLINE_S) == 0o027
    assert background.path("w1.log").stat().st_mode & 0o777 == 0o640


@pytest.fixture
def nobody(background: Background) -> pwd.struct_passwd:
    """A user that root can become here, who can run what lies in root's home."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    background.prefix = reachable.by_everybody()
    return pwd.getpwnam("nobody")


@pytest.fixture
def files_of_root() -> Iterator[Path]:
    """A directory that others may look into, and root alone writes to."""
    directory = Path(tempfile.mkdtemp(prefix="mf-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.root
@pytest.mark.parametrize("by_number", [False, True])
def test_root_becomes_somebody_else_before_anything_is_made(
    background: Background, host: Host, nobody: pwd.struct_passwd, files_of_root: Path, by_number: bool
) -> None:
    # Given a mesh and a directory for pidfiles of that user's, and one for logs of root's
    os.chown(host.directory, nobody.pw_uid, nobody.pw_gid)
    background.directory = files_of_root / "own"
    background.directory.mkdir()
    os.chown(background.directory, nobody.pw_uid, nobody.pw_gid)
    background.groups = [0]
    log = files_of_root / "w1.log"

    # When root starts a node as that user
    uid = str(nobody.pw_uid) if by_number else "nobody"
    started = background.node("--uid", uid, "-f", str(log))

    # Then all of its processes are that user's for good, and so is what they have made
    assert (started.code, started.err) == (exit_codes.OK, "")
    process = psutil.Process(background.pid())
    for one in (process, *process.children(recursive=True)):
        assert set(one.uids()) == {nobody.pw_uid}
        assert set(one.gids()) == {nobody.pw_gid}
        groups = next(line for line in Path(f"/proc/{one.pid}/status").read_text().splitlines() if "Groups:" in line)
        assert "0" not in groups.split()[1:]
    assert len(process.children(recursive=True)) == 2
    for made in (log, background.path("w1.pid"), *host.directory.iterdir()):
        assert made.owner() == "nobody", made
    assert "ready" in log.read_text()
    background.stop()
    assert not background.path("w1.pid").exists()


@pytest.mark.root
def test_a_log_file_that_is_there_is_not_given_away(
    background: Background, nobody: pwd.struct_passwd, files_of_root: Path
) -> None:
    # Given a link that the user has put where root is told to log, to a file of root's
    secret = files_of_root / "secret"
    secret.write_text("root's\n")
    (files_of_root / "w1.log").symlink_to(secret)

    # When root starts a node as that user, with that log
    started = background.node("--uid", "nobody", "-f", str(files_of_root / "w1.log"))

    # Then it is refused, and the file is root's as before
    assert started.code == exit_codes.CANT_CREATE
    assert "Permission denied" in started.err
    assert (secret.owner(), secret.read_text()) == ("root", "root's\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--uid", "no-such-user"), "--uid no-such-user: there is no such user here"),
        (("--gid", "no-such-group"), "--gid no-such-group: there is no such group here"),
        (("--uid", "4294000000"), "--uid 4294000000: there is no such user here. Give --gid too"),
        (("--umask", "9"), "'9' is no umask: give an octal number such as 027."),
    ],
)
def test_who_can_not_be_become_is_told(background: Background, options: tuple[str, ...], says: str) -> None:
    started = background.node(*options)
    assert (started.code, started.out) == (exit_codes.USAGE, "")
    assert says in started.err


@pytest.mark.root
def test_who_is_not_root_is_told_that_it_can_not_become_another(
    background: Background, nobody: pwd.struct_passwd
) -> None:
    # Given a command that runs as nobody
    background.prefix += ["setpriv", "--reuid", "nobody", "--clear-groups"]

    # When it is to become root
    started = background.run("-A", PROJECT, "worker", "--uid", "root")

    # Then it says that it can't
    assert (started.code, started.out) == (exit_codes.USAGE, "")
    assert started.err == (
        "Error: --uid and --gid are for root, who alone can become somebody else. "
        "Start it as root, or leave them out.\n"
    )


@pytest.mark.root
def test_it_starts_in_a_directory_that_its_user_may_not_enter(
    background: Background, host: Host, nobody: pwd.struct_passwd, files_of_root: Path
) -> None:
    # Given a directory of root's, in which a command of somebody else's is started, as by sudo
    background.directory, locked = files_of_root / "own", files_of_root / "locked"
    background.directory.mkdir()
    locked.mkdir(mode=0o700)
    for one in (host.directory, background.directory):
        os.chown(one, nobody.pw_uid, nobody.pw_gid)
    background.prefix += ["sh", "-c", f'cd {locked}; exec "$@"', "sh", "setpriv", "--reuid", "nobody", "--clear-groups"]

    # When it is a service, then it starts
    started = background.router()
    assert (started.code, started.err) == (exit_codes.OK, "")
    background.stop(name="router")


# --- its host ------------------------------------------------------------------------------------


def test_a_host_that_is_replaced_is_neither_detached_again_nor_does_it_want_the_pidfile(
    background: Background, app: Mesh
) -> None:
    # Given a node in the background whose slots are threads of one process
    started = background.node("-P", "threads", "-I", printing.__name__, "--umask", "027")
    assert started.code == exit_codes.OK
    pid, first = background.pid(), printing.say.delay("from the first").get(DEADLINE_S)

    # When that process is killed
    os.kill(first, signal.SIGKILL)
    second = printing.say.delay("from the second").get(DEADLINE_S)

    # Then another has its work, in the same node and the same log
    assert background.pid() == pid
    assert psutil.Process(second).ppid() == pid != second != first
    log = background.path("w1.log").read_text()
    assert re.search(rf'pid={first} logger=mesh.task.stdout msg="from the first"', log)
    assert re.search(rf'pid={second} logger=mesh.task.stdout msg="from the second"', log)


@pytest.mark.root
def test_root_makes_no_file_on_a_way_that_the_user_can_change(
    background: Background, nobody: pwd.struct_passwd, files_of_root: Path
) -> None:
    # Given a directory of root's alone, and a link to it in one of the user's
    secret, own = files_of_root / "secret", files_of_root / "own"
    secret.mkdir(mode=0o700)
    own.mkdir()
    (own / "log").symlink_to(secret)
    os.chown(own, nobody.pw_uid, nobody.pw_gid)

    # When root starts a node as that user, with a log behind that link
    started = background.node("--uid", "nobody", "-f", str(own / "log" / "w1.log"))

    # Then it is refused, and nothing was made
    assert started.code == exit_codes.CANT_CREATE
    assert list(secret.iterdir()) == []
