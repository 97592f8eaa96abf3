"""What users do: make calls of all kinds, watch, ask, tend dead letters. Events are plain data, drawn beforehand."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from mesh.messages import Flag
from mesh.sim.client import SimClient
from mesh.sim.history import Job, Published
from mesh.sim.world import QUEUES, World


class Event(NamedTuple):
    """Something that happens to a world."""

    at_s: float  #: after its beginning
    kind: str
    arguments: tuple[Any, ...]  #: whole numbers choose among what is there at that time

    def __str__(self) -> str:
        return f"{self.at_s:9.4f} {self.kind} {', '.join(map(repr, self.arguments))}"


class Spec(NamedTuple):
    """One call to be made."""

    name: str
    queue: str
    priority: int
    flags: int
    job: Job
    n_frames: int
    eta_delay_s: float | None
    expires_delay_s: float | None
    custom: int | None


#: {name: (shortest, longest run in µs)}
NAMES = {"tiny": (0, 80), "short": (300, 3_000), "slow": (10_000, 400_000), "mixed": (0, 60_000), "moody": (0, 50)}


#: (flag, how often a call has it)
_FLAGS = (
    (Flag.IGNORE_RESULT, 0.15),
    (Flag.TRACK_STARTED, 0.1),
    (Flag.EARLY_ACK, 0.1),
    (Flag.TRANSIENT, 0.1),
    (Flag.SYNCED, 0.08),
    (Flag.KEEP_RESULT, 0.05),
)


def draw_calls(rng: random.Random, *, plain: bool, crashing: bool) -> tuple[Spec, ...]:
    """A batch."""
    many = rng.choice((1, 1, 1, 1, 2, 3, 8))
    name = rng.choices(list(NAMES), (5, 3, 1, 2, 3))[0]
    if name == "slow":
        many = min(many, 4)
    return tuple(_draw_call(rng, name, plain=plain, crashing=crashing) for _ in range(many))


def _draw_call(rng: random.Random, name: str, *, plain: bool, crashing: bool) -> Spec:
    low, high = NAMES[name]
    run_us = rng.randint(low, high)
    if name == "moody" and rng.random() < 0.03:
        run_us = 100_000  # what was expected to be tiny, with much waiting behind it, is not
    if plain:
        return Spec(name, "default", rng.choice((0, 5, 9)), 0, Job(run_us, 0), 0, None, None, None)
    flags = 0
    for flag, share in _FLAGS:
        flags |= flag if rng.random() < share else 0
    crashes = rng.choices((0, 1, 99), (300, 5, 1))[0] if crashing else 0
    return Spec(
        name,
        rng.choices(QUEUES, (4, 2, 1))[0],
        rng.choice((0, 0, 0, 3, 9)),
        int(flags),
        Job(run_us, crashes, rng.choices((0, 1, 3), (40, 2, 1))[0]),
        rng.choice((0, 0, 0, 0, 1, 2)),
        rng.uniform(0.0, 3.0) if rng.random() < 0.05 else None,
        rng.uniform(0.0, 2.0) if rng.random() < 0.05 else None,
        rng.randrange(40) if rng.random() < 0.05 else None,
    )


def draw_burst(rng: random.Random) -> tuple[Spec, ...]:
    """Many calls that differ in nothing, so that they need not be in memory."""
    low, high = NAMES["short"]
    spec = Spec(
        "short", rng.choice(QUEUES), rng.choice((0, 0, 3)), Flag.SYNCED if rng.random() < 0.1 else 0,
        Job(rng.randint(low, high), 0), 0, None, None, None,
    )  # fmt: skip
    return (spec,) * rng.choice((12, 24, 40))


def call(world: World, client_number: int, specs: tuple[Spec, ...]) -> None:
    """A client makes calls."""
    clients = [client for client in world.living_clients() if client.is_ready]
    if not clients:
        return
    make(world, clients[client_number % len(clients)], specs)


def make(world: World, client: SimClient, specs: tuple[Spec, ...]) -> None:
    """This client makes calls."""
    wall_s = world.timeline.now().wall_s
    for spec in specs:
        options: dict[str, Any] = {}
        if spec.eta_delay_s is not None:
            options["eta"] = wall_s + spec.eta_delay_s
        if spec.expires_delay_s is not None:
            options["expires"] = wall_s + spec.expires_delay_s
        if spec.custom is not None:
            options["id"] = f"own-{spec.custom}"
        frames = [b"f" * 10] * spec.n_frames
        pending = client.submit(
            spec.name, spec.queue, spec.priority, spec.flags, spec.job.body(), frames, options or None
        )
        if pending is None:
            world.history.counts["calls blocked"] += 1
            return
        world.history.counts["calls"] += 1
        world.history.published[pending.task_id] = Published(
            client.host, client.pid, spec.name, spec.queue, spec.priority, spec.flags,
            spec.eta_delay_s, spec.expires_delay_s, options.get("id"), world.timeline.mono_s,
        )  # fmt: skip


def watch(world: World, client_number: int, task_number: int, custom: int | None) -> None:
    """A client waits for a call that another made on its host; now and then for one that nobody has made yet."""
    clients = [client for client in world.living_clients() if client.is_ready]
    if not clients:
        return
    client = clients[client_number % len(clients)]
    if custom is not None:
        client.watch_task(f"own-{custom}")
        return
    ids = [
        one
        for one, call in world.history.published.items()
        if call.host == client.host and call.client_pid != client.pid
    ]
    if ids:
        client.watch_task(ids[task_number % len(ids)])


def inspect(world: World, client_number: int, command: str, node_number: int | None, timeout_s: float) -> None:
    """A client asks the nodes of its host."""
    clients = [client for client in world.living_clients() if client.is_ready]
    if not clients:
        return
    client = clients[client_number % len(clients)]
    names = [node.name for node in world.plan.nodes if node.host == client.host] + ["nobody"]
    client.request(command, None if node_number is None else [names[node_number % len(names)]], timeout_s)


def tend(world: World, client_number: int, command: str, arguments: dict[str, Any], letter: int | None) -> None:
    """A client looks at dead letters, has them run again, or has them thrown away: all, those of a name, or one."""
    clients = [client for client in world.living_clients() if client.is_ready]
    if not clients:
        return
    client = clients[client_number % len(clients)]
    if letter is not None:
        ids = [task_id for task_id, call in world.history.published.items() if call.host == client.host]
        arguments = {"ids": [ids[letter % len(ids)]] if ids else []}
    client.request(command, None, 2.0, arguments)


def revoke(world: World, client_number: int, task_number: int, many: int) -> None:
    """A client takes back some of the latest calls of its host."""
    clients = [client for client in world.living_clients() if client.is_ready]
    if not clients:
        return
    client = clients[client_number % len(clients)]
    ids = [task_id for task_id, call in world.history.published.items() if call.host == client.host][-30:]
    if ids:
        at = task_number % len(ids)
        world.history.revoked.update(ids[at : at + many])
        client.request("revoke", None, 2.0, {"ids": ids[at : at + many]})


def draw(rng: random.Random, at_s: float, *, plain: bool, crashing: bool, bursts: int) -> Event:
    """One thing that a user does."""
    number = rng.randrange(1 << 16)
    kind = rng.choices(("call", "burst", "watch", "inspect", "tend", "revoke"), (20, bursts, 4, 2, 2, 2))[0]
    if plain or kind == "call":
        return Event(at_s, "call", (number, draw_calls(rng, plain=plain, crashing=crashing)))
    if kind == "burst":
        return Event(at_s, "call", (number, draw_burst(rng)))
    if kind == "revoke":
        return Event(at_s, kind, (number, rng.randrange(1 << 16), rng.choice((1, 1, 3))))
    if kind == "tend":
        command = rng.choice(("dead_list", "dead_show", "dead_replay", "dead_replay", "dead_purge"))
        chosen = rng.choice(({}, {}, {"name": rng.choice(list(NAMES))}, {"cause": "crashed"}, {"wrong": 1}))
        letter = rng.randrange(1 << 16) if rng.random() < 0.1 else None
        return Event(at_s, kind, (number, command, chosen, letter))
    if kind == "watch":
        return Event(at_s, kind, (number, rng.randrange(1 << 16), rng.randrange(40) if rng.random() < 0.2 else None))
    arguments = (
        number,
        rng.choice(("ping", "active", "status", "nonsense")),
        rng.choice((None, None, 0, 1, 2)),
        rng.choice((0.5, 2.0)),
    )
    return Event(at_s, kind, arguments)


DO: dict[str, Callable[..., None]] = {"call": call, "watch": watch, "inspect": inspect, "tend": tend, "revoke": revoke}
