"""How the processes of mesh write logs: lines for people on a terminal, `key=value` or JSON for machines.

Only a process's own shell calls this (the CLI, `python -m mesh.router`); as a library mesh never configures logging.
Fields given by `extra={"action": ..., "task": ...}` follow the message in each form; what is logged in a task has it.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any, Final

from mesh.exceptions import InvalidCall
from mesh.log_writer import Destination, LogDescriptor, WholeRecords
from mesh.task_logger import InTask

#: {what a user may write, in any case: level}
LEVELS: Final = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
    "FATAL": logging.CRITICAL,
}
DEFAULT_LEVEL: Final = "WARNING"
FORMS: Final = ("human", "logfmt", "json")

#: What every record has; the rest came by `extra`.
_ORDINARY: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r"[^\s\"=\\]+")
_COLOUR: Final = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[1;31m"}
_NO_COLOUR: Final = "\x1b[0m"


def configure(
    level: str | int = DEFAULT_LEVEL,
    *,
    destination: Destination | None = None,
    form: str | None = None,
    colour: bool | None = None,
) -> None:
    """Sends all logs of this process and its forks from `level` up to `destination` (stderr). Again replaces that.

    `form` is one of FORMS; None means 'human' on a terminal, else 'logfmt'. `colour`: None means on a terminal, unless
    NO_COLOR is set.

    Raises:
        InvalidCall: a level that is none.
    """
    number = level_number(level)
    destination = LogDescriptor() if destination is None else destination
    on_terminal = destination.is_terminal()
    if colour is None:
        colour = on_terminal and not os.environ.get("NO_COLOR")
    handler = WholeRecords(destination)
    handler.setFormatter(_formatter(form or ("human" if on_terminal else "logfmt"), colour))
    handler.addFilter(InTask())
    unconfigure()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(number)


def unconfigure() -> None:
    """Takes back what `configure` did, but for the level."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, WholeRecords)]:
        root.removeHandler(handler)
        handler.close()


def enter_child(index: int) -> None:
    """This process is now the slot of this number, counted from 1: it has a file of its own if the path says so.

    Raises:
        OSError: that can't be opened.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, WholeRecords):
            handler.destination.enter_child(index)


def _formatter(form: str, colour: bool) -> logging.Formatter:
    if form == "human":
        return ForPeople(colour)
    return ForJson() if form == "json" else ForMachines()


def level_number(level: str | int) -> int:
    """The level of a name in any case.

    Raises:
        InvalidCall: no level has this name.
    """
    if isinstance(level, int):
        return level
    number = LEVELS.get(level.upper())
    if number is None:
        raise InvalidCall("loglevel", level, "one of " + ", ".join(LEVELS))
    return number


def announce(message: str, action: str) -> None:
    """Logs what must be seen at any level, such as that a node is ready. It looks like INFO."""
    logger = logging.getLogger("mesh")
    logger.handle(logger.makeRecord("mesh", logging.INFO, "", 0, message, (), None, extra={"action": action}))


class ForPeople(logging.Formatter):
    """`[2026-08-01 12:30:00.123 WARNING 4711] lease expired (action=lease_expired task=0191…)`, in local time."""

    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        head = f"[{stamp}.{int(record.msecs):03d} {record.levelname} {record.process}]"
        if self._colour and record.levelno in _COLOUR:
            head = f"{_COLOUR[record.levelno]}{head}{_NO_COLOUR}"
        line = f"{head} {record.getMessage()}"
        fields = _fields(record)
        if fields:
            line += " (" + " ".join(f"{key}={value}" for key, value in fields.items()) + ")"
        trouble = _trouble(self, record)
        return f"{line}\n{trouble}" if trouble else line


class ForMachines(logging.Formatter):
    """`time=2026-08-01T12:30:00.123Z level=warning pid=4711 logger=mesh.router msg="lease expired" task=0191…`.

    One line a record, whatever is in it: line ends and quotes are escaped as in JSON.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return " ".join(f"{key}={_quoted(str(value))}" for key, value in _pairs(self, record).items())


class ForJson(logging.Formatter):
    """As ForMachines, each record as one JSON object. Values that JSON has no form for become text."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        import json

        pairs = _pairs(self, record)
        try:
            return json.dumps(pairs, default=str, allow_nan=False)
        except (TypeError, ValueError):  # odd keys, circles, infinity
            return json.dumps({key: str(value) for key, value in pairs.items()})


def _pairs(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    """A record by its keys: what every one has, its own fields, its traceback."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    pairs = {
        "time": f"{stamp}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "pid": record.process,
        "logger": record.name,
        "msg": record.getMessage(),
    }
    pairs |= {key: value for key, value in _fields(record).items() if key not in pairs}
    trouble = _trouble(formatter, record)
    if trouble:
        pairs["trace"] = trouble
    return pairs


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _ORDINARY}


def _trouble(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback and stack that go with a record."""
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.isprintable():
        return value
    import json

    return json.dumps(value, ensure_ascii=not value.isprintable())
