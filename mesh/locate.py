"""Where a mesh's router is, and starting one where none runs: exactly one, however many ask at once (DESIGN D1).

A mesh is a directory that holds its sockets, slot pages, log and two locks:

- `router.lock` is held exclusively by the router for its life. Who only asks takes it shared for a moment, so askers
  never get in each other's way, and a router that meets one knows that it was no router.
- `start.lock` is held by the process that is starting a router and is handed to that router, which releases it when it
  is ready. It is taken before `router.lock` is looked at, so what was seen still holds when a router is spawned.

Locks are flock(2): they end with the process that holds them, so nothing is ever left to clean up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import sys
import time
from collections.abc import Mapping

# Now: that of gevent, which comes later, closes, and lets go of a lock, when its loop has something to do.
from os import close
from typing import Any, Final, NamedTuple

from mesh.exceptions import InvalidMeshName, RouterNotPermitted, RouterUnreachable, UnsupportedURL
from mesh.same_file import is_at

DEFAULT_MESH: Final = "default"
SYSTEM_DIRECTORY: Final = "/run/mesh"
SYSTEM_STATE_DIRECTORY: Final = "/var/lib/mesh"
#: Says where the state directory of the mesh is, as its first router since the host's start has found it.
_STATE_MARKER: Final = "state"
#: Marks a directory whose router somebody else runs (a systemd unit): nobody starts one on demand.
MANAGED_MARKER: Final = "managed"

_SCHEME: Final = "mesh://"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
_NAME_RULE: Final = (
    "a name has 1 to 41 of a-z 0-9 . _ - and begins with a letter or digit; write mesh://NAME or mesh:///a/directory"
)
#: sockaddr_un holds 108 bytes with the final zero.
_SOCKET_PATH_BYTES_MAX: Final = 107
_LONGEST_SOCKET_NAME: Final = "c-000000000.sock"
_PAGE: Final = re.compile(r"n-([0-9]+)(?:-[0-9]+)?\.page")
_REPLY_SOCKET: Final = re.compile(r"c-[0-9a-f]+\.sock")
#: A reply socket younger than this may be about to be listened on.
_YOUNG_S: Final = 10.0
#: How long a router waits for askers, who hold the lock for microseconds, to let go of it.
_ASKERS_WAIT_S: Final = 1.0
#: A log above this size is set aside (one old one is kept) before a router is started.
_LOG_BYTES_MAX: Final = 1 << 20
#: The number under which a started router finds `start.lock`.
_START_LOCK_FD: Final = 3
#: Variables that would make a router what it is not: part of the caller's unit, in its debug mode, or about its app.
_NOT_INHERITED: Final = frozenset(
    {
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
        *("INVOCATION_ID", "PYTHONINSPECT"),
        *("MESH_APP", "MESH_BROKER_URL", "MESH_RESULT_BACKEND"),
    }
)
#: What the process between starter and router runs. It exits at once, so that the router is nobody's child: a caller
#: that waits for its children does not wait for the router, and keeps no zombie of it.
_DETACH: Final = """
import os, sys
os.setsid()
os.chdir("/")
os.closerange(4, os.sysconf("SC_OPEN_MAX"))
os.fork() or os.execv(sys.argv[1], sys.argv[1:])
"""


class Place(NamedTuple):
    """Where a mesh lives on this host."""

    mesh: str
    directory: str
    managed: bool  #: somebody else runs its router


def inbox_url(place: Place) -> str:
    """Where the router takes calls, outcomes and HELLOs."""
    return f"ipc://{place.directory}/router.sock"


def control_url(place: Place) -> str:
    """Where the router takes control requests."""
    return f"ipc://{place.directory}/control.sock"


def reply_path(directory: str, incarnation: int) -> str:
    """The socket on which the client of this incarnation (34 bits) takes results."""
    return f"{directory}/c-{incarnation:09x}.sock"


def pages_path(directory: str, pid: int, number: int = 0) -> str:
    """The slot page of the node with this supervisor; `number` tells nodes of one process apart."""
    return f"{directory}/n-{pid}-{number}.page" if number else f"{directory}/n-{pid}.page"


def is_page(directory: str, path: str) -> bool:
    """Whether this path is one of `pages_path`."""
    return _PAGE.fullmatch(os.path.basename(path)) is not None and os.path.dirname(path) == directory


def lock_path(place: Place) -> str:
    """What the router holds for its life; its content is the router's pid."""
    return f"{place.directory}/router.lock"


def start_lock_path(place: Place) -> str:
    """What whoever starts a router holds until that router is ready."""
    return f"{place.directory}/start.lock"


def log_path(place: Place) -> str:
    """Where a router started on demand writes."""
    return f"{place.directory}/router.log"


def state_directory(place: Place) -> str:
    """Where the mesh keeps what is to survive its processes, and the host's reboot.

    Of a named mesh: `$XDG_STATE_HOME/mesh/NAME` of whoever starts its first router, or `/var/lib/mesh/NAME` where it is
    the system's. Of a mesh that is a directory: that directory.
    """
    if place.directory.startswith(f"{SYSTEM_DIRECTORY}/"):
        return f"{SYSTEM_STATE_DIRECTORY}/{place.mesh}"
    if place.directory != f"/tmp/mesh-{os.geteuid()}/{place.mesh}":
        return place.directory
    told = f"{place.directory}/{_STATE_MARKER}"
    with contextlib.suppress(OSError), open(told, encoding="utf-8") as file:
        return file.read()
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return f"{home}/mesh/{place.mesh}"


def prepare_state(place: Place) -> str:
    """Makes the state directory, closed to others. Returns its path.

    Raises:
        RouterNotPermitted: it can't be used, and why.
    """
    directory = state_directory(place)
    try:
        os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
        _make_own(directory)
        if directory != place.directory:
            # A later router, started by whomever in whatever environment, finds the same.
            with open(f"{place.directory}/{_STATE_MARKER}", "w", encoding="utf-8") as file:
                file.write(directory)
    except OSError as error:
        raise RouterNotPermitted(place.mesh, directory, _reason(error)) from None
    return directory


def boot_id() -> str:
    """What tells this start of the host from every other."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def pages(directory: str) -> dict[str, int]:
    """{path of a slot page: pid of its node}, of all that there are."""
    found = {}
    for entry in os.scandir(directory):
        page = _PAGE.fullmatch(entry.name)
        if page is not None:
            found[entry.path] = int(page[1])
    return found


# --- where ---------------------------------------------------------------------------------------


def locate(url: str | None = None) -> Place:
    """The place that a broker URL means. It depends on the URL, the file system and the uid, and on no variable.

    Raises:
        UnsupportedURL: a scheme that mesh does not speak.
        InvalidMeshName: a name or directory that can't be used.
        RouterNotPermitted: the host has this mesh for others.
    """
    rest = _after_scheme(url)
    if rest.startswith("/"):
        return _named_directory(rest)
    name = rest.removesuffix("/") or DEFAULT_MESH
    if not _NAME.fullmatch(name):
        raise InvalidMeshName(name, _NAME_RULE)
    return _system_place(name) or _place(name, f"/tmp/mesh-{os.geteuid()}/{name}")


def _after_scheme(url: str | None) -> str:
    if not url:
        return ""
    if not url.startswith(_SCHEME):
        shown = re.sub(r"//[^@/]*@", "//...@", url)
        raise UnsupportedURL(shown, "broker", f"mesh://{url}" if _NAME.fullmatch(url) else _SCHEME)
    return url[len(_SCHEME) :]


def _named_directory(path: str) -> Place:
    directory = os.path.normpath(path)
    name = os.path.basename(directory)
    if not name:
        raise InvalidMeshName(path, "the root directory can't be a mesh; name a directory of its own")
    return _place(name, directory)


def _system_place(name: str) -> Place | None:
    directory = f"{SYSTEM_DIRECTORY}/{name}"
    try:
        os.stat(directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RouterNotPermitted(name, directory, _reason(error)) from None
    return _place(name, directory)


def _place(name: str, directory: str) -> Place:
    longest = len(os.fsencode(f"{directory}/{_LONGEST_SOCKET_NAME}"))
    if longest > _SOCKET_PATH_BYTES_MAX:
        raise InvalidMeshName(
            name,
            f"a socket in {directory} would have a path of {longest} bytes and the system allows "
            f"{_SOCKET_PATH_BYTES_MAX}; use a shorter directory",
        )
    return Place(name, directory, _is_managed(directory))


def _is_managed(directory: str) -> bool:
    if os.path.lexists(f"{directory}/{MANAGED_MARKER}"):
        return True
    if not directory.startswith(f"{SYSTEM_DIRECTORY}/"):
        return False
    try:
        return os.stat(directory).st_uid != os.geteuid()
    except OSError:
        return False


# --- the directory -------------------------------------------------------------------------------


def prepare(place: Place) -> None:
    """Makes the directory, closed to others (0700), and refuses one that others could get into.

    In /tmp anybody can make the directory first; one that is a link, another user's, or open to others is never used.

    Raises:
        RouterNotPermitted: the directory can't be used, and why.
    """
    try:
        if place.managed:
            _check_access(place.directory)
            return
        parent = os.path.dirname(place.directory)
        if parent == f"/tmp/mesh-{os.geteuid()}":
            _make_own(parent)
        else:
            os.makedirs(parent, 0o700, exist_ok=True)
        _make_own(place.directory)
    except OSError as error:
        raise RouterNotPermitted(place.mesh, place.directory, _reason(error)) from None


def _check_access(directory: str) -> None:
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, "it is kept by another user, and yours may not enter and write", directory)


def _make_own(directory: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is no directory of its own but a link or a file", directory)
    if found.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM, f"it belongs to uid {found.st_uid} and you are uid {os.geteuid()}", directory
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionError(errno.EPERM, f"its mode {mode:04o} lets others in; run chmod 700 on it", directory)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


# --- the router's lock ---------------------------------------------------------------------------

#: {fd of router.lock: fd of the directory}, of the router of this process.
_held: dict[int, int] = {}


def acquire_router_lock(place: Place) -> int | None:
    """Makes this process the place's router: a descriptor to keep for life, or None where a router runs already.

    Raises:
        RouterNotPermitted: the directory can't be written.
    """
    give_up_mono_s = time.monotonic() + _ASKERS_WAIT_S
    while True:
        fd = _open_lock(place, lock_path(place))
        if _lock(fd, fcntl.LOCK_EX) and is_at(fd, lock_path(place)):
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            _held[fd] = _keep_directory(place.directory)
            return fd
        is_router = not _lock(fd, fcntl.LOCK_SH)
        _unlock(fd)
        if is_router or time.monotonic() > give_up_mono_s:
            return None
        time.sleep(0.001)


def _open_lock(place: Place, path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RouterNotPermitted(place.mesh, place.directory, _reason(error)) from None


def release_router_lock(fd: int) -> None:
    """Ends being the router; another may start from here on. The end of the process does the same."""
    close(_held.pop(fd))
    _unlock(fd)


def release_start_lock(fd: int) -> None:
    """The router that was handed this descriptor is ready: who finds it gone from now on may start another."""
    _unlock(fd)


def router_pid(place: Place) -> int | None:
    """The pid of the router that runs at this place, None where none does; 0 where it has not told it yet."""
    try:
        fd = os.open(lock_path(place), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _lock(fd, fcntl.LOCK_SH):
            return None
        return int(os.pread(fd, 32, 0) or 0)
    finally:
        _unlock(fd)


def _keep_directory(directory: str) -> int:
    """Locks the directory, by which systemd-tmpfiles knows not to clean up a mesh in use (tmpfiles.d(5))."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    _lock(fd, fcntl.LOCK_SH)
    return fd


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _unlock(fd: int) -> None:
    """Unlocks before it closes: a child forked by another thread meanwhile has a copy, which must not keep the lock."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    close(fd)


# --- what the dead have left ---------------------------------------------------------------------


def remove_stale(place: Place) -> None:
    """Removes the sockets of those who died while no router was there. For a router that starts."""
    for entry in list(os.scandir(place.directory)):
        if _REPLY_SOCKET.fullmatch(entry.name) is not None and _nobody_listens(entry):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def _nobody_listens(entry: os.DirEntry[str]) -> bool:
    import socket

    with contextlib.suppress(OSError):
        if time.time() - entry.stat(follow_symlinks=False).st_mtime < _YOUNG_S:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            return probe.connect_ex(entry.path) == errno.ECONNREFUSED
    return False


# --- starting one --------------------------------------------------------------------------------


def ensure_router(place: Place, settings: Mapping[str, Any] | None = None) -> None:
    """Starts a router unless one runs or is being started; returns at once, before it is ready. Any thread may call it.

    `settings` are those that are not the defaults (`settings.router_settings`), for the router that is started.
    Who gets no answer for a while calls it again: the router it met may have been on its way out.

    Raises:
        RouterNotPermitted: the directory can't be used.
        RouterUnreachable: no router can be spawned.
    """
    prepare(place)
    if place.managed:
        return
    fd = _open_lock(place, start_lock_path(place))
    try:
        if not _lock(fd, fcntl.LOCK_EX):
            return
        if router_pid(place) is not None:
            fcntl.flock(fd, fcntl.LOCK_UN)
            return
        try:
            _spawn(place, fd, settings or {})
        except OSError as error:
            fcntl.flock(fd, fcntl.LOCK_UN)
            raise RouterUnreachable(place.mesh, 0.0, f"to start one with {sys.executable!r}", _reason(error)) from None
    finally:
        close(fd)  # also after Ctrl-C: a process that goes on must not keep others from starting a router


def _spawn(place: Place, start_lock: int, settings: Mapping[str, Any]) -> None:
    """Starts `python -m mesh.router` in a session of its own, as nobody's child, with the lock as descriptor 3."""
    import signal

    router = ["-m", "mesh.router", place.directory, "--mesh", place.mesh, "--start-lock-fd", str(_START_LOCK_FD)]
    if settings:
        import json

        router += ["--settings", json.dumps(dict(settings))]
    log, lock = _open_log(place), fcntl.fcntl(start_lock, fcntl.F_DUPFD_CLOEXEC, 10)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", _DETACH, sys.executable, "-P", *router],
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, lock, _START_LOCK_FD),
            ],
            setsigmask=[],
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    finally:
        close(log)
        close(lock)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _open_log(place: Place) -> int:
    """The log as a descriptor above those that the router gets."""
    path = log_path(place)
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_size > _LOG_BYTES_MAX:
            os.replace(path, f"{path}.1")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    finally:
        close(fd)


def _environment() -> dict[str, str]:
    """The caller's, without what is meant for the caller alone, and with a PYTHONPATH that holds in any directory."""
    kept = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    search = [os.path.abspath(entry) for entry in kept.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.basename(here) not in ("site-packages", "dist-packages") and here not in search:
        search.append(here)
    if search:
        kept["PYTHONPATH"] = os.pathsep.join(search)
    return kept
