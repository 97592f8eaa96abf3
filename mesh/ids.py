"""Task ids are stamps: owner tag, client incarnation, sequence; 16 bytes that read as a UUID of version 8 (DESIGN D2).

Layout, big-endian: 48 bits owner tag · 4 bits version 8 · 12 bits incarnation (high) · 2 bits variant · 22 bits
incarnation (low) · 40 bits sequence. The first 11 bytes are the same for all calls of one client: its *prefix*.
"""

from __future__ import annotations

from typing import Final, NamedTuple

OWNER_TAG_BYTES: Final = 6
PREFIX_BYTES: Final = 11
ID_BYTES: Final = 16
SEQUENCE_BYTES: Final = ID_BYTES - PREFIX_BYTES
INCARNATION_BITS: Final = 34
SEQUENCE_MAX: Final = (1 << 8 * SEQUENCE_BYTES) - 1


class Stamp(NamedTuple):
    """What an id says."""

    owner_tag: bytes  #: 6 bytes, of the router that confirms the task
    incarnation: int  #: 34 bits, of the client that made the call
    sequence: int  #: counts the client's calls from 1


def prefix(owner_tag: bytes, incarnation: int) -> bytes:
    """The 11 bytes that all ids of one client at one owner begin with."""
    if len(owner_tag) != OWNER_TAG_BYTES or not 0 <= incarnation < 1 << INCARNATION_BITS:
        raise ValueError(f"no id can be made of {owner_tag!r}, {incarnation!r}")
    high, low = incarnation >> 22, incarnation & 0x3FFFFF
    return owner_tag + (0x8000 | high).to_bytes(2, "big") + (0x800000 | low).to_bytes(3, "big")


def stamp(client_prefix: bytes, sequence: int) -> bytes:
    """The id of one call."""
    return client_prefix + sequence.to_bytes(SEQUENCE_BYTES, "big")


def sequence_of(task_id: bytes) -> int:
    """The sequence within its client."""
    return int.from_bytes(task_id[PREFIX_BYTES:], "big")


def read(task_id: bytes) -> Stamp:
    """The three parts of an id. Raises ValueError for bytes that are no stamp."""
    if not is_stamp(task_id):
        raise ValueError(f"{task_id!r} is no task id")
    high = int.from_bytes(task_id[6:8], "big") & 0xFFF
    low = int.from_bytes(task_id[8:11], "big") & 0x3FFFFF
    return Stamp(task_id[:OWNER_TAG_BYTES], high << 22 | low, sequence_of(task_id))


def is_stamp(task_id: bytes) -> bool:
    """Whether the bytes have the form of an id."""
    return len(task_id) == ID_BYTES and task_id[6] >> 4 == 8 and task_id[8] >> 6 == 2


def to_text(task_id: bytes) -> str:
    """The id as users see it."""
    h = task_id.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def from_text(text: str) -> bytes | None:
    """The id's bytes, or None where the text is not a stamp (a custom id, or another system's UUID)."""
    try:
        raw = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        return None
    return raw if is_stamp(raw) and to_text(raw) == text.lower() else None
