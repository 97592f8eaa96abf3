"""A whole mesh in simulated time, in which routers, nodes, disks and links fail.

Nothing runs but the test's own thread. A second of the mesh takes milliseconds; a seed tells the same story each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from mesh.bodies import decode_value, encode_value
from mesh.core.admission import Bounds
from mesh.core.dispatch import Budgets
from mesh.core.owner import Limits
from mesh.exceptions import MeshError, NotRegistered, TimeoutError
from mesh.interfaces import PendingCall
from mesh.messages import Durability, Flag
from mesh.remote_errors import decode_exception, encode_exception
from mesh.sim.client import SimClient
from mesh.sim.history import Job
from mesh.sim.world import NodePlan, Plan, World
from mesh.states import FAILURE, PENDING, STATE_OF_STATUS, SUCCESS, Status

#: How long calls may take to end in a mesh that nothing is wrong with any more.
DRAIN_S: Final = 120.0
#: What passes between two looks at a condition.
STEP_S: Final = 0.0005

_HOST: Final = "A"
_FLAG_OF: Final = {"none": Flag.TRANSIENT, "journaled": Flag.NONE, "synced": Flag.SYNCED}


class SimCall:
    """One call made in a SimMesh, and what came of it."""

    def __init__(self, mesh: SimMesh, name: str, pending: PendingCall) -> None:
        self.name = name
        self._mesh = mesh
        self._pending = pending

    @property
    def runs(self) -> int:
        """How often it began in a slot."""
        return len(self._mesh._world.history.runs.get(self._pending.task_id, ()))

    @property
    def confirmed(self) -> Durability | None:
        """Which level the router has confirmed; None where it has not."""
        return self._pending.durability

    @property
    def state(self) -> str:
        """As AsyncResult.state; PENDING while its caller knows of no end."""
        if self._pending.failure is not None:
            return FAILURE
        ending = self._pending.ending
        return PENDING if ending is None else STATE_OF_STATUS[Status(ending.status)]

    @property
    def result(self) -> Any:
        """What the function returned; None before. Raises what it raised, or why it was given up."""
        if self._pending.failure is not None:
            raise self._pending.failure
        ending = self._pending.ending
        if ending is None:
            return None
        if self.state != SUCCESS:
            raise decode_exception(ending.body)
        return decode_value(ending.body)

    def __repr__(self) -> str:
        return f"<SimCall {self.name} {self.state}, {self.runs} runs>"


class _World(World):
    """A world whose tasks are functions."""

    def __init__(self, seed: str, plan: Plan, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._functions = functions
        #: {task id: (function, arguments)}
        self.calls: dict[bytes, tuple[str, tuple[Any, ...], dict[str, Any]]] = {}
        super().__init__(seed, plan)

    def outcome_of(self, task_id: bytes) -> tuple[int, bytes]:
        name, args, kwargs = self.calls[task_id]
        function = self._functions.get(name)
        try:
            value = function(*args, **kwargs) if function is not None else None
            return int(Status.SUCCESS), encode_value(value)[0]
        except Exception as error:
            return int(Status.FAILURE), encode_exception(error, "")

    def encode_failure(self, error: MeshError) -> bytes:
        return encode_exception(error, "")


class SimMesh:
    """One host with a router, a node and a client. A context manager, which looks for inconsistencies at its end.

    `functions` are what tasks do, by name; without them any task may be called, and does nothing. A function is called
    when a run comes to its end, in no time: how long the run takes is said with the call.
    """

    def __init__(
        self, seed: int | str = 0, functions: Mapping[str, Callable[..., Any]] | None = None, *, slots: int = 2
    ) -> None:
        limits = Limits(Bounds(100_000, 1 << 30), None, 64 << 20, Budgets(crash=3, lost=20))
        node = NodePlan(_HOST, f"n@{_HOST}", ("default",), slots)
        plan = Plan((node,), 1, limits, unconfirmed_max=10_000, with_codec=True, with_peers=False)
        self._node = node
        self._world = _World(f"SimMesh {seed}", plan, functions or {})
        self._known = functions
        self._calls: list[SimCall] = []
        self.run(until=lambda: self._client.is_ready)

    def __enter__(self) -> SimMesh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._world.routers[_HOST].alive:
            self._world.routers[_HOST].owner.check()

    @property
    def _client(self) -> SimClient:
        return self._world.clients[f"c0@{_HOST}"]

    # --- calls -----------------------------------------------------------------------------------

    def call(
        self,
        name: str,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        takes_s: float = 0.001,
        crashes: int = 0,
        countdown: float | None = None,
        expires: float | None = None,
        acks_late: bool = True,
        durability: str = "journaled",
        ignore_result: bool = False,
    ) -> SimCall:
        """Calls a task of which a run takes `takes_s`, and of which the first `crashes` runs kill their slot.

        Raises:
            NotRegistered: the name is not among the functions.
            ValueError: a number is below zero, or there is no such level of durability.
        """
        if self._known is not None and name not in self._known:
            raise NotRegistered(name, "this SimMesh")
        if takes_s < 0 or crashes < 0:
            raise ValueError(f"takes_s={takes_s!r}, crashes={crashes!r}: give numbers from 0.")
        if durability not in _FLAG_OF:
            raise ValueError(f"durability={durability!r}: give one of {', '.join(_FLAG_OF)}.")
        flags = (
            _FLAG_OF[durability] | (0 if acks_late else Flag.EARLY_ACK) | (Flag.IGNORE_RESULT if ignore_result else 0)
        )
        wall_s = self._world.timeline.now().wall_s
        options = {key: wall_s + s for key, s in (("eta", countdown), ("expires", expires)) if s is not None}
        body = Job(int(takes_s * 1e6), crashes).body()
        pending = self._client.submit(name, "default", 0, flags, body, [], options or None)
        assert pending is not None, "too many calls are unconfirmed: let some time pass"
        self._world.calls[pending.task_id] = (name, args, dict(kwargs or {}))
        self._calls.append(SimCall(self, name, pending))
        return self._calls[-1]

    @property
    def calls(self) -> list[SimCall]:
        """All that were made, in order."""
        return list(self._calls)

    # --- time ------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Seconds of the mesh's monotonic clock."""
        return self._world.timeline.mono_s

    def run(self, for_s: float = DRAIN_S, *, until: Callable[[], object] | None = None) -> None:
        """Lets so much time pass, or less where a condition comes true before.

        Raises:
            TimeoutError: it did not.
        """
        end_s = self.now_s + for_s
        if until is None:
            self._world.timeline.run_until(end_s)
            return
        while not until():
            if self.now_s >= end_s:
                raise TimeoutError("the condition", for_s, "It never came true in the simulated mesh.")
            self._world.timeline.run_until(self.now_s + STEP_S)

    def drain(self) -> None:
        """Heals, and lets time pass until every call of a living client has ended.

        Raises:
            TimeoutError: one did not.
        """
        self.heal()
        self.run(until=lambda: not self._client.calls.open and not len(self._world.routers[_HOST].owner.dispatch))

    # --- what goes wrong -------------------------------------------------------------------------

    def kill_router(self, down_s: float = 0.1) -> None:
        """kill -9 of the router; it starts again after a while."""
        self._world.kill(self._world.routers[_HOST])
        self._world.timeline.after(down_s, lambda: self._world.start_router(_HOST))

    def kill_slot(self) -> None:
        """kill -9 of a slot: of one that runs a task where there is one. Its node starts another."""
        slots = sorted(self._world.living_slots(), key=lambda slot: not slot.busy)
        if slots:
            self._world.kill(slots[0])

    def kill_node(self, down_s: float = 0.1) -> None:
        """kill -9 of the node, and with it of its slots; it starts again after a while."""
        self._world.kill(self._world.nodes[self._node.name])
        self._world.timeline.after(down_s, lambda: self._world.start_node(self._node))

    def kill_host(self, down_s: float = 0.5, *, power: bool = False) -> None:
        """Ends every process of the host at once; with `power` what its disk has not synced is lost too.

        The caller is among them: of calls made before only `runs` can be told afterwards.
        """
        self._world.kill_host(_HOST, down_s, power=power)

    def pause_router(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        self._world.routers[_HOST].pause(for_s)

    def cut_links(self, for_s: float) -> None:
        """Nobody reaches anybody for a while; what was under way is lost."""
        for link in list(self._world.wire.links):
            link.cut(for_s, keep=False)

    def lose_messages(self, share: float) -> None:
        """So large a share of all messages is lost, until `heal`."""
        for link in self._world.wire.links:
            link.drop(share, share)

    def fill_disk(self) -> None:
        """The disk takes nothing more, until `heal`."""
        self._world.disks[_HOST].full = True

    def heal(self) -> None:
        """Nothing is wrong any more, and who is missing starts again."""
        self._world.wire.heal()
        self._world.disks[_HOST].heal()
        for process in self._world.living():
            process.resume()
        if _HOST not in self._world.down:
            self._world.start_all()
