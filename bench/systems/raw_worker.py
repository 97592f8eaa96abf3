"""A worker of the raw floor: runs what comes and answers straight to the client.

`python -m bench.systems.raw_worker DIRECTORY`
"""

import sys
from pathlib import Path

import msgpack
import zmq

from bench.systems.raw_wire import ECHO, FUNCTIONS, Context, Endpoints, Socket, messages, open_socket


def run(frame: bytes) -> bytes:
    """Runs the tasks of one frame; returns the frame with their results."""
    tasks = msgpack.unpackb(frame)
    results = [(task_id, FUNCTIONS[name](*args, **kwargs)) for task_id, name, args, kwargs, _header in tasks]
    return bytes(msgpack.packb(results))


def serve(tasks: Socket, replies: Socket) -> None:
    """Answers each message. Never returns."""
    for message in messages(tasks):
        if message == ECHO:
            replies.send(message, zmq.SNDMORE)
            replies.send(tasks.recv(copy=False), copy=False)
        else:
            replies.send(run(message))


def main(directory: Path) -> None:
    """Joins the router, tells the client that it is there, and serves until it is killed."""
    context: Context = zmq.Context()
    endpoints = Endpoints.inside(directory)
    tasks = open_socket(context, zmq.DEALER)
    tasks.connect(endpoints.router)
    tasks.send(b"")
    tasks.recv()
    replies = open_socket(context, zmq.DEALER)
    replies.connect(endpoints.replies)
    replies.send(b"")
    serve(tasks, replies)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
