"""How the processes of mesh write logs: lines for people on a terminal, `key=value` for machines everywhere else.

Only a process's own shell calls this (the CLI, `python -m mesh.router`); as a library mesh never configures logging.
Fields given by `extra={"action": ..., "task": ...}` follow the message in both forms.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from typing import Final, TextIO

from mesh.exceptions import InvalidCall

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

#: What every record has; the rest came by `extra`.
_ORDINARY: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r"[^\s\"=\\]+")
_COLOUR: Final = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[1;31m"}
_NO_COLOUR: Final = "\x1b[0m"


def configure(level: str | int = DEFAULT_LEVEL, stream: TextIO | None = None, colour: bool | None = None) -> None:
    """Sends all logs of this process from `level` up to `stream` (stderr). Again replaces what it did before.

    `colour`: None means on a terminal, unless NO_COLOR is set.

    Raises:
        InvalidCall: a level that is none.
    """
    stream = sys.stderr if stream is None else stream
    on_terminal = stream.isatty()
    if colour is None:
        colour = on_terminal and not os.environ.get("NO_COLOR")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ForPeople(colour) if on_terminal else ForMachines())
    handler.set_name("mesh")
    root = logging.getLogger()
    for other in [other for other in root.handlers if other.get_name() == "mesh"]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level_number(level))


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
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        pairs = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "pid": str(record.process),
            "logger": record.name,
            "msg": record.getMessage(),
            **_fields(record),
        }
        trouble = _trouble(self, record)
        if trouble:
            pairs["trace"] = trouble
        return " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items())


def _fields(record: logging.LogRecord) -> dict[str, str]:
    return {key: str(value) for key, value in vars(record).items() if key not in _ORDINARY}


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
