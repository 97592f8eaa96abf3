"""What nodes and queues may be called on a command line."""

from __future__ import annotations

import re
import socket
from typing import Final

import click

from mesh import pools
from mesh.settings import QUEUE_NAME_RULE, SLOTS_MAX, is_queue_name

from .options import names

_NODE_NAME: Final = re.compile(r"[^\s,@%/]+@[^\s,@%/]+")


def node_name(text: str) -> str:
    """`name@host`, by default this host; %h, %n and %d stand for its whole name, the first part and the rest."""
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    parts = {"%h": host, "%n": short, "%d": domain, "%%": "%"}
    name = re.sub("%.", lambda found: parts.get(found[0], found[0]), text)
    name = name if "@" in name else f"{name}@{host}"
    if not _NODE_NAME.fullmatch(name):
        raise click.BadParameter(
            f"{text!r} is no node name: give NAME@HOST without spaces and commas; %h, %n, %d are expanded."
        )
    return name


def queue_names(text: str) -> tuple[str, ...]:
    """As `names`, where each can be a queue."""
    if not names(text):
        raise click.BadParameter("no queue is named: give A,B, or leave -Q out for the app's default queue.")
    for name in names(text):
        if not is_queue_name(name):
            raise click.BadParameter(f"{name!r} is no queue: give {QUEUE_NAME_RULE}.")
    return names(text)


def slots(text: str) -> int:
    """A number of slots; pools.AUTO where it says auto."""
    if text == "auto":
        return pools.AUTO
    number: int = click.IntRange(min=1, max=SLOTS_MAX)(text)
    return number


def slot_range(text: str) -> tuple[int, int]:
    """`most,least` in either order, or the most alone, as `--autoscale` takes it."""
    numbers = text.split(",")
    if not 1 <= len(numbers) <= 2 or not all(one.strip().isdecimal() for one in numbers) or not any(map(int, numbers)):
        raise click.BadParameter(f"{text!r} is no range of slots: give MAX,MIN, such as 10,3, or MAX alone.")
    least, most = sorted(int(one) for one in (*numbers, "0")[:2])
    if most > SLOTS_MAX:
        raise click.BadParameter(f"a node has at most {SLOTS_MAX} slots.")
    return most, least
