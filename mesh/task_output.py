"""What tasks print becomes log records, which name the task: one a line.

`capture` replaces `sys.stdout` and `sys.stderr` of a slot, once. Whose text it is is asked when something is written,
so a task that prints nothing costs nothing. What C code and subprocesses write to the descriptors 1 and 2 goes there as
ever.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final, TextIO

from mesh import ids
from mesh.request import current_run, when_run_ends

#: A line is cut here, so that text without line ends takes no more memory than this.
LINE_CHARS_MAX: Final = 1 << 16

Run = tuple[Any, ...]  #: as `request.current_run` has it


def capture(level: int) -> None:
    """From now on what this process prints is logged at this level, as `mesh.task.stdout` and `mesh.task.stderr`."""
    sys.stdout = LoggedStream(sys.stdout, logging.getLogger("mesh.task.stdout"), level)
    sys.stderr = LoggedStream(sys.stderr, logging.getLogger("mesh.task.stderr"), level)


class _Line:
    """The line that a task has begun; outside of tasks, that a thread has."""

    def __init__(self, run: Run | None) -> None:
        self.text = ""
        self.run = run  #: whose text it is
        self.thread = threading.get_ident()
        self.is_awaited = False  #: the end of the run will end it


class _Logging(threading.local):
    """Whether what a thread writes now comes from the logging of a line."""

    is_on = False


class LoggedStream(io.TextIOBase):
    """A text stream whose lines are logged. Any thread or coroutine may write; each task has a line of its own."""

    def __init__(self, behind: TextIO, logger: logging.Logger, level: int) -> None:
        """`behind` is what it stands for: it has the descriptor, and gets what logging itself has to say."""
        self._behind = behind
        self._logger = logger
        self._level = level
        self._lines: ContextVar[_Line | None] = ContextVar("mesh line", default=None)
        self._logging = _Logging()
        self.buffer: Final = _Bytes(self)

    def write(self, text: str) -> int:
        """Logs the lines that end in it; what is behind the last line end waits for more, or for the end of the run."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._logging.is_on:
            self._write_behind(text)
            return len(text)
        line = self._current_line()
        *whole, begun = (line.text + text).split("\n")
        line.text = ""
        for one in whole:
            self._log(one, line.run)
        line.text = _last_overwritten(begun)
        if len(line.text) > LINE_CHARS_MAX:
            self._end(line)
        elif line.text and line.run is not None and not line.is_awaited:
            line.is_awaited = True
            when_run_ends(lambda: self._end(line))
        return len(text)

    def _current_line(self) -> _Line:
        """The line of the task that runs here. One that this context has from elsewhere is not touched."""
        run, line = current_run(), self._lines.get()
        if line is None or line.run is not run or line.thread != threading.get_ident():
            line = _Line(run)
            self._lines.set(line)
        return line

    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override]
        """As `write` of each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """In a task nothing: a line is logged when it ends. Outside of one a line that has no end is logged."""
        line = self._lines.get()
        if line is not None and line.run is None and not self._logging.is_on and current_run() is None:
            self._end(line)

    def _end(self, line: _Line) -> None:
        line.is_awaited = False
        text, line.text = line.text, ""
        self._log(text, line.run)

    def _log(self, text: str, run: Run | None) -> None:
        text = _last_overwritten(text.rstrip())
        if not text:
            return
        fields = {} if run is None else {"task": ids.to_text(run[0]), "task_name": run[1]}
        self._logging.is_on = True
        try:
            self._logger.log(self._level, "%s", text, extra=fields)
        finally:
            self._logging.is_on = False

    def _write_behind(self, text: str) -> None:
        try:
            self._behind.write(text)
            self._behind.flush()
        except (OSError, ValueError):  # it is closed or full: there is nobody left to tell
            pass

    # --- what else a stream has --------------------------------------------------------------------

    def close(self) -> None:
        """Stays open: whoever closes it is one task of many."""

    def fileno(self) -> int:
        """The descriptor, for subprocesses: what is written there is not logged."""
        return self._behind.fileno()

    def isatty(self) -> bool:
        """No."""
        return False

    def writable(self) -> bool:
        """Yes."""
        return True

    def reconfigure(self, **options: Any) -> None:
        """Nothing: there is no encoding, and lines are its buffer."""

    @property
    def name(self) -> str:
        """As before."""
        return self._behind.name

    @property
    def mode(self) -> str:
        """For writing."""
        return "w"

    @property
    def line_buffering(self) -> bool:
        """Yes."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Any character can be written."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Any character can be written."""
        return "backslashreplace"


class _Bytes(io.RawIOBase):
    """The stream for who writes bytes."""

    def __init__(self, stream: LoggedStream) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        """As text, whatever it is."""
        content = bytes(data)
        self._stream.write(content.decode(errors="backslashreplace"))
        return len(content)

    def flush(self) -> None:
        """As the stream's."""
        self._stream.flush()

    def close(self) -> None:
        """Stays open."""

    def fileno(self) -> int:
        """As the stream's."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """No."""
        return False

    def writable(self) -> bool:
        """Yes."""
        return True


def _last_overwritten(text: str) -> str:
    r"""What a terminal would show of a line: what is behind its last \r, save those at its end. For progress bars."""
    return text[text.rstrip("\r").rfind("\r") + 1 :] if "\r" in text else text
