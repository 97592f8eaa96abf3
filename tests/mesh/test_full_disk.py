"""A mesh whose disk is full for a while: calls are refused with a reason, all else goes on, and it mends itself."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import Mesh, locate
from mesh.exceptions import JournalUnavailable
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, eventually

DISK_BYTES = 24 << 20


@pytest.fixture
def mesh_dir() -> Iterator[Path]:
    """The directory of a mesh on a small disk of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    directory = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", directory], check=True)
    yield directory
    place = locate.locate(f"mesh://{directory}")
    if pid := locate.router_pid(place):
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: locate.router_pid(place) is None)
    subprocess.run(["umount", "--lazy", directory], check=True)
    directory.rmdir()


def fill(ballast: Path) -> None:
    """Leaves no room on the disk."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@pytest.mark.root
def test_a_full_disk_refuses_calls_and_loses_nothing(host: Host, app: Mesh, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app.conf, "publish_timeout", 1.0)
    # Given a mesh with waiting calls, on a disk that is full from now on
    host.start_node(slots=1, queues="fast")
    waiting = [tasks.add.apply_async((number, 1), queue="fast", countdown=2) for number in range(10)]
    assert waiting[-1].confirmed(DEADLINE_S)
    fill(host.directory / "ballast")

    # When calls are made that are to be journaled
    taken_and_delayed = []

    def refused() -> str:
        try:
            tasks.echo.apply_async((os.urandom(1 << 16),), confirm=True)
        except JournalUnavailable as error:
            return str(error)
        except TimeoutError as error:
            taken_and_delayed.append(str(error))
        return ""

    said = eventually(refused)

    # Then the first may have to wait, and is told so; the others are refused
    assert all("can't journal it now" in one for one in taken_and_delayed)

    # And the error says what to do; calls without durability are taken, and run, as what waited does
    assert "no space left" in said.lower() or "full" in said.lower()
    assert "durability='none'" in said
    assert tasks.add.apply_async((20, 22), queue="fast", durability="none").get(DEADLINE_S) == 42
    assert [result.get(DEADLINE_S) for result in waiting] == [number + 1 for number in range(10)]

    # And when there is room again, it goes on by itself
    (host.directory / "ballast").unlink()

    def taken() -> bool:
        try:
            result = tasks.add.apply_async((1, 1), queue="fast", confirm=True)
        except JournalUnavailable:
            return False
        return result.durability == "journaled" and result.get(DEADLINE_S) == 2

    assert eventually(taken)


@pytest.mark.root
def test_a_program_that_never_looks_at_its_results_hears_that_the_disk_is_full(host: Host, app: Mesh):
    # Given a router whose disk is full from now on
    assert tasks.echo.apply_async((1,), confirm=True).durability == "journaled"
    fill(host.directory / "ballast")

    # When a program calls, and ends
    said = host.run_script("import os; from tests.mesh.proj import tasks; tasks.echo.delay(os.urandom(1 << 16))")

    # Then it was told why its call may not last
    assert "a call can't be journaled yet: " in said or "a call was refused: " in said
    assert "full" in said
