"""Ctrl-C, SIGTERM and a closed terminal for a command that has something to clean up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Lets such a signal raise only inside `heard()`. One that comes before is raised on entry, one after at the end.

    So what starts and stops processes is never cut in two, and what runs between them can be cut anywhere. Only for
    the main thread.
    """

    def __init__(self) -> None:
        self._heard = False
        #: The signal that came first, as long as it has not ended `heard()`.
        self._pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if kind is None:
            self._raise_pending()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within, a signal raises: SIGINT KeyboardInterrupt, the others SystemExit with 128 + their number.

        Where Python drops an exception (in a finaliser), the next signal raises again, and so does the end.
        """
        try:
            self._heard = True
            self._raise_pending()
            yield
            self._raise_pending()
        finally:
            self._heard, self._pending = False, None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._pending is None:
            self._pending = number
        if self._heard:
            self._raise_pending()

    def _raise_pending(self) -> None:
        if self._pending == signal.SIGINT:
            raise KeyboardInterrupt
        if self._pending is not None:
            raise SystemExit(128 + self._pending)
