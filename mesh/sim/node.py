"""The shell of a node in simulated form: mirrors mesh/node.py and mesh/template.py around the real Supervision."""

from __future__ import annotations

from typing import Any

from mesh import messages as m
from mesh.core.supervision import Report, Says, Spawn, Supervision, SupervisionEffect
from mesh.messages import Role
from mesh.node import HELLO_AGAIN_S
from mesh.sim.kernel import Kernel
from mesh.sim.page import SimPage
from mesh.sim.process import Process
from mesh.sim.router import MESH, control_address
from mesh.sim.slot import SimSlot
from mesh.sim.wire import Link
from mesh.slot_page import SETTLE_S
from mesh.workforce import ALL_LEASES

_SIGKILL = 9


class SimNode(Process):
    """1. Keeps the slots alive. 2. Answers the router from the slot page. 3. Ends in order."""

    def __init__(self, kernel: Kernel, host: str, name: str, queues: tuple[str, ...], slots: int) -> None:
        super().__init__(kernel, host, name)
        self.queues = queues
        self.page = SimPage(slots)
        kernel.pages[self.page_path] = self.page
        self.slots: dict[int, SimSlot] = {}
        self.supervision = Supervision(slots)
        self.joined = False
        #: A router has known it, and so knows its page.
        self.has_joined = False
        self._begun_before: dict[int, int] = {}
        self._stops = 0
        self._acted_on_stops = 0
        self._template_said: list[tuple[str, int, int]] = []
        self._template_gone = False
        self._refused = False
        self._links = 0
        self.link = self._dial()
        self.wake()

    @property
    def page_path(self) -> str:
        return f"{self.host}/page/{self.pid}"

    # --- the loop --------------------------------------------------------------------------------

    def turn(self) -> None:
        self._receive()
        if self.busy:
            return
        self._hear_template()
        if self.ended():
            self._rejoin()
        self._act_on_stops()
        if self.busy:
            return
        self._end_of_turn()

    def _end_of_turn(self) -> None:
        if self.joined:
            self._do(self.supervision.tick(self.timeline.mono_s))
        elif self.timeline.mono_s >= self._hello_s + HELLO_AGAIN_S:
            self._rejoin()
        if self.supervision.is_over() or self._template_gone or self._refused:
            self._leave()

    def next_deadline(self) -> float | None:
        return self.supervision.next_deadline_mono_s() if self.joined else self._hello_s + HELLO_AGAIN_S

    def check(self) -> None:
        self.supervision.check()

    def has_input(self) -> bool:
        return self.link.has_input or bool(self._template_said)

    def _do(self, effects: list[SupervisionEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Spawn):
                self._begun_before[effect.seat] = self.page.records[effect.seat].begun
                self.timeline.after(self.kernel.rng.uniform(0.001, 0.004), lambda seat=effect.seat: self._spawn(seat))  # type: ignore[misc]
            elif isinstance(effect, Report):
                record = self.page.records[effect.seat]
                begun = record.begun if record.pid == effect.pid else 0
                self.link.send(m.SlotLost(effect.seat, effect.pid, begun, effect.cause, effect.charged))

    # --- the template ----------------------------------------------------------------------------

    def _spawn(self, index: int) -> None:
        if not self.alive or self._template_gone:
            return
        slot = SimSlot(self, index)
        self.slots[slot.pid] = slot
        if self.supervision.ending:
            slot.end_soon()
        self._template_said.append(("spawned", index, slot.pid))
        self.wake()

    def slot_ended(self, slot: SimSlot, cause: str) -> None:
        """A slot is dead; the template reaps it in a moment."""
        if self.alive:
            self.timeline.after(self.kernel.rng.uniform(0.0001, 0.002), lambda: self._reaped(slot, cause))

    def _reaped(self, slot: SimSlot, cause: str) -> None:
        if not self.alive:
            return
        self.slots.pop(slot.pid, None)
        self._template_said.append(("exited", slot.index, 0 if cause == "code 0" else _SIGKILL))
        self.wake()

    def _hear_template(self) -> None:
        said, self._template_said = self._template_said, []
        for kind, first, second in said:
            if kind == "spawned":
                self.supervision.spawned(first, second, self.timeline.mono_s)
                self.supervision.told(first, Says.WORKING, blocked=False)
            elif kind == "exited":
                worked = self.page.records[first].begun > self._begun_before[first]
                self._do(self.supervision.exited(first, second, self.timeline.mono_s, worked=worked))
            else:
                for slot in range(len(self.page.records)):
                    self.page.withdraw(slot, ALL_LEASES)
                self._do(self.supervision.template_lost(self.supervision.generation, self.timeline.mono_s))
                self._template_gone = True

    def lose_template(self) -> None:
        """The template process dies, and its slots with it."""
        self._template_said.append(("lost", 0, 0))
        for slot in list(self.slots.values()):
            self.kernel.kill_soon(slot)
        self.wake()

    # --- stopping --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Once warm, twice cold."""
        self._stops += 1
        self.wake()

    def _act_on_stops(self) -> None:
        if self._stops and not self.supervision.ending:
            self.supervision.end()
            self.link.send(m.Quiet(self.name))
            self._answer_recalls(
                [m.Recall(index, ALL_LEASES) for index in range(len(self.page.records))], self._close_lifeline
            )
            return
        if self._stops > 1:
            for pid in [pid for pid, _ in self.supervision.living.values()]:
                if pid in self.slots:
                    self.kernel.kill(self.slots[pid])

    def _close_lifeline(self) -> None:
        for slot in self.slots.values():
            slot.end_soon()
        self._end_of_turn()
        self.wake()

    # --- the router ------------------------------------------------------------------------------

    def _dial(self) -> Link:
        self._links += 1
        link = Link(self.wire, self, control_address(self.host))
        info: dict[str, Any] = {
            "name": self.name,
            "page": self.page_path,
            "queues": list(self.queues),
            "concurrency": len(self.page.records),
            "template_pid": 0,
            "link": self._links,
        }
        link.send(m.Hello(m.PROTOCOL_MAJOR, m.PROTOCOL_MINOR, Role.NODE, MESH, self.pid, self.pid, info))
        self._hello_s = self.timeline.mono_s
        return link

    def _rejoin(self) -> None:
        self.joined = False
        self.link.close()
        self.link = self._dial()

    def _receive(self) -> None:
        recalls: list[m.Recall] = []
        for message, _ in self.link.receive():
            if isinstance(message, m.Recall):
                recalls.append(message)
            elif isinstance(message, m.Request):
                self._answer(message)
            elif isinstance(message, m.HelloOk):
                self._join(message)
            elif isinstance(message, m.HelloRefused):
                self._refused = message.code in ("duplicate", "version", "mesh")
            elif isinstance(message, m.NeedHello):
                self._rejoin()
                return
        if recalls:
            self._answer_recalls(recalls, self.wake)

    def _join(self, hello_ok: m.HelloOk) -> None:
        if self.joined or not self.watch(hello_ok.pid):
            return
        self.joined = self.has_joined = True
        if self.supervision.ending:
            self.link.send(m.Quiet(self.name))

    def _answer_recalls(self, recalls: list[m.Recall], then: Any) -> None:
        recalls = [
            recall for recall in recalls if 0 <= recall.slot < len(self.page.records) and 0 <= recall.upto <= ALL_LEASES
        ]
        for recall in recalls:
            self.page.withdraw(recall.slot, recall.upto)

        def settled() -> None:
            for recall in recalls:
                record = self.page.records[recall.slot]
                self.link.send(m.Recalled(recall.slot, record.pid, record.begun, recall.upto))
            self.kernel.history.counts["recalls"] += len(recalls)
            then()

        self.occupied(SETTLE_S, settled)

    def _answer(self, request: m.Request) -> None:
        if request.command == "ping":
            self.link.send(m.Reply(request.number, True, {"ok": "pong"}))
        elif request.command == "active":
            running = [record.detail for record in self.page.records if record.detail is not None]
            self.link.send(m.Reply(request.number, True, [{"id": one.task_id, "name": one.name} for one in running]))
        else:
            self.link.send(m.Reply(request.number, False, f"unknown command {request.command!r}"))

    # --- the end ---------------------------------------------------------------------------------

    def _leave(self) -> None:
        self.link.send(m.Bye("the node ends"))
        self.link.close(linger=True)
        self.kernel.ended(self, "code 0")

    def released(self, cause: str) -> None:
        self.link.close()
        for slot in list(self.slots.values()):
            self.kernel.kill_soon(slot)
