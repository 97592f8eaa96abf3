"""The router of the raw floor: forwards each message to the next worker in turn.

`python -m bench.systems.raw_router DIRECTORY WORKERS`
"""

import sys
from itertools import cycle
from pathlib import Path

import zmq

from bench.systems.raw_wire import ECHO, Context, Endpoints, Socket, messages, open_socket


def meet_workers(socket: Socket, count: int) -> list[bytes]:
    """Waits for the hello of every worker and answers it; returns their routing ids."""
    workers: list[bytes] = []
    while len(workers) < count:
        identity, _hello = socket.recv_multipart()
        socket.send_multipart([identity, b""])
        workers.append(identity)
    return workers


def forward(socket: Socket, workers: list[bytes]) -> None:
    """Forwards what follows each sender's routing id. Never returns."""
    for _sender, worker in zip(messages(socket), cycle(workers), strict=False):
        message = socket.recv()
        socket.send(worker, zmq.SNDMORE)
        if message == ECHO:
            socket.send(message, zmq.SNDMORE)
            socket.send(socket.recv(copy=False), copy=False)
        else:
            socket.send(message)


def main(directory: Path, workers: int) -> None:
    """Serves until it is killed."""
    context: Context = zmq.Context()
    socket = open_socket(context, zmq.ROUTER)
    socket.bind(Endpoints.inside(directory).router)
    forward(socket, meet_workers(socket, workers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
