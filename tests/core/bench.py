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
    """A dispatch and what it says has ended."""

    def __init__(self, budgets=BUDGETS):
        self.ended: list[Ended] = []
        self.dispatch = Dispatch(budgets, self._note)
        self.count = 0

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
        """{consumer: sequences of the tasks it is granted now}."""
        grants = self.dispatch.assign(now)
        assert len({grant.consumer.peer for grant in grants}) == len(grants), "one grant per consumer"
        for grant in grants:
            assert [grant.consumer.held[grant.first_lease + n] for n in range(len(grant.tasks))] == grant.tasks
        return {grant.consumer.peer.decode(): sequences(grant.tasks) for grant in grants}

    def ends(self, consumer, now=START, runtime_us=100):
        """The first lease of a consumer ends with an outcome."""
        number, task = next(iter(consumer.held.items()))
        return self.dispatch.outcome(consumer, number, task.task_id, now, runtime_us)

    def stale(self, now):
        return [consumer.peer.decode() for consumer in self.dispatch.stale(now)]

    def waiting(self):
        """What is ready, in order."""
        return [number for queue in self.dispatch.queues.values() for number in sequences(queue)]
