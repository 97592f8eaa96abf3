"""Calls, and what a router says of them."""

from mesh import ids
from mesh import messages as m
from mesh.messages import Durability, Flag
from mesh.states import Status

PREFIX = ids.prefix(b"owner!", 1)
BOOT, OTHER_BOOT = b"boot1", b"boot2"


class Frame(bytes):
    """A buffer as the transport hands it over."""

    @property
    def buffer(self):
        return bytes(self)


def add(calls, count=1, *, flags=Flag.NONE, body=b"args", frames=None, options=None):
    """Makes so many calls."""
    pending = [calls.add("t", "q", 0, flags, body, frames, options) for _ in range(count)]
    return pending if count > 1 else pending[0]


def publish(calls, *, handed_over=True):
    """Sends everything. The sequences, one list a message."""
    published = []
    while calls.has_unsent:
        message, _ = calls.next_publish()
        if not handed_over:
            calls.not_sent()
            break
        calls.sent()
        published.append([record[0] for record in message.calls])
    return published


def results(*sequences, status=Status.SUCCESS, body=b"value"):
    return m.Results([[ids.stamp(PREFIX, one), status, body, 0] for one in sequences])


def confirm(*ranges, refused=(), durability=Durability.NONE):
    return m.Confirm(durability, [list(one) for one in ranges], [list(one) for one in refused])


def numbers(pending):
    return [ids.sequence_of(one.task_id) for one in pending]
