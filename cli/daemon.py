"""What a long-lived command does before it begins, and when it ends: user, umask, log, detaching, pidfile."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from mesh import logs
from mesh.expansion import expand
from mesh.launch import Launch, detach
from mesh.log_writer import LogFile
from mesh.pidfile import PidfileTaken, held
from mesh.privileges import Identity, NoSuchIdentity, become, find

from . import errors, exit_codes, streams

#: Where a detached process logs that was told no --logfile: root's, and everybody else's below the state directory.
_ROOT_LOGS: Final = "/var/log/mesh"
_DEFAULT_LOG: Final = "%n.log"
#: Tells the hosts of a node of that, which read its command line too, see `of_host`. A router has none.
_LOGFILE_VARIABLE: Final = "MESH_WORKER_LOGFILE"


class DaemonOptions(NamedTuple):
    """What the options say of it: see `daemon_options`."""

    loglevel: str
    log_format: str | None
    logfile: str | None
    detach: bool
    pidfile: str | None
    uid: str | None
    gid: str | None
    umask: int | None

    def of_host(self) -> DaemonOptions:
        """Those of a process that a node starts with its own command line: the node has done the rest."""
        return DaemonOptions(self.loglevel, self.log_format, self.logfile, False, None, None, None, None)


class Life(NamedTuple):
    """What a command needs while it runs."""

    log: str  #: where the log goes, for people
    launch: Launch | None  #: who waits for it, where it has detached

    def say(self, text: str) -> None:
        """Prints to the stdout of who started it."""
        if self.launch is None:
            try:
                print(text, flush=True)
            except OSError:  # what it serves is worth more than what it says
                streams.give_up_stdout()
        else:
            self.launch.out(f"{text}\n")

    def ready(self, message: str) -> None:
        """It is what it was started to be."""
        logs.announce(message, "ready")
        if self.launch is not None:
            self.launch.ready()


@contextlib.contextmanager
def living(name: str, options: DaemonOptions, colour: bool) -> Iterator[Life]:
    """Makes this process what the options want, before anything is imported or made, and tidies up behind it.

    With --detach it returns in another process, and the one that was started ends in here.

    Raises:
        Failed, InvalidCall: that can't be, and why.
    """
    identity = _identity(options)
    pidfile = None if options.pidfile is None else expand(options.pidfile, option="pidfile", node=name)
    if options.umask is not None:
        os.umask(options.umask)
    log = _open_log(name, options, identity)
    launch = None
    if options.detach:
        assert log is not None
        launch = detach(log.fileno(), log.path)
        errors.listener = launch.err
    logs.configure(options.loglevel, destination=log, form=options.log_format, colour=None if colour else False)
    with _pidfile(pidfile):
        yield Life("stderr" if log is None else log.path, launch)


def _identity(options: DaemonOptions) -> Identity | None:
    try:
        return find(options.uid, options.gid)
    except NoSuchIdentity as error:
        raise errors.Failed(str(error), exit_codes.USAGE) from None


@contextlib.contextmanager
def _pidfile(path: str | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(path))
        except PidfileTaken as error:
            raise errors.Failed(str(error), exit_codes.CANT_CREATE) from None
        yield


def _open_log(name: str, options: DaemonOptions, identity: Identity | None) -> LogFile | None:
    """Becomes the user, and opens the log file as that. None for stderr."""
    pattern = options.logfile
    try:
        if pattern is None and options.detach:
            pattern = f"{_default_directory()}/{_DEFAULT_LOG}"
            os.environ[_LOGFILE_VARIABLE] = pattern
        if identity is not None and pattern is not None:
            _make_for(identity, _log_path(pattern, name, 0))
        if identity is not None:
            become(identity)
        return None if pattern is None else LogFile(functools.partial(_log_path, pattern, name))
    except OSError as error:
        raise errors.Failed(
            f"the log file {error.filename or pattern} can't be opened: {error.strerror}. Give another --logfile.",
            exit_codes.CANT_CREATE,
        ) from None


def _make_for(identity: Identity, path: str) -> None:
    """Makes the file as root where the user might not, and where nobody but root has a say in the way to it.

    One that is there already is left alone: it may be a trap. So may be links and directories of others.
    """
    if not _is_roots_own(os.path.dirname(os.path.abspath(path))):
        return
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if os.geteuid() == 0:
            os.fchown(fd, identity.uid, identity.gid)
        os.close(fd)


def _is_roots_own(directory: str) -> bool:
    """Whether only root can change where this path leads."""
    while True:
        found = os.lstat(directory)
        others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or others_write:
            return False
        parent = os.path.dirname(directory)
        if parent == directory:
            return True
        directory = parent


def _log_path(pattern: str, name: str, index: int) -> str:
    return expand(pattern, option="logfile", node=name, index=index)


def _default_directory() -> str:
    if os.geteuid() == 0:
        directory = _ROOT_LOGS
    else:
        state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        directory = f"{state}/mesh/log"
    os.makedirs(directory, exist_ok=True)
    return directory
