"""Reads the command line of a service in a child, so that what only that needs (click above all) is neither in the
service nor in what it forks: 4 MiB less for a node of two slots. The service's own modules are imported meanwhile.
"""

from __future__ import annotations

import importlib
import os
import pickle
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from . import errors, exit_codes
from .service import Service
from .state import current_directory


class _Told(NamedTuple):
    """What the reader leaves to the process that has started it."""

    service: Service
    directory: str | None  #: where --workdir leads
    environment: dict[str, str]


def run(argv: Sequence[str], modules: Sequence[str]) -> int:
    """Runs the command line of a service that is made of these modules. Returns its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who started this may have had it ignored: the child is waited for
    told_fd, fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told_fd)
        _read(argv, fd)
    os.close(fd)
    for module in modules:
        if not select.select([told_fd], [], [], 0)[0]:  # it may have ended already
            importlib.import_module(module)
    with open(told_fd, "rb") as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        errors.say(f"the process that reads the command line was ended by signal {-code}")
        return 128 - code
    return _serve(pickle.loads(told)) if told else code


def _serve(told: _Told) -> int:
    if told.directory is not None:
        os.chdir(told.directory)
    os.environ.update(told.environment)
    errors.coloured = told.service.state.colour
    return errors.run_saying_errors(told.service.run)


def _read(argv: Sequence[str], fd: int) -> NoReturn:
    """Tells of the service; or ends with the command's exit code, where the command line is all there is to it."""
    code = exit_codes.FAILURE
    try:
        code = _code_of(argv, fd)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else exit_codes.FAILURE
    except KeyboardInterrupt:
        code = exit_codes.INTERRUPTED
    except BrokenPipeError:
        pass  # it was to be told to a process that is gone
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            code = code or exit_codes.FAILURE
        finally:
            os._exit(code)


def _code_of(argv: Sequence[str], fd: int) -> int:
    from .root import read

    done = read(argv)
    if isinstance(done, int):
        return done
    directory = current_directory()
    moved = directory if directory != done.state.started_in else None
    with open(fd, "wb") as pipe:
        pickle.dump(_Told(done, moved, dict(os.environ)), pipe)
    return exit_codes.OK
