"""Messages nobody should send: well-formed, with any content, from strangers and from known peers, at every door."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from mesh import codec
from mesh import messages as m
from mesh.exceptions import MalformedMessage
from mesh.sim.router import MESH
from mesh.sim.wire import Door, Link, Parcel
from mesh.sim.world import World
from tests.sim.workload import Event

_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    255,
    1 << 31,
    (1 << 40) - 1,
    1 << 40,
    (1 << 62) - 1,
    (1 << 63) - 1,
    (1 << 64) - 1,
    -1,
    -(1 << 63),
)
_TEXTS = ("", "default", "mail", "n0@A", "own-3", MESH, "x" * 300, "\x00")


def _any(rng: random.Random, world: World, depth: int = 0) -> Any:
    """Any value that msgpack can carry, rather often one that means something here."""
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return rng.choice(_NUMBERS)
    if kind == 1:
        return rng.choice(_TEXTS)
    if kind == 2:
        return _task_id(rng, world)
    if kind == 3:
        return rng.choice((True, False, None))
    if kind == 4:
        return rng.choice((0.0, -1.5, 1e300, float("inf"), float("nan")))
    if kind == 5:
        return rng.randrange(30)
    if kind == 6:
        return rng.randbytes(rng.randrange(20))
    if kind == 7:
        return [_any(rng, world, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(_TEXTS): _any(rng, world, depth + 1) for _ in range(rng.randrange(4))}


def _task_id(rng: random.Random, world: World) -> bytes:
    published = world.history.published
    if published and rng.random() < 0.7:
        return list(published)[-1 - rng.randrange(min(40, len(published)))]
    return rng.randbytes(16)


def _ranges(rng: random.Random, world: World) -> Any:
    first = rng.choice(_NUMBERS) if rng.random() < 0.3 else rng.randrange(200)
    return [[first, first + rng.randrange(1000)]]


def _info(rng: random.Random, world: World) -> Any:
    info: dict[str, Any] = {
        "node": rng.choice(_TEXTS), "index": rng.choice(_NUMBERS), "queues": ["default"],
        "last_lease": rng.choice(_NUMBERS),
        "name": rng.choice(_TEXTS), "page": rng.choice(_TEXTS), "ended_upto": rng.choice(_NUMBERS),
        "link": rng.choice(_NUMBERS), "unreceipted": [rng.choice(_NUMBERS)],
    }  # fmt: skip
    for key in list(info):
        if rng.random() < 0.15:
            info[key] = _any(rng, world)
    return info


#: {(message, field): what usually stands there}; every other field, and now and then these, gets any value.
_USUAL: dict[tuple[str, str], Any] = {
    ("Hello", "major"): lambda rng, world: 1,
    ("Hello", "minor"): lambda rng, world: 0,
    ("Hello", "role"): lambda rng, world: rng.choice((1, 2, 3, 9)),
    ("Hello", "mesh"): lambda rng, world: MESH,
    ("Hello", "pid"): lambda rng, world: rng.choice((*_NUMBERS, *(process.pid for process in world.living()))),
    ("Hello", "incarnation"): lambda rng, world: rng.choice(_NUMBERS),
    ("Hello", "info"): _info,
    ("Publish", "calls"): lambda rng, world: [
        [
            rng.choice(_NUMBERS),
            "short",
            "default",
            rng.randrange(10),
            rng.choice((*_NUMBERS, 0, 1, 4)),
            b"10,0,0",
            0,
            {"eta": _any(rng, world)},
        ]
    ],
    ("Outcomes", "outcomes"): lambda rng, world: [
        [rng.randrange(60), _task_id(rng, world), rng.randrange(3), 5, b"", 0, rng.random() < 0.5]
    ],
    ("Results", "results"): lambda rng, world: [[_task_id(rng, world), rng.randrange(3), b"", 0]],
    ("Tasks", "tasks"): lambda rng, world: [[_task_id(rng, world), "short", 0, 0, b"10,0,0", 0, None]],
    ("Returned", "leases"): lambda rng, world: [rng.choice((*_NUMBERS, *range(40)))],
    ("Received", "sequences"): _ranges,
    ("Reconcile", "outstanding"): _ranges,
    ("Missing", "sequences"): _ranges,
    ("Confirm", "confirmed"): _ranges,
    ("Confirm", "refused"): lambda rng, world: [[rng.choice(_NUMBERS), "no"]],
    ("Ask", "ids"): lambda rng, world: [_task_id(rng, world), rng.choice(_TEXTS)],
    ("States", "states"): lambda rng, world: [[_task_id(rng, world), _task_id(rng, world), "PENDING", {"gone": True}]],
    ("Request", "destination"): lambda rng, world: rng.choice((None, ["n0@A", "n0@A"], ["nobody"], [])),
    ("Request", "timeout_s"): lambda rng, world: rng.choice((0.0, -1.0, 1e300, float("inf"), float("nan"))),
}


def _matches(value: Any, annotation: str) -> bool:
    wanted = {"int": int, "str": str, "bytes": bytes, "bool": bool, "float": float}.get(annotation)
    return wanted is None or type(value) is wanted


def _field(rng: random.Random, world: World, kind: type[Any], field: str) -> Any:
    usual = _USUAL.get((kind.__name__, field))
    if usual is not None and rng.random() < 0.9:
        return usual(rng, world)
    value = _any(rng, world)
    for _ in range(30):
        if _matches(value, str(kind.__annotations__[field])):
            break
        value = _any(rng, world)
    return value


def make(rng: random.Random, world: World) -> m.Message | None:
    """One message as it comes out of the codec; None where the codec refuses it."""
    kind = rng.choice(list(m.KINDS.values()))
    message: Any = kind(*(_field(rng, world, kind, field) for field in kind._fields))  # type: ignore[attr-defined]
    try:
        return codec.decode(codec.encode(message))
    except (MalformedMessage, ValueError, OverflowError, TypeError):
        return None


def throw(world: World, seed: int) -> None:
    """Somebody says something strange, to a router or to whoever has a link."""
    rng = random.Random(seed)
    message = make(rng, world)
    if message is None:
        world.history.counts["hostile messages refused by the codec"] += 1
        return
    world.history.counts["hostile messages"] += 1
    doors = [door for door in world.wire.doors.values() if "reply" not in door.address or rng.random() < 0.2]
    if not doors or not world.wire.links:
        return
    if rng.random() < 0.75:
        door: Door = rng.choice(doors)
        peer = rng.choice([*door.peers, b"\x01stranger"])
        door.arrive(peer, Parcel(message, ()))
        return
    link: Link = rng.choice(world.wire.links)
    link.put(Parcel(message, ()))


def draw(rng: random.Random, at_s: float) -> Event:
    """One of these."""
    return Event(at_s, "throw", (rng.getrandbits(40),))


DO: dict[str, Callable[..., None]] = {"throw": throw}
