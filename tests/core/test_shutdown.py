"""How a node ends: which requests to stop lead how far, and what goes on by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from mesh.core.shutdown import GRACE_S, Shutdown, Stage

RUNNING, WARM, SOFT, COLD, KILLED = Stage
#: {what comes in: what it stands for}. "." is time that passes, too little for any deadline.
KEYS: dict[str, Callable[[Shutdown, float], None]] = {
    "T": Shutdown.stop,  # SIGTERM
    "C": Shutdown.stop_harder,  # Ctrl-C
    "Q": Shutdown.stop_cold,  # SIGQUIT
    ".": lambda shutdown, mono_s: None,
}


@pytest.fixture
def make(checked: Callable[[Any], Any]) -> Callable[..., Shutdown]:
    return lambda *times, **more: checked(Shutdown(*times, **more))


def stages(shutdown: Shutdown, keys: str, *, runs: bool = True) -> list[Stage]:
    """The stage after each of these."""
    seen, mono_s = [], 100.0
    for key in keys:
        KEYS[key](shutdown, mono_s)
        mono_s += 0.001
        seen.append(shutdown.tick(mono_s, runs=runs))
    return seen


@pytest.mark.parametrize(
    ("desc", "keys", "soft_s", "expected"),
    [
        ("nothing", "...", 0.0, [RUNNING] * 3),
        ("SIGTERM, however often, is warm", "T.TTT", 0.0, [WARM] * 5),
        ("Ctrl-C goes on with each", "C.C.C", 0.0, [WARM, WARM, COLD, COLD, KILLED]),
        ("a Ctrl-C too many changes nothing", "CCCCC", 0.0, [WARM, COLD, KILLED, KILLED, KILLED]),
        ("Ctrl-C goes on from SIGTERM", "TCC", 0.0, [WARM, COLD, KILLED]),
        ("SIGQUIT is cold", "Q.", 0.0, [COLD, COLD]),
        ("SIGQUIT twice kills", "QQ", 0.0, [COLD, KILLED]),
        ("SIGQUIT goes on from a warm stop", "TQ", 0.0, [WARM, COLD]),
        ("SIGTERM never goes back", "QTCT", 0.0, [COLD, COLD, KILLED, KILLED]),
        ("with time before it, Ctrl-C is soft before it is cold", "CCCC", 9.0, [WARM, SOFT, COLD, KILLED]),
        ("with time before it, SIGQUIT is soft", "Q.QQ", 9.0, [SOFT, SOFT, COLD, KILLED]),
        ("SIGTERM leaves a soft stop as it is", "QT", 9.0, [SOFT, SOFT]),
        ("Ctrl-C goes on from a soft one", "QC", 9.0, [SOFT, COLD]),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_requests_to_stop_lead_so_far(
    make: Callable[..., Shutdown], desc: str, keys: str, soft_s: float, expected: list[Stage]
) -> None:
    assert stages(make(soft_s), keys) == expected


@pytest.mark.parametrize("soft_s", [0.0, 9.0])
def test_no_request_leads_back(make: Callable[..., Shutdown], soft_s: float) -> None:
    for keys in itertools.product("TCQ", repeat=4):
        seen = stages(make(soft_s, 30.0), "".join(keys))
        assert seen == sorted(seen), keys


def test_a_warm_stop_without_an_end_waits_for_ever(make: Callable[..., Shutdown]) -> None:
    shutdown = make()
    shutdown.stop(100.0)
    assert shutdown.next_deadline_mono_s() is None
    assert shutdown.tick(1e9, runs=True) is WARM


def walk(shutdown: Shutdown) -> list[tuple[Stage, float]]:
    """The stages that follow by themselves, and when."""
    seen = []
    while (due := shutdown.next_deadline_mono_s()) is not None:
        assert shutdown.tick(due - 0.001, runs=True) is shutdown.stage
        seen.append((shutdown.tick(due, runs=True), due))
    return seen


@pytest.mark.parametrize(
    ("desc", "soft_s", "warm_s", "key", "follows"),
    [
        ("a warm stop with an end is cold after it", 0.0, 30.0, "T", [(COLD, 130.0), (KILLED, 130.0 + GRACE_S)]),
        ("and soft before", 5.0, 30.0, "T", [(SOFT, 130.0), (COLD, 135.0), (KILLED, 135.0 + GRACE_S)]),
        ("an end at once", 0.0, 0.0, "T", [(COLD, 100.0), (KILLED, 100.0 + GRACE_S)]),
        ("a soft stop is cold after its time", 5.0, None, "Q", [(COLD, 105.0), (KILLED, 105.0 + GRACE_S)]),
        ("a cold one kills after its grace", 0.0, 30.0, "Q", [(KILLED, 100.0 + GRACE_S)]),
        ("nothing follows by itself on a warm stop", 5.0, None, "C", []),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_one_stage_gives_way_to_the_next_when_its_time_is_over(
    make: Callable[..., Shutdown],
    desc: str,
    soft_s: float,
    warm_s: float | None,
    key: str,
    follows: list[tuple[Stage, float]],
) -> None:
    shutdown = make(soft_s, warm_s)
    KEYS[key](shutdown, 100.0)
    assert walk(shutdown) == follows


def test_a_request_puts_the_next_deadline_where_its_stage_has_it(make: Callable[..., Shutdown]) -> None:
    # Given a warm stop with an end
    shutdown = make(5.0, 30.0)
    shutdown.stop(100.0)
    assert shutdown.next_deadline_mono_s() == 130.0

    # When it is hastened
    shutdown.stop_harder(110.0)

    # Then the end of that stage counts
    assert shutdown.next_deadline_mono_s() == 115.0


def test_a_soft_stop_is_cold_as_soon_as_nothing_runs(make: Callable[..., Shutdown]) -> None:
    shutdown = make(5.0)
    shutdown.stop_cold(100.0)
    assert shutdown.tick(101.0, runs=True) is SOFT
    assert shutdown.tick(102.0, runs=False) is COLD
    assert shutdown.next_deadline_mono_s() == 102.0 + GRACE_S
