"""What a machine wants done. The shell does them in order; one per batch and destination."""

from __future__ import annotations

from typing import NamedTuple

from mesh.core.records import Row
from mesh.messages import Buffer, Message, Ranges


class Send(NamedTuple):
    """A message over the inbox link (of a slot or the client: to the router)."""

    peer: bytes
    message: Message
    frames: tuple[Buffer, ...] = ()


class SendControl(NamedTuple):
    """A message over the control link."""

    peer: bytes
    message: Message


class Commit(NamedTuple):
    """What is to be on disk, all of it or nothing. The shell answers by `committed` or `commit_failed`.

    Rows are removed after rows are written. Only one is under way at a time; one that has failed is given out again,
    the same.
    """

    number: int
    rows: list[Row]
    removed: Ranges  #: numbers of rows that are needed no more
    synced: bool  #: it must survive power loss: otherwise the system writes it when it likes


class Fetch(NamedTuple):
    """Read this row again. The shell answers `fetched(number, records)`; None for a row that can't be read."""

    number: int


class WatchProcess(NamedTuple):
    """Tell `process_ended(pid)` when this process dies."""

    pid: int


class RemoveReplySocket(NamedTuple):
    """The client of this incarnation died and can't remove its reply socket itself."""

    incarnation: int


class RemovePage(NamedTuple):
    """The node that kept this slot page died, and so did its slots. The path is what the node said."""

    path: str


Effect = Send | SendControl | Commit | Fetch | WatchProcess | RemoveReplySocket | RemovePage
