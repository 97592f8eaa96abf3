"""What goes wrong: processes die, stop and are stopped; links break, lose, repeat and delay; clocks are set."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from mesh.sim.wire import Link, Reader
from mesh.sim.world import HOSTS, World
from tests.sim.workload import Event


def _choose(things: list[Any], number: int) -> Any:
    return things[number % len(things)] if things else None


def _note(world: World, kind: str, process: Reader) -> None:
    world.history.fault(world.timeline.mono_s, kind, process.host, process.pid)


def kill_slot(world: World, number: int, back_s: float) -> None:
    slot = _choose(world.living_slots(), number)
    if slot is not None:
        _note(world, "kill slot", slot)
        world.kill(slot)


def kill_node(world: World, number: int, back_s: float) -> None:
    node = _choose(world.living_nodes(), number)
    if node is not None:
        _note(world, "kill node", node)
        world.kill(node)
        plan = next(plan for plan in world.plan.nodes if plan.name == node.name)
        world.timeline.after(back_s, lambda: world.start_node(plan))


def kill_template(world: World, number: int, back_s: float) -> None:
    node = _choose(world.living_nodes(), number)
    if node is not None:
        _note(world, "kill template", node)
        node.lose_template()
        plan = next(plan for plan in world.plan.nodes if plan.name == node.name)
        world.timeline.after(back_s + 0.1, lambda: world.start_node(plan))


def kill_router(world: World, number: int, back_s: float) -> None:
    host = HOSTS[number % 2]
    router = world.routers[host]
    if router.alive:
        _note(world, "kill router", router)
        world.kill(router)
        world.timeline.after(back_s if number % 3 else 0.0, lambda: world.start_router(host))


def kill_client(world: World, number: int, back_s: float) -> None:
    client = _choose(world.living_clients(), number)
    if client is not None:
        _note(world, "kill client", client)
        world.kill(client)
        world.timeline.after(back_s, lambda: world.start_client(client.host, client.name))


def client_leaves(world: World, number: int, back_s: float) -> None:
    client = _choose(world.living_clients(), number)
    if client is not None and not client.calls.unconfirmed:
        _note(world, "client leaves", client)
        client.leave()
        world.timeline.after(back_s, lambda: world.start_client(client.host, client.name))


def pause(world: World, number: int, back_s: float) -> None:
    process = _choose([one for one in world.living() if not one.paused], number)
    if process is not None:
        _note(world, f"pause {type(process).__name__[3:].lower()}", process)
        process.pause(back_s * 2)


def stop_node(world: World, number: int, back_s: float) -> None:
    node = _choose(world.living_nodes(), number)
    if node is None:
        return
    cold = number % 3 == 0
    _note(world, "cold stop" if cold else "warm stop", node)
    node.stop()
    if cold:
        world.timeline.after(back_s / 10, node.stop)
    plan = next(plan for plan in world.plan.nodes if plan.name == node.name)

    def again() -> None:
        if node.alive:
            world.timeline.after(0.5, again)
        else:
            world.start_node(plan)

    world.timeline.after(back_s, again)


def lose_peer(world: World, number: int, back_s: float) -> None:
    peer = world.peers.get(HOSTS[number % 2])
    if peer is not None:
        world.history.fault(world.timeline.mono_s, "lose peer", HOSTS[number % 2])
        peer.lose()


def _link(world: World, number: int) -> Link | None:
    link: Link | None = _choose(world.wire.links, number)
    return link


def cut(world: World, number: int, back_s: float) -> None:
    link = _link(world, number)
    if link is not None:
        _note(world, "cut", link.owner)
        link.cut(back_s / 4, keep=number % 2 == 0)


def drop(world: World, number: int, back_s: float) -> None:
    """One link loses much, or all links of a host lose a little."""
    chosen = _link(world, number)
    if chosen is None:
        return
    links = [chosen] if number % 2 else [link for link in world.wire.links if link.owner.host == chosen.owner.host]
    _note(world, "drop" if number % 2 else "drop on all links", chosen.owner)
    for link in links:
        link.drop_share = (0.3, 0.6, 1.0)[number % 3] if number % 2 else 0.05
        world.timeline.after(back_s / 4, link.heal)


def repeat(world: World, number: int, back_s: float) -> None:
    link = _link(world, number)
    if link is not None:
        _note(world, "repeat", link.owner)
        link.repeat()


def delay(world: World, number: int, back_s: float) -> None:
    link = _link(world, number)
    if link is not None:
        _note(world, "delay", link.owner)
        link.extra_delay_s = back_s / 8
        world.timeline.after(back_s, link.heal)


def full(world: World, number: int, back_s: float) -> None:
    link = _link(world, number)
    if link is not None:
        _note(world, "full pipe", link.owner)
        link.full = True
        world.timeline.after(back_s / 4, link.heal)


def set_clock(world: World, number: int, back_s: float) -> None:
    world.history.fault(world.timeline.mono_s, "clock set", "")
    world.timeline.set_wall((number % 7 - 3) * back_s)
    for router in world.routers.values():
        router.wake()


#: {kind: (what happens, how often compared with others)}
KINDS: dict[str, tuple[Callable[[World, int, float], None], int]] = {
    "kill slot": (kill_slot, 4),
    "kill node": (kill_node, 2),
    "kill template": (kill_template, 1),
    "kill router": (kill_router, 3),
    "kill client": (kill_client, 2),
    "client leaves": (client_leaves, 1),
    "pause": (pause, 4),
    "stop node": (stop_node, 2),
    "lose peer": (lose_peer, 1),
    "cut": (cut, 4),
    "drop": (drop, 3),
    "repeat": (repeat, 3),
    "delay": (delay, 3),
    "full": (full, 2),
    "clock": (set_clock, 1),
}

#: Faults after which nothing may run twice or be lost.
MILD = ("kill client", "client leaves", "pause", "repeat", "delay", "full", "clock")

DO: dict[str, Callable[..., None]] = {kind: do for kind, (do, _) in KINDS.items()}


def draw(rng: random.Random, at_s: float, kinds: tuple[str, ...]) -> Event:
    """One fault."""
    kind = rng.choices(kinds, [KINDS[one][1] for one in kinds])[0]
    return Event(at_s, kind, (rng.randrange(1 << 16), rng.choice((0.02, 0.3, 1.0, 3.0)) * rng.random()))
