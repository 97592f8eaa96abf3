"""A real cgroup with little memory, for tests that run out of it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import oom


@contextlib.contextmanager
def small_cgroup(limit_bytes: int) -> Iterator[Path]:
    """The folder of a cgroup of the version that counts memory here. Skips where the machine lets nobody make one."""
    here = oom.find(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    if here is None:
        pytest.skip("needs a cgroup that counts memory")
    root = Path(here.folders[-1])
    folder = root / f"mesh-test-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"needs to make a cgroup in {root}: {error.strerror}")
    try:
        limit = folder / oom._FILES[here.version][1]
        if not limit.exists():
            pytest.skip(f"needs the memory controller in {root}/cgroup.subtree_control")
        limit.write_text(str(limit_bytes))
        yield folder
    finally:
        folder.rmdir()
