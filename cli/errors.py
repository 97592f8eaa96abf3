"""How errors reach the user: a line or two on stderr with the remedy, and an exit code. Tracebacks are for defects."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Final, TypeVar

from mesh.exceptions import (
    ImproperlyConfigured,
    InvalidCall,
    MeshError,
    RouterUnreachable,
    SettingsModuleNotFound,
    TaskModuleNotFound,
    UnserialisableArgument,
)

from . import exit_codes, streams

logger = logging.getLogger("mesh")

#: There is no room.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
#: Packages whose frames stand between the command line and the user's module.
_IMPORTERS: Final = frozenset({"importlib", "mesh", "mesh_cli"})

#: Of a process that has detached: hears errors, which go to its log instead of a stderr that nobody looks at.
listener: Callable[[str], None] | None = None
#: Errors may be coloured, on a terminal.
coloured = True

T = TypeVar("T")


class Failed(Exception):
    """A command has failed: what to print, and the exit code."""

    def __init__(self, message: str, code: int = exit_codes.FAILURE) -> None:
        super().__init__(message)
        self.code = code


def say(message: str, trace: str = "") -> None:
    """Prints an error, behind the traceback of the user's own code where there is one."""
    trace = f"{trace.rstrip()}\n" if trace else ""
    if listener is not None:
        logger.error("%s", trace + message, extra={"action": "failed"})
        listener(f"{trace}Error: {message}\n")
    else:
        label = "\033[31m\033[1mError:\033[0m" if coloured and sys.stderr.isatty() else "Error:"
        with contextlib.suppress(OSError):  # the exit code says it too
            print(f"{trace}{label} {message}", file=sys.stderr, flush=True)


def run_saying_errors(work: Callable[[], T]) -> T | int:
    """What `work` returns; or, where it raises what a user is told, tells him and returns the exit code."""
    try:
        done = work()
        sys.stdout.flush()
        return done
    except Failed as error:
        say(str(error))
        return error.code
    except MeshError as error:
        return _of_mesh(error)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has enough (`mesh status | head -1`)
        streams.give_up_stdout()
        return exit_codes.FAILURE
    except OSError as error:
        if error.errno not in _FULL:
            raise
        streams.give_up_stdout()
        where = f": {error.filename}" if error.filename else ""
        say(f"{error.strerror}{where}. Make room there, or where the output goes.")
        return exit_codes.FAILURE


def _of_mesh(error: MeshError) -> int:
    """Says what mesh refused or could not do."""
    say(str(error), _trace_of_the_app(error))
    if isinstance(error, RouterUnreachable):
        return exit_codes.UNAVAILABLE
    if isinstance(error, ImproperlyConfigured | InvalidCall | UnserialisableArgument):
        return exit_codes.USAGE
    return exit_codes.FAILURE


def _trace_of_the_app(error: MeshError) -> str:
    """Where the user's module fails, when it does."""
    if not isinstance(error, TaskModuleNotFound | SettingsModuleNotFound):
        return ""
    trim(error)
    return "".join(traceback.format_exception(error.__cause__)) if error.__cause__ is not None else ""


def trim(error: MeshError) -> None:
    """Lets the traceback of the cause begin in the user's module; no cause is left where that does not even exist."""
    cause = error.__cause__
    if cause is None:
        return
    trace = cause.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _IMPORTERS:
        trace = trace.tb_next
    missing = trace is None and isinstance(cause, ModuleNotFoundError)
    error.__cause__ = None if missing else cause.with_traceback(trace)
