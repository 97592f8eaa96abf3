"""Whether the kernel ended a slot for want of memory: its cgroup counts that, and `wait4` tells what the slot had.

The kernel counts a kill before it sends the signal, so the count is there when the process can be reaped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Final, NamedTuple

#: {version: (file that counts, file with the limit)}. Both count since Linux 4.13, and slots need 5.3 for their pidfds.
_FILES: Final = {1: ("memory.oom_control", "memory.limit_in_bytes"), 2: ("memory.events", "memory.max")}
#: Counts for the whole machine; for who is in the root cgroup, which has no count of its own.
_MACHINE: Final = "/proc/vmstat"


class Cgroup(NamedTuple):
    """The cgroup that counts the memory of a process."""

    version: int
    folders: tuple[str, ...]  #: its own first, then those above it, whose limits hold too

    @property
    def count_path(self) -> str:
        """The file that counts kills in it, and in those below."""
        return os.path.join(self.folders[0], _FILES[self.version][0])

    @property
    def limit_paths(self) -> list[str]:
        """The files with the limits that hold for it."""
        return [os.path.join(folder, _FILES[self.version][1]) for folder in self.folders]


class OutOfMemory:
    """Tells of each death of a slot whether the kernel ended it for want of memory, as far as can be read."""

    def __init__(self, proc: str = "/proc/self") -> None:
        """To be made in the supervisor before its slots are forked: they are in its cgroup."""
        self._cgroup = find(_read(f"{proc}/cgroup"), _read(f"{proc}/mountinfo"))
        #: Kills that have been told, or were there before; None where nothing counts them.
        self._told = self._count()

    def cause(self, status: int, peak_kib: int) -> str | None:
        """What to say of a process that ended so and had so much memory; None where it was not for want of that."""
        count = self._count()
        if count is None or self._told is None:
            return None
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and count > self._told:
            self._told += 1  # and not `count`: several slots may have been killed, and each is told by itself
            return in_words(peak_kib, self._limits())
        self._told = count
        return None

    def _count(self) -> int | None:
        count = kills(_read(self._cgroup.count_path)) if self._cgroup is not None else None
        return kills(_read(_MACHINE)) if count is None else count

    def _limits(self) -> list[int]:
        if self._cgroup is None:
            return []
        found = (limit(_read(path)) for path in self._cgroup.limit_paths)
        return [one for one in found if one is not None]


# --- texts of the kernel ----------------------------------------------------------------------------


def find(cgroup: str, mountinfo: str) -> Cgroup | None:
    """Where the memory of a process is counted, from its /proc/PID/cgroup and /proc/PID/mountinfo."""
    mounts = [_mount(line) for line in mountinfo.splitlines()]
    # Where there are both versions, memory is counted by the first one that has it.
    for version, controllers, path in sorted(_memberships(cgroup)):
        if version == 1 and "memory" not in controllers:
            continue
        for mount in mounts:
            if mount is not None and _counts_memory(mount, version):
                return Cgroup(version, tuple(_folders(mount, path)))
    return None


class _Mount(NamedTuple):
    root: str  #: the path of the cgroup that is mounted
    point: str
    kind: str
    options: frozenset[str]


def _mount(line: str) -> _Mount | None:
    """One line of mountinfo: two ids, device, root, mount point, options, tags, `-`, type, source, its own options."""
    before, separator, after = line.partition(" - ")
    fields, more = before.split(), after.split()
    if not separator or len(fields) < 5 or len(more) < 3:
        return None
    return _Mount(_unescaped(fields[3]), _unescaped(fields[4]), more[0], frozenset(more[2].split(",")))


def _unescaped(path: str) -> str:
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        path = path.replace(code, character)
    return path


def _counts_memory(mount: _Mount, version: int) -> bool:
    return mount.kind == "cgroup2" if version == 2 else mount.kind == "cgroup" and "memory" in mount.options


def _memberships(cgroup: str) -> Iterable[tuple[int, list[str], str]]:
    """(version, controllers, path) of each line `number:controllers:path`."""
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            yield (2 if number == "0" and not controllers else 1), controllers.split(","), path


def _folders(mount: _Mount, path: str) -> Iterable[str]:
    """The folder of a cgroup and those above it, as far as they are mounted.

    In a container the path may lie outside of what is mounted: then that is the container's own.
    """
    root = mount.root.rstrip("/")
    inside = path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else ""
    parts = [part for part in inside.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield os.path.join(mount.point, *parts[:depth])


def kills(text: str) -> int | None:
    """How many processes were killed, from memory.events, memory.oom_control or vmstat; None where it does not say."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.isdecimal():
            return int(number)
    return None


def limit(text: str) -> int | None:
    """Bytes, from memory.max or memory.limit_in_bytes; None for no limit."""
    number = text.strip()
    return int(number) if number.isdecimal() else None


def in_words(peak_kib: int, limits: Iterable[int]) -> str:
    """`killed by the kernel: out of memory (it had 812 MiB; the cgroup allows 1.0 GiB)`."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed = min(limits, default=machine)
    room = f"the cgroup allows {_size(allowed)}" if allowed < machine else f"the machine has {_size(machine)}"
    return f"killed by the kernel: out of memory (it had {_size(peak_kib << 10)}; {room})"


def _size(n_bytes: int) -> str:
    mib = n_bytes / (1 << 20)
    return f"{mib:.0f} MiB" if mib < 1023.5 else f"{mib / 1024:.1f} GiB"


def _read(path: str) -> str:
    """The text of a small file; empty where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
