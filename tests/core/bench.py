"""A dispatch whose consumers do what the test says."""

from typing import NamedTuple

from mesh import ids
from mesh.core.credit import FIRST_SAMPLES
from mesh.core.dispatch import Dispatch
from mesh.core.leases import Consumer, Kind
from tests.core.builders import BUDGETS, at, make_task, sequences

START = at(100.0)


class Ended(NamedTuple):
    """A task that was over without an outcome of a slot."""

    sequence: int
    kind: str
    reason: str


class Bench:
    """A dispatch and what it says has ended, or changed."""

    def __init__(self, budgets=BUDGETS, resident_max=1_000_000):
        self.ended: list[Ended] = []
        #: Sequences of tasks that are not as they were published, in the order in which that was told.
        self.changed: list[int] = []
        self.dispatch = Dispatch(budgets, resident_max, self._note, self._note_change)
        self.count = 0

    def _note_change(self, task):
        self.changed.append(ids.sequence_of(task.task_id))

    def _note(self, task, kind, reason):
        self.ended.append(Ended(ids.sequence_of(task.task_id), kind, reason))

    def check(self):
        self.dispatch.check()

    def learn(self, name, runtime_us):
        """Makes the run time of a name known."""
        for _ in range(FIRST_SAMPLES):
            self.dispatch.estimates.add(name, runtime_us)

    def accept(self, count=1, now=START, **fields):
        """Takes so many new tasks. They are numbered from 1."""
        tasks = []
        for _ in range(count):
            self.count += 1
            tasks.append(make_task(self.count, **fields))
            self.dispatch.accept(tasks[-1], now)
        return tasks if count > 1 else tasks[0]

    def slot(self, name="slot", queues=("q",), node="n"):
        consumer = Consumer(
            name.encode(), Kind.SLOT, tuple(queues), node=node, index=0, pid=len(self.dispatch.consumers)
        )
        self.dispatch.join(consumer)
        return consumer

    def peer(self, name="peer", credit=0, queues=("q",)):
        consumer = Consumer(name.encode(), Kind.PEER, tuple(queues), node="", index=0, pid=0)
        consumer.credit = credit
        self.dispatch.join(consumer)
        return consumer

    def assign(self, now=START):
        """{consumer: sequences of the tasks it is granted now}. The journal marks at once what is to be marked."""
        granted: dict[str, list[int]] = {}
        while True:
            grants = self.dispatch.assign(now)
            assert len({grant.consumer.peer for grant in grants}) == len(grants), "one grant per consumer"
            for grant in grants:
                assert [grant.consumer.held[grant.first_lease + n] for n in range(len(grant.tasks))] == grant.tasks
                granted.setdefault(grant.consumer.peer.decode(), []).extend(sequences(grant.tasks))
            if not self.clear():
                return granted

    def clear(self):
        """The journal has marked what may run at most once. Its sequences."""
        cleared, self.dispatch.to_clear = self.dispatch.to_clear, []
        for task in cleared:
            del self.dispatch.clearing[task.task_id]
        return sequences(cleared)

    def ends(self, consumer, now=START, runtime_us=100):
        """The first lease of a consumer ends with an outcome."""
        number, task = next(iter(consumer.held.items()))
        return self.dispatch.outcome(consumer, number, task.task_id, now, runtime_us)

    def stale(self, now):
        return [consumer.peer.decode() for consumer in self.dispatch.stale(now)]

    def waiting(self):
        """What is ready, in order."""
        return [number for queue in self.dispatch.queues.values() for number in sequences(queue)]
