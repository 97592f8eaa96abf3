"""Every exit code of the command, provoked in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh_cli import exit_codes
from tests.edges import journal_damage as damage

DEADLINE_S = 20.0
#: An app that says that it is being imported, and waits for a signal.
SLOW = "import pathlib, signal\npathlib.Path('begun').touch()\nsignal.pause()\n"


class Case(NamedTuple):
    """What a command ends with."""

    desc: str
    code: int
    argv: str
    says: str  #: on stderr; on stdout where the code is 0
    prepare: Callable[[Path, Path], None] = lambda mesh_dir, here: None
    interrupt: bool = False  #: gets Ctrl-C once the app is being imported


def _damage_a_journal(mesh_dir: Path, here: Path) -> None:
    damage.break_page(damage.fill(mesh_dir))


def _take_the_pidfile(mesh_dir: Path, here: Path) -> None:
    (here / "w1.pid").write_text(f"{os.getpid()}\n")


def _write_a_slow_app(mesh_dir: Path, here: Path) -> None:
    (here / "slow.py").write_text(SLOW)


CASES = [
    Case("done", exit_codes.OK, "--version", "mesh "),
    Case("a wait ran out", exit_codes.FAILURE, "call any.task --wait --timeout 0.1", "did not come within 0.1 s"),
    Case("no app", exit_codes.USAGE, "worker", "no app is given"),
    Case("a wrong option", exit_codes.USAGE, "worker --bogus", "No such option"),
    Case("a damaged journal", exit_codes.DAMAGED, "journal check", "is damaged", _damage_a_journal),
    Case("no router", exit_codes.UNAVAILABLE, "status", "no router of mesh"),
    Case("a pidfile in use", exit_codes.CANT_CREATE, "-A any worker --pidfile w1.pid", "and runs", _take_the_pidfile),
    Case("a log that can't be", exit_codes.CANT_CREATE, "router -f no/such.log", "can't be opened"),
    Case("Ctrl-C", exit_codes.INTERRUPTED, "-A slow call any.task", "", _write_a_slow_app, interrupt=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.desc.replace(' ', '-')}")
def test_each_exit_code_means_what_the_docs_say(case: Case, mesh_dir: Path, mesh_url: str, tmp_path: Path) -> None:
    # Given what the case needs
    case.prepare(mesh_dir, tmp_path)

    # When the command runs
    with subprocess.Popen(
        [sys.executable, "-m", "mesh", *case.argv.split()],
        cwd=tmp_path,
        env=os.environ | {"MESH_BROKER_URL": mesh_url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if case.interrupt:
            _interrupt(process, tmp_path / "begun")
        out, err = process.communicate(timeout=DEADLINE_S)

    # Then that is its code, with the reason
    assert process.returncode == case.code
    assert case.says in (err if case.code else out)
    assert "Traceback" not in err


def _interrupt(process: subprocess.Popen[str], begun: Path) -> None:
    while not begun.exists():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.send_signal(signal.SIGINT)


def test_no_exit_code_is_left_out() -> None:
    constants = {value for name, value in vars(exit_codes).items() if name.isupper()}
    assert {case.code for case in CASES} == constants
