"""What goes wrong: processes and hosts die, stop and are stopped; links and disks fail; clocks are set."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from mesh.messages import Flag
from mesh.sim.disk import SimDisk
from mesh.sim.history import Job
from mesh.sim.wire import Link, Reader
from mesh.sim.world import HOSTS, World
from tests.sim.workload import Event, Spec, make


def _choose(things: list[Any], number: int) -> Any:
    return things[number % len(things)] if things else None


def _note(world: World, kind: str, process: Reader, for_s: float = 0.0) -> None:
    world.history.fault(world.timeline.mono_s, kind, process.host, process.pid, for_s=for_s)


# --- processes -----------------------------------------------------------------------------------


def kill_slot(world: World, number: int, back_s: float) -> None:
    slot = _choose(world.living_slots(), number)
    if slot is not None:
        _note(world, "kill slot", slot)
        world.kill(slot)


def kill_node(world: World, number: int, back_s: float) -> None:
    node = _choose(world.living_nodes(), number)
    if node is not None:
        _note(world, "kill node", node, back_s)
        world.kill(node)
        plan = next(plan for plan in world.plan.nodes if plan.name == node.name)
        world.timeline.after(back_s, lambda: world.start_node(plan))


def kill_template(world: World, number: int, back_s: float) -> None:
    node = _choose(world.living_nodes(), number)
    if node is not None:
        _note(world, "kill template", node, back_s)
        node.lose_template()
        plan = next(plan for plan in world.plan.nodes if plan.name == node.name)
        world.timeline.after(back_s + 0.1, lambda: world.start_node(plan))


def kill_router(world: World, number: int, back_s: float) -> None:
    host = HOSTS[number % 2]
    router = world.routers[host]
    if router.alive:
        gone_s = back_s if number % 3 else 0.0
        _note(world, "kill router", router, gone_s)
        world.kill(router)
        world.timeline.after(gone_s, lambda: world.start_router(host))


def kill_router_in_the_act(world: World, number: int, back_s: float) -> None:
    """Calls have just been made, and no confirm has come; the slots are there again before the clients."""
    clients = [one for one in world.living_clients() if one.is_ready and one.host == HOSTS[number % 2]]
    client = _choose(clients, number)
    if client is None or client.paused:
        return
    spec = Spec("tiny", "default", 9, Flag.IGNORE_RESULT, Job(50, 0), 0, None, None, None)
    make(world, client, (spec,) * 4)
    world.timeline.after(0.001, lambda: client.pause(back_s + 0.2))
    world.timeline.after(0.004, lambda: kill_router(world, number, back_s))


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
        _note(world, f"pause {type(process).__name__[3:].lower()}", process, back_s * 2)
        process.pause(back_s * 2)


def stop_node(world: World, number: int, back_s: float) -> None:
    node = _choose(world.living_nodes(), number)
    if node is None:
        return
    cold = number % 3 == 0
    _note(world, "cold stop" if cold else "warm stop", node, back_s)
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
    if peer is not None and peer.up:
        world.history.fault(world.timeline.mono_s, "lose peer", HOSTS[number % 2])
        peer.lose()


# --- hosts ---------------------------------------------------------------------------------------


def kill_host(world: World, number: int, back_s: float) -> None:
    """kill -9 of everything at once."""
    host = HOSTS[number % 2]
    if host not in world.down:
        world.history.fault(world.timeline.mono_s, "kill host", host, for_s=back_s)
        world.kill_host(host, back_s, power=False)


def power_loss(world: World, number: int, back_s: float) -> None:
    host = HOSTS[number % 2]
    if host not in world.down:
        world.history.fault(world.timeline.mono_s, "power loss", host, for_s=back_s)
        world.kill_host(host, back_s, power=True)


def set_clock(world: World, number: int, back_s: float) -> None:
    world.history.fault(world.timeline.mono_s, "clock set", "")
    world.timeline.set_wall((number % 7 - 3) * back_s)
    for router in world.routers.values():
        router.wake()


# --- links ---------------------------------------------------------------------------------------


def _link(world: World, number: int) -> Link | None:
    link: Link | None = _choose(world.wire.links, number)
    return link


def _all_of_the_host(world: World, link: Link) -> list[Link]:
    return [one for one in world.wire.links if one.owner.host == link.owner.host]


def cut(world: World, number: int, back_s: float) -> None:
    link = _link(world, number)
    if link is not None:
        _note(world, "cut", link.owner, back_s / 4)
        link.cut(back_s / 4, keep=number % 2 == 0)


def drop(world: World, number: int, back_s: float) -> None:
    """One link loses much, or all links of a host lose a little."""
    chosen = _link(world, number)
    if chosen is None:
        return
    _note(world, "drop" if number % 2 else "drop on all links", chosen.owner, back_s / 4)
    share = (0.3, 0.6, 1.0)[number % 3] if number % 2 else 0.05
    for link in [chosen] if number % 2 else _all_of_the_host(world, chosen):
        link.drop(share, share)
        world.timeline.after(back_s / 4, link.heal)


def one_way(world: World, number: int, back_s: float) -> None:
    """One link, or all of a host, carry messages one way only."""
    chosen = _link(world, number)
    if chosen is None:
        return
    there = number // 2 % 2
    _note(world, "one way", chosen.owner, back_s / 4)
    for link in [chosen] if number % 2 else _all_of_the_host(world, chosen):
        link.drop(1.0 - there, float(there))
        world.timeline.after(back_s / 4, link.heal)


def repeat(world: World, number: int, back_s: float) -> None:
    link = _link(world, number)
    if link is not None:
        _note(world, "repeat", link.owner)
        link.repeat()


def delay(world: World, number: int, back_s: float) -> None:
    link = _link(world, number)
    if link is not None:
        _note(world, "delay", link.owner, back_s)
        link.extra_delay_s = back_s / 8
        world.timeline.after(back_s, link.heal)


def reorder(world: World, number: int, back_s: float) -> None:
    """What goes over different links of a host arrives in any order: each message takes its own time."""
    chosen = _link(world, number)
    if chosen is None:
        return
    _note(world, "reorder", chosen.owner, back_s)
    for link in _all_of_the_host(world, chosen):
        link.jitter_s = 0.01 + number % 5 * 0.01
        world.timeline.after(back_s, link.heal)


def full(world: World, number: int, back_s: float) -> None:
    link = _link(world, number)
    if link is not None:
        _note(world, "full pipe", link.owner, back_s / 4)
        link.full = True
        world.timeline.after(back_s / 4, link.heal)


# --- disks ---------------------------------------------------------------------------------------


def _disk(world: World, kind: str, number: int, for_s: float) -> SimDisk:
    host = HOSTS[number % 2]
    world.history.fault(world.timeline.mono_s, kind, host, for_s=for_s)
    disk = world.disks[host]
    world.timeline.after(for_s, disk.heal)
    return disk


def disk_full(world: World, number: int, back_s: float) -> None:
    _disk(world, "disk full", number, back_s).full = True


def disk_slow(world: World, number: int, back_s: float) -> None:
    _disk(world, "disk slow", number, back_s).stall_s = (0.01, 0.1, 1.0)[number % 3] * back_s


def disk_unreadable(world: World, number: int, back_s: float) -> None:
    _disk(world, "disk unreadable", number, back_s).unreadable = True


def damage(world: World, number: int, back_s: float) -> None:
    """A row with tasks can't be read any more: rather one that will be needed again."""
    host = HOSTS[number % 2]
    rows = world.routers[host].owner.ledger.rows.by_number
    there = world.disks[host].task_rows
    row = _choose([one for one in there if one in rows and rows[one].paged] or there, number)
    if row is not None:
        world.disks[host].damage(row)
        world.history.fault(world.timeline.mono_s, "damaged row", host)


#: {kind: (what happens, how often compared with others)}
KINDS: dict[str, tuple[Callable[[World, int, float], None], int]] = {
    "kill slot": (kill_slot, 4),
    "kill node": (kill_node, 3),
    "kill template": (kill_template, 2),
    "kill router": (kill_router, 5),
    "kill router in the act": (kill_router_in_the_act, 4),
    "kill client": (kill_client, 2),
    "client leaves": (client_leaves, 2),
    "pause": (pause, 4),
    "stop node": (stop_node, 3),
    "lose peer": (lose_peer, 6),
    "kill host": (kill_host, 2),
    "power loss": (power_loss, 2),
    "clock": (set_clock, 2),
    "cut": (cut, 4),
    "drop": (drop, 4),
    "one way": (one_way, 3),
    "repeat": (repeat, 3),
    "delay": (delay, 3),
    "reorder": (reorder, 2),
    "full": (full, 3),
    "disk full": (disk_full, 3),
    "disk slow": (disk_slow, 3),
    "disk unreadable": (disk_unreadable, 3),
    "damage": (damage, 4),
}

#: Faults after which nothing may run twice or be lost.
MILD = (
    "kill client", "client leaves", "pause", "repeat", "delay", "reorder", "full", "clock", "disk full", "disk slow",
    "disk unreadable",
)  # fmt: skip

#: Faults that meet what is on disk alone, and those that seldom meet these.
LONG_QUEUES_EXTRA = (
    *(("disk unreadable", "damage") * 5),
    *(("client leaves", "stop node") * 3),
    *("kill client", "kill host", "lose peer", "power loss", "clock"),
)

DO: dict[str, Callable[..., None]] = {kind: do for kind, (do, _) in KINDS.items()}


def draw(rng: random.Random, at_s: float, kinds: tuple[str, ...]) -> Event:
    """One fault."""
    kind = rng.choices(kinds, [KINDS[one][1] for one in kinds])[0]
    return Event(at_s, kind, (rng.randrange(1 << 16), rng.choice((0.02, 0.3, 1.0, 2.0)) * rng.random()))
