"""What must hold after every storm, once the world is healed and drained (DESIGN 4)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from mesh.core.leases import Kind
from mesh.exceptions import QueueFull, ResultExpired, TaskIdTaken, TaskLost
from mesh.interfaces import PendingCall
from mesh.messages import Flag
from mesh.sim.client import SimClient
from mesh.sim.history import Published, Run
from mesh.sim.results import result_body
from mesh.sim.world import HOSTS, World
from mesh.states import Status

if TYPE_CHECKING:
    from tests.sim.storm import Script

#: What a slot may live on when its template's end has been reported: the kernel kills it in a moment.
LAST_GASP_S = 0.01
#: Faults that may cost a message, and with it make a task run twice.
LOSSY = frozenset({"cut", "drop", "drop on all links"})


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
    assert not owner.intake.begun_elsewhere, "slots that lived are remembered"
    assert not owner.crew.dead_slots, f"dead slots remembered: {owner.crew.dead_slots}"
    assert not owner.membership._waiting, "control requests wait for ever"
    assert len(owner._control_clients) <= len(clients), "control links of the dead are remembered"
    for caller in owner.intake.callers.values():
        assert not caller.unconfirmed or caller.peer is None, "a connected caller has not been told of its confirms"
        assert not caller.refused or caller.peer is None


# --- delivery ------------------------------------------------------------------------------------


def check_delivery(world: World, script: Script) -> None:
    """The contract, call by call."""
    history = world.history
    for host in HOSTS:
        outcomes = world.routers[host].owner.outcomes
        for task_id in (*outcomes._unreceived, *outcomes._received):
            assert task_id in history.published, f"outcome of {task_id.hex()}, which nobody published"
    for client in world.all_clients:
        for task_id, pending in client.pending.items():
            _check_call(world, client, task_id, pending)
        for watched in client.watching:
            assert client.settled.get(id(watched), 0) <= 1
        for question, replies in client.replies:
            if question.request.command != "status":
                _check_replies(question.request.destination, replies.values.keys() | replies.errors.keys(), client)
            assert not replies.values.keys() & replies.errors.keys()
    for task_id, runs in history.runs.items():
        _check_runs(world, task_id, history.published[task_id], runs)
    if not script.climate.kinds:
        _check_fair_weather(world)


def _check_replies(destination: list[str] | None, named: set[str], client: SimClient) -> None:
    if destination is not None:
        assert named == set(destination), f"{client} asked {destination} and heard of {named}"


def _check_call(world: World, client: SimClient, task_id: bytes, pending: PendingCall) -> None:
    call = world.history.published[task_id]
    label = f"call {task_id.hex()} {call}"
    assert client.settled.get(id(pending), 0) <= 1, f"{label} was settled twice"
    if not client.alive:
        return
    if pending.ending is None and pending.failure is None:
        assert call.flags & Flag.IGNORE_RESULT, f"{label} never ended"
        assert pending.confirmed, f"{label} was never confirmed"
        return
    if pending.failure is not None:
        _check_failure(world, call, pending.failure, label)
        return
    assert pending.ending is not None
    status, body, _ = pending.ending
    runs = world.history.runs.get(task_id, [])
    if status == Status.SUCCESS:
        assert runs, f"{label} has a result and never ran"
        assert body in (result_body(task_id), b""), f"{label} has another's result"
    elif status == Status.REVOKED:
        assert call.expires_delay_s is not None, f"{label} was revoked"
    elif b"ResultExpired" in body:
        assert world.plan.is_tight or call.flags & Flag.IGNORE_RESULT, f"{label} had to make room"
    else:
        died = [run for run in runs if run.finished_s is None or _lost_outcome(world, run)]
        # Where nobody knows whether it had begun, what may run at most once has failed.
        unknown = call.flags & Flag.EARLY_ACK and bool(_faults(world, call))
        assert died or unknown or _weather(world, call, ("lose peer",)), f"{label} failed, its runs: {runs}"


def _lost_outcome(world: World, run: Run) -> bool:
    return run.pid in world.history.deaths


def _check_failure(world: World, call: Published, failure: Exception, label: str) -> None:
    if isinstance(failure, TaskIdTaken):
        assert call.custom_id is not None, f"{label} was refused: {failure}"
    elif isinstance(failure, QueueFull):
        assert world.plan.limits.bounds.tasks_max < 1000, f"{label} was refused: {failure}"
    elif isinstance(failure, ResultExpired):
        assert world.plan.is_tight, f"{label} expired"
    else:
        # Nobody may send again what may run at most once and what a router that is gone has confirmed.
        lost = isinstance(failure, TaskLost) and call.flags & Flag.EARLY_ACK and _weather(world, call, ("kill router",))
        assert lost, f"{label} failed by {failure!r}"


def _weather(
    world: World, call: Published, kinds: tuple[str, ...] | frozenset[str], until_s: float = float("inf")
) -> bool:
    return any(
        fault.kind in kinds and fault.host == call.host and call.mono_s - 5.0 <= fault.mono_s <= until_s
        for fault in world.history.faults
    )


def _check_runs(world: World, task_id: bytes, call: Published, runs: list[Run]) -> None:
    leases = [(run.pid, run.lease) for run in runs if not run.peer]
    assert len(leases) == len(set(leases)), f"{task_id.hex()} ran twice under one lease: {runs}"
    for earlier, later in pairwise(runs):
        why = _why_again(world, call, earlier, later)
        assert why, f"{task_id.hex()} {call} ran twice without need: {runs}, {_faults(world, call)}"
        at_most_once = call.flags & Flag.EARLY_ACK
        assert not at_most_once or why in ("router", "retry"), (
            f"{task_id.hex()} {call} may run at most once: {runs}, {_faults(world, call)}"
        )
        world.history.counts[f"run again because of: {why}"] += 1


def _faults(world: World, call: Published) -> str:
    """What went wrong on a call's host after it was made, in short."""
    faults = [one for one in world.history.faults if one.host == call.host and "task" not in one.kind]
    late = [f"{one.mono_s:.4f} {one.kind} {one.pid}" for one in faults if one.mono_s >= call.mono_s - 0.5]
    return "; ".join(late[:25])


def _why_again(world: World, call: Published, earlier: Run, later: Run) -> str | None:
    """What explains that a task ran again, or None."""
    if earlier.retried:
        return "retry"
    if call.flags & Flag.TRANSIENT and _weather(world, call, ("kill router",), later.began_s):
        return "router"
    died_s = world.history.deaths.get(earlier.pid)
    if died_s is not None and died_s <= later.began_s + LAST_GASP_S:
        return "slot"
    if earlier.peer and _weather(world, call, ("lose peer", "kill router"), later.began_s):
        return "peer"
    if _weather(world, call, LOSSY, later.began_s):
        return "wire"
    return None


def _check_fair_weather(world: World) -> None:
    for task_id, call in world.history.published.items():
        runs = [run for run in world.history.runs.get(task_id, []) if not run.retried]
        client = next(client for client in world.all_clients if client.pid == call.client_pid)
        refused = isinstance(client.pending[task_id].failure, QueueFull | TaskIdTaken)
        expected = 0 if refused else 1
        assert len(runs) == expected or (not runs and call.expires_delay_s is not None), (
            f"{task_id.hex()} {call} ran {len(runs)} times"
        )
    if all(plan.slots == 1 and plan.queues == ("default",) for plan in world.plan.nodes):
        _check_order(world)


def _check_order(world: World) -> None:
    """With one slot and one caller: first in, first out within a priority."""
    last: dict[tuple[str, int], bytes] = {}
    began = sorted((runs[0].began_s, task_id) for task_id, runs in world.history.runs.items())
    for _, task_id in began:
        call = world.history.published[task_id]
        line = (call.host, call.priority)
        assert last.get(line, b"") < task_id, f"{task_id.hex()} overtook {last[line].hex()}"
        last[line] = task_id
