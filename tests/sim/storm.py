"""One seed: a plan, a list of events, and their course: storm, heal, drain, judgement."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mesh.core.owner import SWEEP_S, Owner
from mesh.sim.history import History, Job
from mesh.sim.world import NodePlan, Plan, World
from tests.sim import faults, hostile, invariants, workload
from tests.sim.contract import Contract, check_fair_weather
from tests.sim.coverage import Coverage
from tests.sim.scale import small_world
from tests.sim.workload import Event

#: How long a healed world may take until nothing is left to do.
DRAIN_S = 120.0
#: Simulated steps beyond which a world is taken to run in circles.
STEPS_MAX = 2_000_000

DO: dict[str, Callable[..., None]] = {**faults.DO, **workload.DO, **hostile.DO}


class Climate(NamedTuple):
    """Which faults there may be."""

    name: str
    kinds: tuple[str, ...]
    crashing: bool
    #: How often many calls are made at once, compared with a call twenty times.
    bursts: int = 1
    #: Messages of strangers and nonsense from known peers; then only the machines' own checks count.
    hostile: bool = False


FAIR = Climate("fair", (), crashing=False)
#: All, and above all those that meet what is on disk alone.
LONG_QUEUES = (*faults.KINDS, *faults.LONG_QUEUES_EXTRA)


def climate_of(rng: random.Random) -> Climate:
    """One kind of fault only, the mild kinds, or all."""
    choice = rng.random()
    if choice < 0.3:
        kind = rng.choice(list(faults.KINDS))
        return Climate(f"only {kind}", (kind,), crashing=False)
    if choice < 0.4:
        return Climate("mild", faults.MILD, crashing=False)
    if choice < 0.45:
        return Climate("hostile", tuple(faults.KINDS), crashing=True, hostile=True)
    if choice < 0.75:
        return Climate("long queues", LONG_QUEUES, crashing=True, bursts=8)
    return Climate("wild", tuple(faults.KINDS), crashing=True)


class Storm(World):
    """A world whose transitions are counted."""

    def __init__(self, seed: str, plan: Plan) -> None:
        self.coverage = Coverage()
        super().__init__(seed, plan)

    def owner_starts(self, host: str, owner: Owner) -> None:
        self.coverage.attach(self.history, self.timeline, host, owner)


class Script(NamedTuple):
    """Everything that a seed decides beforehand."""

    seed: str
    climate: Climate
    plan: Plan
    events: tuple[Event, ...]


def script_of(seed: int | str, n_events: int, *, fair: bool = False) -> Script:
    """Draws a script; a fair one has no faults."""
    rng = random.Random(f"{seed} script")
    climate = FAIR if fair else climate_of(rng)
    plan = Plan.draw(rng)
    if climate.name == "long queues":
        plan = plan._replace(is_small=True, limits=plan.limits._replace(resident_max=0))
    plain = fair and rng.random() < 0.4
    if plain:
        # One slot a host and nothing special about the calls: here the order of the queue can be judged.
        nodes = tuple(NodePlan(host, f"n0@{host}", ("default",), 1) for host in ("A", "B"))
        plan = plan._replace(nodes=nodes, clients_per_host=1, with_peers=False)
    events = []
    at_s = 0.05
    n_faults = 0
    for number in range(n_events):
        at_s += rng.choice((0.0, 0.0001, 0.002, 0.03, 0.06)) * rng.random()
        if climate.hostile and rng.random() < 0.4:
            events.append(hostile.draw(rng, at_s))
        elif climate.kinds and (rng.random() < 0.1 or (n_faults < 2 and number > n_events * 3 // 4)):
            events.append(faults.draw(rng, at_s, climate.kinds))
            n_faults += 1
        else:
            events.append(
                workload.draw(
                    rng, at_s, plain=plain, crashing=climate.crashing, bursts=climate.bursts if plan.is_small else 0
                )
            )
    return Script(str(seed), climate, plan, tuple(events))


def run(script: Script, events: Sequence[Event] | None = None) -> History:
    """Plays a script, or some of its events. Raises AssertionError for a broken invariant, and what handlers raise."""
    with small_world(is_small=script.plan.is_small):
        return _play(script, script.events if events is None else events)


def _play(script: Script, chosen: Sequence[Event]) -> History:
    world = Storm(script.seed, script.plan)
    begin_s = world.timeline.mono_s
    for event in chosen:
        world.timeline.at(begin_s + event.at_s, lambda event=event: DO[event.kind](world, *event.arguments))  # type: ignore[misc]
    end_s = begin_s + (chosen[-1].at_s if chosen else 0.0)
    _pass_time(world, end_s)
    _heal(world)
    invariants.check_machines(world)
    if not script.climate.hostile:
        _drain(world)
        _pass_time(world, world.timeline.mono_s + SWEEP_S)
        _check_canaries(world)
        invariants.check_tables(world)
        invariants.check_replies(world)
        Contract(world).check()
        if not script.climate.kinds:
            check_fair_weather(world)
    world.history.met.update(world.coverage.met)
    world.history.counts["events"] += len(chosen)
    world.history.counts["messages"] += world.wire.delivered
    world.history.counts["messages dropped"] += world.wire.dropped
    world.history.counts["simulated s"] += int(world.timeline.mono_s - begin_s)
    return world.history


def _pass_time(world: World, until_s: float) -> None:
    while world.timeline.mono_s < until_s:
        world.timeline.run_until(min(until_s, world.timeline.mono_s + 0.25))
        assert world.timeline.steps < STEPS_MAX, "the world runs in circles"


def _heal(world: World) -> None:
    """No fault from here on; who is stopped goes on, who is missing comes back."""
    world.wire.heal()
    for process in world.living():
        process.resume()
    # What a fault has still to undo (nodes that end, links that were cut) gets its time.
    for _ in range(12):
        _pass_time(world, world.timeline.mono_s + 0.5)
        world.start_all()
        world.wire.heal()


def _drain(world: World) -> None:
    deadline_s = world.timeline.mono_s + DRAIN_S
    while world.timeline.mono_s < deadline_s:
        if not invariants.unfinished(world):
            return
        _pass_time(world, world.timeline.mono_s + 1.0)
    raise AssertionError(f"not drained in {DRAIN_S:g} s: " + "; ".join(invariants.unfinished(world)[:20]))


def _check_canaries(world: World) -> None:
    """After all that every client can still call and ask."""
    clients = world.living_clients()
    before = {client.name: len(client.replies) for client in clients}
    specs = {queue: workload.Spec("canary", queue, 0, 0, Job(100, 0), 0, None, None, None) for queue in ("default",)}
    for number, client in enumerate(clients):
        for spec in specs.values():
            workload.call(world, number, (spec,) * 5)
        client.request("ping", None, 5.0)
    _pass_time(world, world.timeline.mono_s + 1.0)
    _drain(world)
    for client in clients:
        nodes = {node.name for node in world.living_nodes() if node.host == client.host}
        assert len(client.replies) == before[client.name] + 1, f"{client} got no answer to its last question"
        answer = client.replies[-1][1]
        assert (set(answer.values), answer.errors) == (nodes, {}), f"{client} got {answer}, where there are {nodes}"
