"""Where a mesh's router is, and that exactly one is started."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh import locate
from mesh.exceptions import InvalidMeshName, RouterNotPermitted, UnsupportedURL

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0

#: Stands in for mesh.router in a process of its own: takes the lock, tells what it was given, goes when its mesh does.
STAND_IN = """
import argparse, json, os, sys, time
sys.path.remove({fake!r})
del sys.modules["mesh"]
sys.path.insert(0, {root!r})
from mesh import locate

arguments = argparse.ArgumentParser()
arguments.add_argument("directory")
arguments.add_argument("--mesh")
arguments.add_argument("--start-lock-fd", type=int)
given = arguments.parse_args()
place = locate.Place(given.mesh, given.directory, False)
with open(given.directory + "/spawned", "a") as spawned:
    spawned.write(f"{{os.getpid()}}\\n")
time.sleep({slow_s})
lock = locate.acquire_router_lock(place)
if lock is None:
    sys.exit(1)
facts = {{
    "pid": os.getpid(), "ppid": os.getppid(), "session": os.getsid(0), "cwd": os.getcwd(),
    "fds": sorted(map(int, os.listdir("/proc/self/fd"))), "environ": dict(os.environ), "argv": sys.argv,
}}
with open(given.directory + "/facts.tmp", "w") as out:
    json.dump(facts, out)
os.rename(given.directory + "/facts.tmp", given.directory + "/facts")
locate.release_start_lock(given.start_lock_fd)
print("ready", flush=True)
while os.path.exists(given.directory):
    time.sleep(0.01)
"""


def wait_for(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not come within {DEADLINE_S} s"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it that pid 1 has not reaped it yet."""
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


@pytest.fixture
def place(tmp_path: Path) -> locate.Place:
    return locate.locate(f"mesh://{tmp_path}/m")


@pytest.fixture
def stand_in(tmp_path: Path, place: locate.Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Puts a stand-in for the router where `python -m mesh.router` finds it; ends those that were started."""
    fake = tmp_path / "fake"

    def install(slow_s: float) -> None:
        (fake / "mesh").mkdir(parents=True)
        (fake / "mesh" / "__init__.py").touch()
        code = STAND_IN.format(fake=str(fake), root=str(ROOT), slow_s=slow_s)
        (fake / "mesh" / "router.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(fake))

    yield install
    spawned = Path(place.directory, "spawned")
    for pid in map(int, spawned.read_text().split() if spawned.exists() else ()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_for(functools.partial(is_gone, pid), f"the end of {pid}")


# --- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desc", "url", "mesh", "directory"),
    [
        ("nothing given", None, "default", "/tmp/mesh-{uid}/default"),
        ("an empty URL", "", "default", "/tmp/mesh-{uid}/default"),
        ("the scheme alone", "mesh://", "default", "/tmp/mesh-{uid}/default"),
        ("a name", "mesh://lab-2.x_y", "lab-2.x_y", "/tmp/mesh-{uid}/lab-2.x_y"),
        ("a name with a slash behind", "mesh://lab/", "lab", "/tmp/mesh-{uid}/lab"),
        ("a directory", "mesh:///srv/jobs/night", "night", "/srv/jobs/night"),
        ("a directory with a slash behind", "mesh:///srv/jobs/night/", "night", "/srv/jobs/night"),
    ],
)
def test_a_url_names_a_mesh_and_its_directory(
    desc: str, url: str | None, mesh: str, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a host without meshes of its own, and variables that must not matter
    monkeypatch.setattr(locate, "SYSTEM_DIRECTORY", "/nonexistent")
    for variable in ("TMPDIR", "HOME", "XDG_RUNTIME_DIR", "USER"):
        monkeypatch.setenv(variable, "/elsewhere")

    # When the URL is looked up
    found = locate.locate(url)

    # Then it is that mesh, in a directory that depends on the uid at most
    assert found == (mesh, directory.format(uid=os.geteuid()), False), desc


@pytest.mark.parametrize(
    ("desc", "name"),
    [
        ("capitals", "Lab"),
        ("a dot in front", ".lab"),
        ("a path", "lab/x"),
        ("a parent", ".."),
        ("a space", "a b"),
        ("a port", "host:5672"),
        ("too long", "a" * 42),
        ("a line end", "lab\n"),
        ("the root directory", "/"),
        ("a directory too deep for a socket", "/" + "d" * 100),
    ],
)
def test_a_name_that_cannot_hold_sockets_is_refused_with_the_reason(desc: str, name: str) -> None:
    with pytest.raises(InvalidMeshName, match=r"can't be used: .*(mesh://NAME|directory)"):
        locate.locate(f"mesh://{name}")


def test_the_longest_directory_that_is_taken_holds_the_longest_socket_name() -> None:
    # Given a directory that is exactly as long as a socket of a client allows
    directory = "/" + "d" * (107 - 1 - len("/c-3ffffffff.sock"))

    # When it is looked up, then it is taken, and one byte more is not
    found = locate.locate(f"mesh://{directory}")
    assert len(locate.reply_path(found.directory, (1 << 34) - 1)) == 107
    with pytest.raises(InvalidMeshName, match="108 bytes"):
        locate.locate(f"mesh://{directory}d")


@pytest.mark.parametrize(
    ("url", "shown", "instead"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0", "mesh://"),
        ("amqp://me:secret@rabbit//", "amqp://...@rabbit//", "mesh://"),
        ("lab", "lab", "mesh://lab"),
    ],
)
def test_a_url_of_another_broker_is_refused_without_showing_its_password(url: str, shown: str, instead: str) -> None:
    with pytest.raises(UnsupportedURL) as caught:
        locate.locate(url)
    assert (caught.value.url, caught.value.instead) == (shown, instead)
    assert "secret" not in str(caught.value)


def test_a_mesh_of_the_host_goes_before_the_mesh_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a directory for this mesh under the system's
    monkeypatch.setattr(locate, "SYSTEM_DIRECTORY", str(tmp_path))
    (tmp_path / "lab").mkdir(0o700)

    # When it is looked up, then it is that one, and others are still the user's
    assert locate.locate("mesh://lab").directory == f"{tmp_path}/lab"
    assert locate.locate("mesh://other").directory == f"/tmp/mesh-{os.geteuid()}/other"


@pytest.mark.parametrize("how", ["a marker", "another owner"])
def test_a_router_that_somebody_else_runs_is_not_started(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a mesh of the host that is marked, or another user's
    monkeypatch.setattr(locate, "SYSTEM_DIRECTORY", str(tmp_path))
    (tmp_path / "lab").mkdir(0o700)
    if how == "a marker":
        (tmp_path / "lab" / "managed").touch()
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)

    # When a router is asked for
    found = locate.locate("mesh://lab")
    locate.ensure_router(found)

    # Then none was started, and nothing was made
    assert found.managed
    assert {entry.name for entry in (tmp_path / "lab").iterdir()} <= {"managed"}


def test_a_mesh_of_the_host_that_may_not_be_entered_is_an_error_and_no_second_router(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given that the system's directory can't be searched by this user
    def refuse(path: object, **options: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", refuse)

    # When the mesh is looked up, then the answer is the remedy and not the user's own mesh
    with pytest.raises(RouterNotPermitted, match=r"Permission denied.*Ask its owner"):
        locate.locate("mesh://lab")


# --- the directory -------------------------------------------------------------------------------


def test_a_new_directory_is_closed_to_others(place: locate.Place) -> None:
    before = os.umask(0)
    try:
        locate.prepare(place)
    finally:
        os.umask(before)
    assert os.stat(place.directory).st_mode & 0o777 == 0o700
    locate.prepare(place)


def test_a_directory_that_others_could_get_into_is_refused(
    place: locate.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given one that is open to the group
    os.mkdir(place.directory)
    os.chmod(place.directory, 0o750)

    # When it is to be used, then the answer says what to run
    with pytest.raises(RouterNotPermitted, match=r"0750.*chmod 700"):
        locate.prepare(place)

    # And the same for one that belongs to another user
    os.chmod(place.directory, 0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(RouterNotPermitted, match="belongs to uid"):
        locate.prepare(place)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_directory_that_is_none_is_refused(place: locate.Place, tmp_path: Path, kind: str) -> None:
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(0o700)
        os.symlink(tmp_path / "elsewhere", place.directory)
    else:
        Path(place.directory).touch()
    with pytest.raises(RouterNotPermitted, match="link or a file"):
        locate.prepare(place)


# --- the lock ------------------------------------------------------------------------------------


def test_one_process_is_the_router_until_it_lets_go(place: locate.Place) -> None:
    # Given a router
    locate.prepare(place)
    assert locate.router_pid(place) is None
    fd = locate.acquire_router_lock(place)
    assert fd is not None

    # When another tries, then it gets nothing, and learns who it is
    assert locate.acquire_router_lock(place) is None
    assert locate.router_pid(place) == os.getpid()

    # And when the first lets go, the next one gets it
    locate.release_router_lock(fd)
    assert locate.router_pid(place) is None
    again = locate.acquire_router_lock(place)
    assert again is not None
    locate.release_router_lock(again)


def test_who_asks_for_a_router_never_keeps_one_from_starting(place: locate.Place) -> None:
    # Given a process that asks without end
    locate.prepare(place)
    ask = "from mesh import locate\nplace = locate.Place('m', {!r}, False)\nprint('asks', flush=True)\n"
    code = ask.format(place.directory) + "while True: locate.router_pid(place)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as asker:
        assert asker.stdout is not None
        asker.stdout.readline()

        # When a router takes the lock, again and again
        refused = 0
        for _ in range(5000):
            fd = locate.acquire_router_lock(place)
            if fd is None:
                refused += 1
            else:
                locate.release_router_lock(fd)
        asker.kill()

    # Then it always got it
    assert refused == 0


def test_a_lock_on_a_file_that_was_removed_meanwhile_counts_for_nothing(
    place: locate.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given somebody who clears the directory just as the lock is taken
    locate.prepare(place)
    lock = locate._lock
    removed: list[int] = []

    def lock_too_late(fd: int, kind: int) -> bool:
        if not removed:
            os.unlink(locate.lock_path(place))
            removed.append(fd)
        return lock(fd, kind)

    monkeypatch.setattr(locate, "_lock", lock_too_late)

    # When a router takes it, then what it holds is what others find
    fd = locate.acquire_router_lock(place)
    assert fd is not None
    assert os.path.samestat(os.fstat(fd), os.stat(locate.lock_path(place)))
    locate.release_router_lock(fd)


def test_a_mesh_in_use_is_marked_for_those_who_clean_up_tmp(place: locate.Place) -> None:
    # Given a router
    locate.prepare(place)
    router = locate.acquire_router_lock(place)
    assert router is not None

    # When systemd-tmpfiles comes by, which locks a directory before it cleans it, then it is turned away
    directory = os.open(place.directory, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)

    # And no longer once the router has gone
    locate.release_router_lock(router)
    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(directory)


# --- starting one --------------------------------------------------------------------------------


def test_ten_processes_at_once_start_one_router(place: locate.Place, stand_in: Callable[[float], None]) -> None:
    # Given a router that takes its time to start, and a pipe whose end lets all go at once
    stand_in(0.3)
    barrier, go = os.pipe()
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from mesh import locate\n"
        f"place = locate.Place('m', {place.directory!r}, False)\n"
        "sys.stdin.readline()\n"
        "for _ in range(50): locate.ensure_router(place)\n"
    )
    # When ten processes ask for it at the same time, all through its start
    askers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code], stdin=barrier, stderr=subprocess.PIPE)
        for _ in range(10)
    ]
    os.close(barrier)
    os.close(go)
    said = [asker.communicate(timeout=DEADLINE_S)[1].decode() for asker in askers]

    # Then one was started, and nobody said a word
    facts = Path(place.directory, "facts")
    wait_for(facts.exists, "the router")
    locate.ensure_router(place)
    assert len(Path(place.directory, "spawned").read_text().split()) == 1
    assert said == [""] * 10


def test_a_router_is_nobodys_child_and_takes_nothing_along(
    place: locate.Place, stand_in: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a process with variables of its own and a descriptor that children inherit
    import json

    stand_in(0.0)
    monkeypatch.setenv("MESH_BROKER_URL", "mesh://other")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("ORDINARY", "kept")
    read_end, write_end = os.pipe()
    os.dup2(read_end, 77, inheritable=True)

    # When it starts a router
    locate.ensure_router(place)
    for fd in (read_end, write_end, 77):
        os.close(fd)
    wait_for(Path(place.directory, "facts").exists, "the router")
    facts = json.loads(Path(place.directory, "facts").read_text())

    # Then that is in a session of its own, at /, without a parent here, with its log, and with nothing of the starter's
    with pytest.raises(ChildProcessError):
        os.waitpid(facts["pid"], os.WNOHANG)
    assert facts["ppid"] != os.getpid()
    assert facts["session"] != os.getsid(0)
    assert facts["cwd"] == "/"
    assert facts["argv"][1:] == [place.directory, "--mesh", "m", "--start-lock-fd", "3"]
    assert facts["environ"]["ORDINARY"] == "kept"
    assert not {"MESH_BROKER_URL", "NOTIFY_SOCKET"} & facts["environ"].keys()
    assert str(ROOT) in facts["environ"]["PYTHONPATH"].split(os.pathsep)
    assert 77 not in facts["fds"]
    wait_for(lambda: Path(locate.log_path(place)).read_text() == "ready\n", "the log")
    assert locate.router_pid(place) == facts["pid"]


def test_a_router_that_died_at_its_start_is_followed_by_another(
    place: locate.Place, tmp_path: Path, stand_in: Callable[[float], None]
) -> None:
    # Given a router that ends before it is ready
    stand_in(0.0)
    router = tmp_path / "fake" / "mesh" / "router.py"
    good = router.read_text()
    router.write_text("raise SystemExit('no memory')")
    locate.ensure_router(place)
    wait_for(lambda: "no memory" in Path(locate.log_path(place)).read_text(), "the end of the first")

    # When the next one asks
    router.write_text(good)
    facts = Path(place.directory, "facts")

    def asks_and_looks() -> bool:
        locate.ensure_router(place)
        return facts.exists()

    # Then there is a router
    wait_for(asks_and_looks, "the second")


def test_ctrl_c_while_a_router_is_started_keeps_nobody_else_from_starting_one(
    place: locate.Place, stand_in: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a process that was interrupted as it started a router, and goes on
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(locate, "_spawn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            locate.ensure_router(place)

    # When anybody needs a router
    stand_in(0.0)
    locate.ensure_router(place)

    # Then one is started
    wait_for(lambda: bool(locate.router_pid(place)), "a router")


def test_a_log_that_has_grown_is_set_aside_at_the_next_start(
    place: locate.Place, stand_in: Callable[[float], None]
) -> None:
    # Given the log of earlier routers
    stand_in(0.0)
    locate.prepare(place)
    log = Path(locate.log_path(place))
    log.write_bytes(b"x" * ((1 << 20) + 1))

    # When a router is started
    locate.ensure_router(place)

    # Then it begins a new log, and the old one is kept beside it
    wait_for(lambda: log.read_text() == "ready\n", "the new log")
    assert Path(f"{log}.1").stat().st_size == (1 << 20) + 1


def test_without_a_state_home_the_journal_is_below_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    found = locate.state_directory(locate.locate("mesh://a-name-that-nobody-has-used"))
    assert found == f"{tmp_path}/.local/state/mesh/a-name-that-nobody-has-used"


def test_looking_up_a_mesh_imports_nothing_heavy() -> None:
    code = "import sys; from mesh import locate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"subprocess", "signal", "zmq", "asyncio", "threading"} & set(loaded.stdout.split())
