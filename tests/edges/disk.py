"""A disk that fails, waits or remembers as it is told, and what a crash could have left on it."""

import json
import mmap
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0

#: As `struct head` of the shim.
HEAD = struct.Struct("<cHHQQ")
SECTOR = 512


class Control:
    """The numbers that the shim looks at. Of the process under test, or of the one that tests it."""

    _FIELDS = ("write_errno", "sync_errno", "syncs_wait", "syncs_begun")

    def __init__(self, path: str | Path) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)

    def __getitem__(self, field: str) -> int:
        number: int = struct.unpack_from("=i", self._map, 4 * self._FIELDS.index(field))[0]
        return number

    def __setitem__(self, field: str, number: int) -> None:
        struct.pack_into("=i", self._map, 4 * self._FIELDS.index(field), number)

    def close(self) -> None:
        self._map.close()


class Disk:
    """A directory, and programs that are run on it below the shim."""

    def __init__(self, shim: Path, tmp_path: Path) -> None:
        self.directory = tmp_path / "state"
        self.trace = tmp_path / "trace"
        self.control_path = tmp_path / "control"
        self.control_path.write_bytes(bytes(16))
        self.trace.write_bytes(b"")
        self.control = Control(self.control_path)
        self._environment = {
            **os.environ,
            "LD_PRELOAD": str(shim),
            "DISK_DIRECTORY": str(self.directory),
            "DISK_CONTROL": str(self.control_path),
            "DISK_TRACE": str(self.trace),
        }

    def run(self, program: str, *arguments: str) -> Any:
        """What a program of `journal_programs` prints."""
        line = [sys.executable, "-m", "tests.edges.journal_programs", program, str(self.directory), *arguments]
        ended = subprocess.run(
            line, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    def operations(self) -> list["Operation"]:
        return list(read_trace(self.trace.read_bytes()))

    def close(self) -> None:
        self.control.close()


class Operation(NamedTuple):
    """One thing that was done to the disk, or a mark that the program has set."""

    #: W write, T truncate, S sync, C create, U unlink, R rename; B commit begun, A commit acknowledged
    kind: str
    path: str
    second: str
    offset: int  #: of a write; the new size; of a mark: what it says
    data: bytes


def read_trace(raw: bytes) -> Iterator[Operation]:
    at = 0
    while at < len(raw):
        kind, name, second, offset, length = HEAD.unpack_from(raw, at)
        ends = [at + HEAD.size, at + HEAD.size + name, at + HEAD.size + name + second]
        at = ends[2] + length
        yield Operation(
            kind.decode(), raw[ends[0] : ends[1]].decode(), raw[ends[1] : ends[2]].decode(), offset, raw[ends[2] : at]
        )


def mark(trace_fd: int, kind: str, number: int) -> None:
    """Sets a mark in the trace."""
    os.write(trace_fd, HEAD.pack(kind.encode(), 0, 0, number, 0))


# --- what a crash leaves -------------------------------------------------------------------------


class Inode:
    """What a file holds for sure, and what was done to it since its last sync."""

    def __init__(self, synced: bytes = b"") -> None:
        self.synced = synced
        self.pending: list[Operation] = []

    def content(self, pending: list[Operation]) -> bytes:
        held = bytearray(self.synced)
        for operation in pending:
            if operation.kind == "T":
                size = operation.offset
                held[size:] = bytes(max(0, size - len(held)))
            else:
                end = operation.offset + len(operation.data)
                held.extend(bytes(max(0, end - len(held))))
                held[operation.offset : end] = operation.data
        return bytes(held)


class Crash:
    """The disk after some operations: what every process sees, and what is there for sure."""

    def __init__(self, directory: str, there: Mapping[str, bytes] | None = None) -> None:
        self._directory = directory
        #: {path: file}, as processes see it. What is there at the start is there for sure.
        self.names = {path: Inode(content) for path, content in (there or {}).items()}
        #: The same as of the last sync of the directory.
        self.synced_names = dict(self.names)

    def apply(self, operation: Operation) -> None:
        kind, path = operation.kind, operation.path
        if kind == "C":
            self.names[path] = Inode()
        elif kind == "U":
            self.names.pop(path, None)
        elif kind == "R":
            self.names[operation.second] = self.names.pop(path)
        elif kind == "S" and path == self._directory:
            self.synced_names = dict(self.names)
        elif kind == "S":
            inode = self.names[path]
            inode.synced, inode.pending = inode.content(inode.pending), []
        elif kind in "WT":
            self.names[path].pending.append(operation)

    def files(self, variant: str, chance: random.Random) -> dict[str, bytes]:
        """{path: content} after a crash of this kind."""
        names = self.synced_names if variant == "dropped, names too" else self.names
        return {path: VARIANTS[variant](inode, chance) for path, inode in names.items()}


def _kept(inode: Inode, chance: random.Random) -> bytes:
    return inode.content(inode.pending)


def _dropped(inode: Inode, chance: random.Random) -> bytes:
    return inode.synced


def _torn(inode: Inode, chance: random.Random) -> bytes:
    """Some operations are there, half of the next, and no more."""
    until = chance.randint(0, len(inode.pending))
    pending = inode.pending[:until]
    if until < len(inode.pending) and inode.pending[until].kind == "W":
        pending.append(_half(inode.pending[until]))
    return inode.content(pending)


def _half(write: Operation) -> Operation:
    half = len(write.data) // 2
    return write._replace(data=write.data[: half // SECTOR * SECTOR or half])


def _some(inode: Inode, chance: random.Random) -> bytes:
    """Any of the operations are there: the system writes in whatever order it likes."""
    return inode.content([operation for operation in inode.pending if chance.random() < 0.5])


def _flipped(inode: Inode, chance: random.Random) -> bytes:
    """All is there, with a bit or two of what was not synced the other way round."""
    return inode.content([_with_a_flip(operation, chance) for operation in inode.pending])


def _with_a_flip(operation: Operation, chance: random.Random) -> Operation:
    if not operation.data or chance.random() < 0.5:
        return operation
    data = bytearray(operation.data)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return operation._replace(data=bytes(data))


#: {what happens to that which was not synced: how}
VARIANTS: dict[str, Callable[[Inode, random.Random], bytes]] = {
    "kept": _kept,
    "dropped": _dropped,
    "dropped, names too": _dropped,
    "torn": _torn,
    "some": _some,
    "flipped": _flipped,
}
