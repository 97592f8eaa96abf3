"""What must hold after every storm, once the world is healed and drained (DESIGN 4)."""

from __future__ import annotations

from mesh.core.dead_letters import Chosen
from mesh.core.leases import Kind
from mesh.sim.node import SimNode
from mesh.sim.world import HOSTS, World

# --- liveness ------------------------------------------------------------------------------------


def unfinished(world: World) -> list[str]:
    """What is still to be done, in words; empty where the world is drained."""
    left: list[str] = []
    for host in HOSTS:
        left += _unfinished_at_router(world, host)
    for client in world.living_clients():
        if client.calls.open or client.calls.has_unsent or not client.joined:
            left.append(
                f"{client}: {len(client.calls.open)} open calls, "
                f"{client.calls.unconfirmed} unconfirmed, joined: {client.joined}"
            )
    for slot in world.living_slots():
        if slot.work.unreceipted or slot.work.waiting or slot.work.has_unsent or slot.busy or not slot.joined:
            left.append(
                f"{slot}: {len(slot.work.unreceipted)} unreceipted, "
                f"{len(slot.work.waiting)} waiting, joined: {slot.joined}"
            )
    for plan in world.plan.nodes:
        node = world.nodes[plan.name]
        if not node.alive or not node.joined or len(node.supervision.living) != plan.slots:
            left.append(
                f"{node}: alive: {node.alive}, joined: {node.joined}, "
                f"slots: {len(node.supervision.living)} of {plan.slots}"
            )
    return left


def _unfinished_at_router(world: World, host: str) -> list[str]:
    owner = world.routers[host].owner
    left = []
    if owner.dispatch.open:
        phases = [task.phase.name for task in owner.dispatch.open.values()]
        left.append(f"router {host}: {len(phases)} open tasks, such as {sorted(set(phases))}")
    if not owner.ledger.is_settled:
        left.append(f"router {host}: something waits for the disk")
    slots = {slot.pid for slot in world.living_slots() if slot.host == host}
    consumers = [one.pid for one in owner.dispatch.consumers.values() if one.kind is Kind.SLOT]
    if sorted(consumers) != sorted(slots):
        left.append(f"router {host}: knows slots {sorted(consumers)}, living are {sorted(slots)}")
    stuck = [one.pid for one in owner.dispatch.consumers.values() if not one.has_room() and one.kind is Kind.SLOT]
    if stuck:
        left.append(f"router {host}: nothing may be granted to {stuck}")
    nodes = {node.name for node in world.living_nodes() if node.host == host}
    if owner.membership.nodes.keys() != nodes:
        left.append(f"router {host}: knows nodes {sorted(owner.membership.nodes)}, living are {sorted(nodes)}")
    return left


# --- the machines --------------------------------------------------------------------------------


def check_machines(world: World) -> None:
    """Every machine is consistent."""
    for host in HOSTS:
        router = world.routers[host]
        router.owner.check()
        if host in world.peers:
            world.peers[host].check()
    for slot in world.living_slots():
        slot.work.check()
    for client in world.living_clients():
        client.calls.check()
    for node in world.living_nodes():
        node.supervision.check()


def check_tables(world: World) -> None:
    """No table holds what nobody needs any more."""
    for host in HOSTS:
        _check_tables(world, host)


def _check_tables(world: World, host: str) -> None:
    owner = world.routers[host].owner
    clients = [client for client in world.living_clients() if client.host == host]
    assert owner.connected_clients == len(clients), f"{owner.connected_clients} clients are known, {len(clients)} live"
    asked = {one for client in clients for one in client.calls.asks()}
    assert owner.answers.watchers.keys() <= asked, f"watched for nobody: {owner.answers.watchers.keys() - asked}"
    assert owner.ledger.is_settled, "something waits for the disk"
    assert not owner.runs._promised, "receipts are owed"
    assert not owner.dispatch.clearing, "what may run at most once is held back"
    assert not owner.dispatch.paged, "calls are taken to be in blocks"
    assert not owner.crew.forsaken, f"slots without a node are watched: {owner.crew.forsaken}"
    assert not owner.intake.begun_elsewhere, "slots that lived are remembered"
    assert not owner.crew.dead_slots, f"dead slots remembered: {owner.crew.dead_slots}"
    assert not owner.membership._waiting, "control requests wait for ever"
    assert len(owner._control_clients) <= len(clients), "control links of the dead are remembered"
    for caller in owner.intake.callers.values():
        assert not caller.uncommitted, "calls are taken to wait for the disk"
        assert not caller.unconfirmed or caller.peer is None, "a connected caller has not been told of its confirms"
        assert not caller.refused or caller.peer is None

    pages = {node.page_path for node in world.living_nodes() if node.host == host}
    # Of what died before a router knew it the next one to start will find the page.
    nodes = [node for node in world.processes.values() if isinstance(node, SimNode)]
    unknown = {node.page_path for node in nodes if not (node.has_joined or node.alive)}
    kept = {path for path in world.pages if path.startswith(f"{host}/") and path not in unknown}
    assert kept == pages, f"slot pages of nodes that are gone: {kept - pages}; missing: {pages - kept}"
    assert not owner.crew.strangers, f"nodes are awaited: {owner.crew.strangers}"
    _check_disk(world, host)


def _check_disk(world: World, host: str) -> None:
    """On disk is what is needed and nothing else: outcomes that nobody has, notes of what is gone, dead letters."""
    owner = world.routers[host].owner
    ledger = owner.ledger
    letters = {letter.row for letter in owner.graveyard.letters.select(Chosen()) if letter.row}
    needed = ledger.rows.by_number.keys() | set(ledger._notes._written) | letters
    there = world.disks[host].numbers
    assert there == needed, f"{host}: rows without need: {there - needed}; needed and not there: {needed - there}"
    for task_id in ledger.rows.of_outcomes:
        assert owner.outcomes.needed(task_id) is not None, f"the journal keeps the outcome of {task_id.hex()} in vain"


# --- answers -------------------------------------------------------------------------------------


def check_replies(world: World) -> None:
    """Every broadcast accounts for everyone it was meant for."""
    for client in world.all_clients:
        for question, replies in client.replies:
            assert not replies.values.keys() & replies.errors.keys()
            if question.request.destination is not None and question.request.command != "status":
                named, asked = replies.values.keys() | replies.errors.keys(), set(question.request.destination)
                assert named == asked, f"{client} asked {asked} and heard of {named}"
