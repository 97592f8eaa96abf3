"""Letting another user run this Python and this checkout, though they lie in a home that is closed to others."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tests.mesh.running import ROOT


def by_everybody() -> list[str]:
    """What to put before a command so that every user can read what it needs, and nothing is changed. For root.

    In mounts of the command's own, empty directories stand in for the closed ones, with what is needed below them.
    """
    needed = {Path(sys.base_prefix), Path(sys.prefix), ROOT}
    closed = {above for path in needed for above in path.parents if not above.stat().st_mode & 0o001}
    hidden = sorted(path for path in needed if closed.intersection(path.parents))
    lines = ["set -e", "mount -t tmpfs none /mnt"]
    for number, path in enumerate(hidden):
        lines += [f"mkdir /mnt/{number}", f"mount --bind {shlex.quote(str(path))} /mnt/{number}"]
    lines += [
        f"mount -t tmpfs -o mode=755 none {shlex.quote(str(path))}" for path in closed if _is_topmost(path, closed)
    ]
    for number, path in enumerate(hidden):
        lines += [f"mkdir -p {shlex.quote(str(path))}", f"mount --bind /mnt/{number} {shlex.quote(str(path))}"]
    lines += [f"cd {shlex.quote(str(ROOT))}", 'exec "$@"']
    return ["unshare", "--mount", "sh", "-c", "; ".join(lines), "sh"]


def _is_topmost(path: Path, closed: set[Path]) -> bool:
    return not closed.intersection(path.parents)
