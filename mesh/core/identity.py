"""What a router is, as it tells others."""

from __future__ import annotations

from typing import NamedTuple


class Identity(NamedTuple):
    """What the router is."""

    mesh: str
    directory: str
    owner_tag: bytes
    boot: bytes
    pid: int
    version: str
