"""What a router finds when it starts: its state directory, the journal in it, and what the slot pages of nodes say."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from mesh import locate, slot_page
from mesh.core.crew import WITHDRAWN_AT_START
from mesh.core.recovery import Pages, SlotRecord, pages_of
from mesh.ids import OWNER_TAG_BYTES
from mesh.journal import AnyJournal, Journal, MemoryJournal

logger = logging.getLogger(__name__)

#: What the journal remembers of the host's start in which it was written last.
_BOOT_ID: Final = "boot_id"


class Inheritance(NamedTuple):
    """What an earlier router has left."""

    owner_tag: bytes
    journal: AnyJournal
    pages: Pages


def inherit(place: locate.Place, *, journaled: bool, notify: Callable[[], None]) -> Inheritance:
    """Opens it all. For the router that holds the place's lock.

    Raises:
        RouterNotPermitted: the state directory can't be used.
        NewerJournal, JournalUnavailable: the journal can't be.
    """
    directory = locate.prepare_state(place)
    tag = _owner_tag(directory)
    if not journaled:
        return Inheritance(tag, MemoryJournal(notify), _pages(place, same_boot=False))
    journal = Journal.open(directory, notify)
    if journal.damage is not None:
        logger.error("%s", journal.damage, extra={"action": "journal_damaged"})
    boot = locate.boot_id()
    same_boot = journal.store.get_meta(_BOOT_ID) == boot
    if not same_boot:
        journal.remember(_BOOT_ID, boot)
    return Inheritance(tag, journal, _pages(place, same_boot=same_boot))


def _owner_tag(directory: str) -> bytes:
    """The tag of all ids that are confirmed here: made once, kept beside the journal."""
    path = os.path.join(directory, "owner.tag")
    try:
        with open(path, "rb") as file:
            tag = file.read(OWNER_TAG_BYTES + 1)
        if len(tag) == OWNER_TAG_BYTES:
            return tag
    except FileNotFoundError:
        pass
    tag = os.urandom(OWNER_TAG_BYTES)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(tag)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return tag


def _pages(place: locate.Place, *, same_boot: bool) -> Pages:
    """What was begun, after nothing more can begin that the earlier router has granted."""
    pages = locate.pages(place.directory)
    withdrawn = slot_page.withdraw_all(pages, WITHDRAWN_AT_START)
    records = []
    for path, node_pid in pages.items():
        for one in slot_page.beginnings_of(path):
            upto = withdrawn[path][one.slot] if path in withdrawn else 0
            alive = path in withdrawn and _is_slot_of(one.pid, node_pid)
            records.append(SlotRecord("", one.slot, one.pid, alive, path, upto, one.begun))
    keepers = {path: node_pid if os.path.exists(f"/proc/{node_pid}") else None for path, node_pid in pages.items()}
    return pages_of(records, are_complete=same_boot, keepers=keepers)


def _is_slot_of(pid: int, node_pid: int) -> bool:
    """Whether this process lives and is of that node: pids are used again.

    A slot is its grandchild, by way of its template, or runs in its child, or in the node itself.
    """
    parent = _parent(pid)
    return parent is not None and (node_pid in (pid, parent) or _parent(parent) == node_pid)


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else int(parent)
