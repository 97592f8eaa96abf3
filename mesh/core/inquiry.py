"""What the owner answers when it is asked where tasks are and how the router stands."""

from __future__ import annotations

from itertools import chain
from typing import Any, Protocol

from mesh.core.callers import Caller
from mesh.core.dispatch import Dispatch
from mesh.core.identity import Identity
from mesh.core.membership import Membership
from mesh.core.outcomes import OutcomeStore
from mesh.core.sequences import SequenceSet
from mesh.ids import PREFIX_BYTES, sequence_of, stamp
from mesh.messages import Ranges, Reply
from mesh.states import PENDING, RETRY, STARTED, STATE_OF_STATUS, Phase, Status


class KnownCalls(Protocol):
    """What is known of calls, to be read."""

    dispatch: Dispatch
    outcomes: OutcomeStore
    callers: dict[bytes, Caller]
    custom: dict[str, bytes]


class Holdings(Protocol):
    """What an owner holds, to be read."""

    identity: Identity
    dispatch: Dispatch
    outcomes: OutcomeStore
    membership: Membership

    @property
    def connected_clients(self) -> int:
        """How many clients have a link."""
        ...


#: Bodies up to this size go along with `inspect`, so that arguments can be shown.
SHOWN_BODY_BYTES = 4096


def known_in(known: KnownCalls, caller: Caller, ranges: Ranges) -> list[bytes]:
    """The ids in a caller's sequences that may be open or have an outcome.

    However wide the ranges are, it costs no more than there are such ids.
    """
    open_tasks, outcomes = known.dispatch.open, known.outcomes
    if sum(last - first + 1 for first, last in ranges) <= len(outcomes) + len(open_tasks):
        return [stamp(caller.prefix, sequence) for first, last in ranges for sequence in range(first, last + 1)]
    wanted, ids = SequenceSet(ranges), chain(outcomes, open_tasks)
    return [one for one in ids if one[:PREFIX_BYTES] == caller.prefix and sequence_of(one) in wanted]


def link_of(info: dict[str, Any]) -> int:
    """Which of its process's links a HELLO came over, as the process counts them."""
    link = info.get("link")
    return link if type(link) is int else 0


def state_of(known: KnownCalls, asked: bytes | str) -> list[Any]:
    """One record of a States message."""
    task_id = known.custom.get(asked) if isinstance(asked, str) else asked
    if task_id is None:
        return [asked, None, PENDING, None]
    stored = known.outcomes.get(task_id)
    if stored is not None:
        return [asked, task_id, STATE_OF_STATUS[Status(stored.status)], {"known": True}]
    task = known.dispatch.open.get(task_id)
    if task is not None:
        state = STARTED if task.started_wall_s else RETRY if task.retry_reason else PENDING
        info: dict[str, Any] = {"known": True, "queue": task.queue, "phase": task.phase.name}
        if state == STARTED and task.runner is not None:
            info.update(hostname=task.runner[0], pid=task.runner[1], started=task.started_wall_s)
        elif state == RETRY:
            info["reason"] = task.retry_reason
        return [asked, task_id, state, info]
    if task_id in known.dispatch:  # in a block, so it waits in a queue
        return [asked, task_id, PENDING, {"known": True, "phase": Phase.READY.name}]
    caller = known.callers.get(task_id[:PREFIX_BYTES])
    if caller is not None and sequence_of(task_id) in caller.seen:
        return [asked, task_id, PENDING, {"known": True, "gone": True}]
    return [asked, task_id, PENDING, None]


def status(owner: Holdings, uptime_s: float) -> dict[str, Any]:
    """The values of a reply to `status`."""
    me, dispatch = owner.identity, owner.dispatch
    phases = dict.fromkeys(("ready", "waiting", "leased"), 0)
    phases["ready"] = dispatch.ready_count
    phases["waiting"] = len(dispatch.schedule)
    phases["leased"] = len(dispatch.open) - phases["ready"] - phases["waiting"]
    phases["ready"] += dispatch.paged_count
    router = {
        "pid": me.pid,
        "boot": me.boot.hex(),
        "mesh": me.mesh,
        "directory": me.directory,
        "version": me.version,
        "uptime_s": uptime_s,
        "clients": owner.connected_clients,
        "tasks": phases,
        "outcomes": {"count": len(owner.outcomes), "bytes": owner.outcomes.stored_bytes},
    }
    return {"router": router, "nodes": _nodes(owner), "queues": _queues(owner)}


def _nodes(owner: Holdings) -> list[dict[str, Any]]:
    nodes = []
    for node in owner.membership.nodes.values():
        slots = [one for one in owner.dispatch.consumers.values() if one.node == node.name]
        nodes.append(
            {
                "name": node.name,
                "pid": node.pid,
                "template_pid": node.info.get("template_pid"),
                "queues": node.info.get("queues"),
                "concurrency": node.info.get("concurrency"),
                "slots": [
                    {
                        "index": one.index,
                        "pid": one.pid,
                        "state": "busy" if one.held else "idle",
                        "leases": len(one.held),
                    }
                    for one in sorted(slots, key=lambda one: one.index)
                ],
            }
        )
    return nodes


def _queues(owner: Holdings) -> list[dict[str, Any]]:
    waiting = owner.dispatch.schedule.waiting_by_queue()
    names = sorted(owner.dispatch.queues.keys() | waiting.keys())
    queues = []
    for name in names:
        queue = owner.dispatch.queues.get(name)
        depth = len(queue) if queue is not None else 0
        queues.append(
            {
                "name": name,
                "depth": depth,
                "waiting": waiting.get(name, 0),
                "consumers": len(owner.dispatch.consumers_of(name)),
            }
        )
    return queues


def add_what_the_owner_knows(owner: Holdings, reply: Reply) -> None:
    """Completes a node's list of running tasks with what only the owner has: queue, priority, body and the like."""
    if not (reply.ok and type(reply.value) is list):
        return
    for row in reply.value:
        task_id = row.get("id") if type(row) is dict else None
        task = owner.dispatch.open.get(task_id) if type(task_id) is bytes else None
        if task is None or task.phase is not Phase.LEASED:
            continue
        shown = task.body if len(task.body) <= SHOWN_BODY_BYTES and not task.frames else None
        row.update(
            custom_id=task.custom_id,
            name=task.name,
            queue=task.queue,
            priority=task.priority,
            flags=int(task.flags),
            body=shown,
            redelivered=task.attempt > 0,
        )
