"""The suite's own net: the fixtures of tests/conftest.py catch what they say, and let pass what they say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

#: One test for each thing that can be left behind.
SAMPLES = '''
import subprocess, sys, threading
from pathlib import Path

import conftest
import pytest

HERE = Path(__file__).parent
conftest.NAMED_MESHES = HERE / "named"
conftest.PATIENCE_S = 0.5
SLEEPER = "import time; time.sleep(600)"
GRANDPARENT = f"""
import subprocess, sys
quiet = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
sleeper = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], start_new_session=True, **quiet)
print(sleeper.pid)
sleeper.returncode = 0
"""
kept = []


def start(*arguments):
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, *map(str, arguments)], start_new_session=True)
    kept.append(process)
    (HERE / f"{process.pid}.pid").touch()
    return process


def test_clean():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()


def test_thread_that_takes_a_moment():
    threading.Timer(0.1, lambda: None).start()


def test_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def test_file():
    kept.append(open("/dev/null"))


def test_child():
    start()


def test_orphan_in_its_own_session():
    pid = subprocess.run([sys.executable, "-c", GRANDPARENT], capture_output=True, check=True).stdout
    (HERE / f"{int(pid)}.pid").touch()


def test_named_mesh():
    (HERE / "named" / "orders").mkdir(parents=True)


def test_router(mesh_dir):
    start("mesh.router", mesh_dir)


def test_node(mesh_dir):
    start("mesh.node", mesh_dir)


def test_url_and_directory(mesh_dir, mesh_url):
    (HERE / "directory").write_text(str(mesh_dir))
    assert mesh_url == f"mesh://{mesh_dir}"
    assert mesh_dir.is_dir()
    assert len(str(mesh_dir)) < 30


def test_failed_already():
    kept.append(open("/dev/null"))
    assert False


def test_failed_already_with_a_node(mesh_dir):
    start("mesh.node", mesh_dir)
    assert False


@pytest.mark.skip(reason="no bridge")
def test_skipped():
    pass


@pytest.mark.lan
@pytest.mark.skip(reason="no bridge")
def test_skipped_with_a_marker():
    pass
'''

OUTCOMES = {
    "test_clean": {"PASSED"},
    "test_thread_that_takes_a_moment": {"PASSED"},
    "test_thread": {"PASSED", "ERROR"},
    "test_file": {"PASSED", "ERROR"},
    "test_child": {"PASSED", "ERROR"},
    "test_orphan_in_its_own_session": {"PASSED", "ERROR"},
    "test_named_mesh": {"PASSED", "ERROR"},
    "test_router": {"PASSED"},
    "test_node": {"PASSED", "ERROR"},
    "test_url_and_directory": {"PASSED"},
    "test_failed_already": {"FAILED"},
    "test_failed_already_with_a_node": {"FAILED"},
    "test_skipped_with_a_marker": {"ERROR"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of pytest over the samples, as CI would do it: (folder, output)."""
    folder = tmp_path_factory.mktemp("samples")
    shutil.copy(CONFTEST, folder)
    (folder / "test_samples.py").write_text(SAMPLES)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = lan\n")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider"]
    environment = os.environ | {"CI": "true"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return folder, done.stdout


def test_what_a_test_leaves_behind_fails_it(run):
    # Given a run of tests that leave things behind, and of some that don't
    _, output = run

    # When its summary is read
    outcomes: dict[str, set[str]] = {}
    for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", output, re.MULTILINE):
        outcomes.setdefault(name, set()).add(outcome)

    # Then those and only those have failed, and none that had failed already is blamed twice
    assert outcomes == OUTCOMES, output


def test_the_complaint_names_what_was_left(run):
    _, output = run
    for complaint in (
        r"thread Thread-\d+",
        r"process \d+ \(\w+\): .*sleep",
        r"descriptor \d+: /dev/null",
        r"mesh .*orders",
    ):
        assert re.search(complaint, output), output
    assert re.search(r"still running in /tmp/mt-\w+:\nprocess \d+ .* mesh.node", output), output
    assert "skipped, which CI may not do: no bridge" in output


def test_no_process_and_no_directory_survives_the_run(run):
    # Given the pids that the samples wrote down
    folder, _ = run
    pids = [int(path.stem) for path in folder.glob("*.pid")]
    assert len(pids) == 5

    # When the machine is asked, then none of them runs and the mesh's directory is gone
    running = [process for process in psutil.process_iter() if process.pid in pids]
    assert [process for process in running if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not Path((folder / "directory").read_text()).exists()
