"""How a node ends: what each request to stop leads to, and when one stage gives way to the next."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

#: How long a task that was interrupted has, before it is killed.
GRACE_S: Final = 2.0


class Stage(IntEnum):
    """How far a node is with its end. It only ever goes up."""

    RUNNING = 0
    WARM = 1  #: it takes nothing more, and what runs is finished
    SOFT = 2  #: as warm, with the time that a cold stop leaves
    COLD = 3  #: what runs is interrupted, and has a moment
    KILLED = 4  #: what runs is killed


class Shutdown:
    """1. Goes to the stage that is asked for. 2. Goes on to the next when its time is over."""

    def __init__(self, soft_s: float = 0.0, warm_s: float | None = None, grace_s: float = GRACE_S) -> None:
        """`soft_s`: how long tasks have before a cold stop; `warm_s`: how long a warm stop takes, before it is cold."""
        self._soft_s = soft_s
        self._warm_s = warm_s
        self._grace_s = grace_s
        self.stage = Stage.RUNNING
        #: When the next stage begins by itself.
        self._next_mono_s: float | None = None

    def stop(self, mono_s: float) -> None:
        """SIGTERM: once is enough."""
        if self.stage is Stage.RUNNING:
            self._enter(Stage.WARM, mono_s)

    def stop_harder(self, mono_s: float) -> None:
        """Ctrl-C: each one goes further."""
        if self.stage is Stage.RUNNING:
            self._enter(Stage.WARM, mono_s)
        else:
            self.stop_cold(mono_s)

    def stop_cold(self, mono_s: float) -> None:
        """SIGQUIT: after the time that tasks have before it; again: at once."""
        if self.stage < Stage.SOFT and self._soft_s > 0.0:
            self._enter(Stage.SOFT, mono_s)
        elif self.stage < Stage.COLD:
            self._enter(Stage.COLD, mono_s)
        else:
            self._enter(Stage.KILLED, mono_s)

    def tick(self, mono_s: float, *, runs: bool) -> Stage:
        """The stage now. Where nothing runs there is nothing to wait for."""
        if self.stage is Stage.SOFT and not runs:
            self._enter(Stage.COLD, mono_s)
        if self._next_mono_s is not None and self._next_mono_s <= mono_s:
            self.stop_cold(mono_s)
        return self.stage

    def next_deadline_mono_s(self) -> float | None:
        """When `tick` goes on by itself."""
        return self._next_mono_s

    def _enter(self, stage: Stage, mono_s: float) -> None:
        self.stage = stage
        lasts_s = {Stage.WARM: self._warm_s, Stage.SOFT: self._soft_s, Stage.COLD: self._grace_s}.get(stage)
        self._next_mono_s = None if lasts_s is None else mono_s + lasts_s

    def check(self) -> None:
        """Raises AssertionError where a last stage has an end."""
        assert self._next_mono_s is None or Stage.RUNNING < self.stage < Stage.KILLED
