"""Reads the command line of a service in a child: what only that needs is 4 MiB, which a node would pass on to its
slots. The service's own modules are imported meanwhile.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

from . import errors, exit_codes
from .service import Service

#: {command of a service: modules that it is made of}
SERVICES: Final = {
    "router": ("mesh.router",),
    "worker": ("mesh.node_start", "mesh.slot_maker", "mesh.logged_slots"),
}


class _Told(NamedTuple):
    """What a child leaves to the process that has started it."""

    service: Service
    directory: str | None
    environment: dict[str, str]


def run(command: str, argv: Sequence[str]) -> int:
    """Runs a command of SERVICES. Returns its exit code."""
    told_fd, fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told_fd)
        _read(argv, fd)
    os.close(fd)
    for module in SERVICES[command]:
        importlib.import_module(module)
    with open(told_fd, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not told:
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code
    service, directory, environment = pickle.loads(told)
    if directory is not None:
        os.chdir(directory)
    os.environ.update(environment)
    return errors.exit_code(service.run, colour=service.state.colour)


def _read(argv: Sequence[str], fd: int) -> NoReturn:
    """Tells of the service; or ends with the command's exit code, where the command line is all there is to it."""
    code = exit_codes.FAILURE
    try:
        from .root import read

        done: Any = read(argv)
        if isinstance(done, int):
            code = done
        else:
            with open(fd, "wb") as pipe:
                pickle.dump(_Told(done, _directory(), dict(os.environ)), pipe)
            code = exit_codes.OK
    except KeyboardInterrupt:
        code = exit_codes.INTERRUPTED
    except BrokenPipeError:
        pass  # it was to be told to a process that is gone
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
