"""The raw floor's messages and sockets, shared by its three kinds of process.

A frame is a msgpack list of tasks [id, name, args, kwargs, header], about 107 bytes a task as in mesh; the answer is a
frame with a list of [id, value]. The client packs, the worker unpacks, calls and packs, the client unpacks, the router
looks at nothing: the least that a task queue does in Python. A large body travels in a frame of its own, behind ECHO,
and is never copied by Python.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import zmq

from bench import functions

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
Socket: TypeAlias = "zmq.Socket[bytes]"

FUNCTIONS: dict[str, Callable[..., Any]] = {"bench.functions.add": functions.add}
#: Stands for what a task carries beside its call (reply address, times, options): makes it 107 bytes.
HEADER = bytes(63)
#: A message whose next frame is a large body. Its first byte never begins a msgpack list.
ECHO = b"\xc1"
#: Messages taken from a socket before it is polled again, as in a process that has other sockets to look after.
DRAIN = 256


class Endpoints(NamedTuple):
    """The two ipc addresses: the router's, and the client's for results."""

    router: str
    replies: str

    @classmethod
    def inside(cls, directory: Path) -> "Endpoints":
        return cls(f"ipc://{directory}/router", f"ipc://{directory}/replies")


def open_socket(context: Context, kind: int) -> Socket:
    """A socket without high-water marks (the benchmark bounds what is in flight) that does not linger."""
    socket: Socket = context.socket(kind)
    socket.sndhwm = socket.rcvhwm = 0
    socket.linger = 0
    return socket


def messages(socket: Socket) -> Iterator[bytes]:
    """The first frame of each message, for ever: poll, then drain. The caller takes the frames that follow.

    Frames are taken and sent one by one: `recv_multipart` and `send_multipart` double the CPU of a small message.
    """
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    while True:
        poller.poll()
        for _ in range(DRAIN):
            try:
                yield socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
