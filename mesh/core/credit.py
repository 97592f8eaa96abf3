"""How much work a slot may hold: the expected run time per task name, and the window it is set against (DESIGN D4)."""

from __future__ import annotations

from typing import Final

#: A lease may wait behind others only where it is due to begin within this time, and takes less itself: enough to hide
#: the way to the router and back, little enough to be fair.
WINDOW_US: Final = 2_000
#: Bodies a slot may hold, so that large arguments don't pile up in it.
WINDOW_BYTES: Final = 1 << 20
#: Leases a slot may hold: bounds one message.
WINDOW_LEASES: Final = 256
#: What a slot needs for a task beside its own run time; counted so that empty tasks don't look free.
OVERHEAD_US: Final = 15
#: A slot whose front lease is older gets nothing more, and what waits behind it is recalled for an idle slot.
STALE_S: Final = 0.005
#: When what waits behind an old front lease is recalled though no slot is idle: the order of the queue is worth that
#: much.
STALE_BUSY_S: Final = 0.05
#: A recall without an answer is repeated after this time.
RECALL_AGAIN_S: Final = 1.0
#: When a slot's only lease is looked after: it runs, or the message with it was lost and it comes back.
DOUBT_S: Final = 1.0
#: How long a consumer whose pipe refused a message gets no other.
BLOCKED_S: Final = 0.1
#: Run times by which a name's estimate is renewed.
SAMPLES: Final = 32
#: Run times a name needs before its first estimate; until then its tasks go out alone.
FIRST_SAMPLES: Final = 8
#: Names remembered; beyond it the oldest is forgotten and learnt again.
MAX_NAMES: Final = 10_000


class Estimates:
    """95th percentile of the run time per task name, over the last few dozen runs."""

    def __init__(self) -> None:
        #: {name: expected_us}; only names with enough samples.
        self._expected_us: dict[str, int] = {}
        #: {name: run times since the last renewal, µs}
        self._samples: dict[str, list[int]] = {}

    def expected_us(self, name: str) -> int:
        """What one task of this name takes of a window; a whole window where that is not known yet."""
        return self._expected_us.get(name, WINDOW_US)

    def add(self, name: str, runtime_us: int) -> None:
        """One more run."""
        samples = self._samples.get(name)
        if samples is None:
            if len(self._samples) >= MAX_NAMES:
                self._forget_oldest()
            samples = self._samples[name] = []
        samples.append(runtime_us)
        if len(samples) >= SAMPLES or (len(samples) >= FIRST_SAMPLES and name not in self._expected_us):
            samples.sort()
            self._expected_us[name] = samples[len(samples) * 95 // 100] + OVERHEAD_US
            if len(samples) >= SAMPLES:
                samples.clear()

    def _forget_oldest(self) -> None:
        oldest = next(iter(self._samples))
        del self._samples[oldest]
        self._expected_us.pop(oldest, None)

    def check(self) -> None:
        """Raises AssertionError where a table is out of bounds."""
        assert len(self._samples) <= MAX_NAMES
        assert self._expected_us.keys() <= self._samples.keys()
        assert all(len(samples) < SAMPLES for samples in self._samples.values())
