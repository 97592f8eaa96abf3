"""The simulator's own parts: a simulated vice that is none would let a real one pass."""

from __future__ import annotations

import random

import pytest

from mesh import messages as m
from mesh.core import ready
from mesh.core.effects import Commit
from mesh.core.records import Row, RowKind
from mesh.sim.disk import SimDisk
from mesh.sim.timeline import Timeline
from mesh.sim.wire import Door, Link, Wire
from tests.sim.coverage import FAULTS, IMPOSSIBLE, TRANSITIONS, pairs
from tests.sim.faults import KINDS, LONG_QUEUES_EXTRA, MILD
from tests.sim.many import Asked, play, shrink
from tests.sim.scale import SMALL, small_world
from tests.sim.storm import Script, script_of
from tests.sim.workload import Event


class Reader:
    """A process that only reads."""

    host, pid = "A", 1

    def wake(self) -> None:
        """Nobody sleeps here."""


class Desk:
    """A disk, and what it has answered."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.disk = SimDisk(self.timeline, random.Random(1))
        self.answers: list[tuple[int, str]] = []

    def commit(self, number: int, *, synced: bool = False, wait_s: float = 1.0) -> None:
        row = Row(number, RowKind.DEAD, [number])
        self.disk.append(Commit(number, [row], [], synced), lambda *answer: self.answers.append(answer))
        self.timeline.run_until(self.timeline.mono_s + wait_s)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_commit_is_there_when_it_is_answered(desk: Desk) -> None:
    desk.commit(1)
    assert (desk.answers, desk.disk.numbers) == ([(1, "")], {1})


def test_a_full_disk_takes_nothing_until_it_is_healed(desk: Desk) -> None:
    desk.disk.full = True
    desk.commit(1)
    assert desk.disk.numbers == set()
    assert desk.answers[0][1]
    desk.disk.heal()
    desk.commit(1)
    assert desk.disk.numbers == {1}


def test_what_was_not_synced_is_lost_with_the_power_and_what_was_is_not(desk: Desk) -> None:
    lost = set()
    for number in range(1, 40):
        desk.commit(number, synced=number == 20)
    desk.disk.power_lost()
    lost = set(range(1, 40)) - desk.disk.numbers
    assert lost
    assert min(lost) > 20
    assert lost == set(range(min(lost), 40))  # the latest, and none between


def test_a_commit_under_way_when_its_router_dies_is_there_whole_or_not_at_all() -> None:
    seen = set()
    for seed in range(30):
        desk = Desk()
        desk.disk._rng = random.Random(seed)
        desk.commit(1, wait_s=0.0)
        desk.disk.writer_died()
        desk.timeline.run_until(desk.timeline.mono_s + 1.0)
        seen.add(frozenset(desk.disk.numbers))
        assert desk.answers == []
    assert seen == {frozenset(), frozenset({1})}


def test_what_is_damaged_is_read_as_nothing_and_is_set_aside_at_the_next_start(desk: Desk) -> None:
    desk.commit(1)
    desk.commit(2)
    desk.disk.damage(1)
    assert desk.disk.read(1) is None
    assert [row.number for row in desk.disk.rows(tasks=False)] == [2]
    assert desk.disk.numbers == {2}


@pytest.mark.parametrize(("there", "back"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0)])
def test_a_link_may_carry_messages_one_way_only(there: float, back: float) -> None:
    timeline = Timeline()
    wire = Wire(timeline, random.Random(1), with_codec=True)
    door, link = Door(wire, Reader(), "door"), Link(wire, Reader(), "door")
    timeline.run_until(timeline.mono_s + 1.0)
    link.drop(there, back)
    link.send(m.Bye("there"))
    assert door.send(link.peer, m.Bye("back"))
    timeline.run_until(timeline.mono_s + 1.0)
    assert (len(door.receive()), len(link.receive())) == (1 - there, 1 - back)


def test_a_link_that_jitters_keeps_its_own_order_and_is_overtaken_by_others() -> None:
    timeline = Timeline()
    wire = Wire(timeline, random.Random(1), with_codec=False)
    door = Door(wire, Reader(), "door")
    links = [Link(wire, Reader(), "door") for _ in range(4)]
    timeline.run_until(timeline.mono_s + 1.0)
    for link in links:
        link.jitter_s = 0.1
    for number in range(20):
        links[number % 4].send(m.Bye(str(number)))
    came: list[tuple[bytes, int]] = []
    for _ in range(200):
        timeline.run_until(timeline.mono_s + 0.001)
        came += [(peer, int(message.reason)) for peer, message, _ in door.receive() if isinstance(message, m.Bye)]
    assert len(came) == 20
    assert [number for _, number in came] != sorted(number for _, number in came)
    for link in links:
        own = [number for peer, number in came if peer == link.peer]
        assert own == sorted(own)


def test_a_small_world_ends() -> None:
    before = {key: getattr(*key) for key in SMALL}
    with small_world(is_small=True):
        assert SMALL[ready, "HUNGRY"] == ready.HUNGRY
    assert {key: getattr(*key) for key in SMALL} == before


def test_the_table_knows_every_fault_and_gives_a_reason_for_each_gap() -> None:
    assert len(pairs()) == len(set(pairs())) == len(TRANSITIONS) * len(FAULTS)
    assert IMPOSSIBLE.keys() <= set(pairs())
    assert all(IMPOSSIBLE.values())
    assert set(MILD) | set(LONG_QUEUES_EXTRA) <= KINDS.keys()


def test_a_failure_is_told_with_the_fewest_events_that_were_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that a storm fails wherever its fifth and its ninth event are both there
    script = script_of("shrunk", 12)
    culprits = {script.events[4], script.events[8]}

    def run(script: Script, events: list[Event] | None = None) -> None:
        if culprits <= set(script.events if events is None else events):
            raise AssertionError("both")

    monkeypatch.setattr("tests.sim.many.run", run)

    assert set(shrink(script)) == culprits
    assert play(Asked("shrunk", 12)).error == "AssertionError: both"
    assert shrink(script, for_s=0.0) == list(script.events)
