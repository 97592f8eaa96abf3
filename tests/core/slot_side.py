"""Leases for a slot, and what it does with them."""

from mesh import ids
from mesh import messages as m
from mesh.messages import Flag
from mesh.states import Status

CALLER, OTHER = ids.prefix(b"owner!", 1), ids.prefix(b"owner!", 2)


def assignment(number, name="t", flags=Flag.NONE, caller=CALLER, n_frames=0):
    return list(m.Assignment(ids.stamp(caller, number), name, 0, flags, b"args", n_frames, None))


def tasks(first_lease, count, receipt=0, **fields):
    records = [assignment(first_lease + at, **fields) for at in range(count)]
    return m.Tasks(first_lease, receipt, records)


def run(work, mono_s=0.0, *, runtime_us=10, body=b"value", frames=()):
    """Runs the next lease to its end. Its number."""
    lease = work.waiting.popleft()
    work.ended(lease, Status.SUCCESS, runtime_us, body, frames, mono_s)
    return lease.number


def send(work, mono_s=0.0):
    """Sends everything. Leases for the owner, and ids per caller."""
    unsent, by_caller = work.take_unsent(mono_s)
    told = {caller: [ids.sequence_of(one.record[1]) for one in ended] for caller, ended in by_caller.items()}
    return [one.record[0] for one in unsent], told


def waiting(work):
    return [lease.number for lease in work.waiting]


def unreceipted(work):
    return [one.record[0] for one in work.unreceipted]
