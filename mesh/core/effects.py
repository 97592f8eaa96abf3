"""What a machine wants done. The shell does them in order; one per batch and destination."""

from __future__ import annotations

from typing import NamedTuple

from mesh.messages import Buffer, Message


class Send(NamedTuple):
    """A message over the inbox link (of a slot or the client: to the router)."""

    peer: bytes
    message: Message
    frames: tuple[Buffer, ...] = ()


class SendControl(NamedTuple):
    """A message over the control link."""

    peer: bytes
    message: Message


class Persist(NamedTuple):
    """What the journal must hold. The shell answers `committed(number, durability)` when it does."""

    number: int
    published: tuple[tuple[bytes, list[list[object]]], ...]  #: (client prefix, Call records)
    ended: tuple[bytes, ...]  #: ids of tasks that need no recovery any more


class WatchProcess(NamedTuple):
    """Tell `process_ended(pid)` when this process dies."""

    pid: int


class RemoveReplySocket(NamedTuple):
    """The client of this incarnation died and can't remove its reply socket itself."""

    incarnation: int


class RemovePage(NamedTuple):
    """The node that kept this slot page died, and so did its slots. The path is what the node said."""

    path: str


Effect = Send | SendControl | Persist | WatchProcess | RemoveReplySocket | RemovePage
