"""Whether a slot was ended for want of memory: what the kernel writes, and what it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh import oom
from mesh.oom import Cgroup, OutOfMemory
from tests.edges.cgroup import small_cgroup

GIB = 1 << 30
KILLED = int(signal.SIGKILL)

V2 = "26 20 0:24 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 master:1 - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
IN_V1 = "4:memory:/jobs/a\n3:cpuset:/\n1:name=systemd:/x\n0::/\n"


@pytest.mark.parametrize(
    ("desc", "cgroup", "mountinfo", "found"),
    [
        (
            "version 2",
            "0::/user.slice/mesh.service\n",
            V2,
            (2, ["/sys/fs/cgroup/user.slice/mesh.service", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup"]),
        ),
        (
            "version 1, beside a version 2 that counts no memory",
            IN_V1,
            V1,
            (1, ["/sys/fs/cgroup/memory/jobs/a", "/sys/fs/cgroup/memory/jobs", "/sys/fs/cgroup/memory"]),
        ),
        ("a container with a namespace of its own", "0::/\n", V2, (2, ["/sys/fs/cgroup"])),
        (
            "a container that sees its own part alone",
            "0::/docker/ab12/w\n",
            "26 20 0:24 /docker/ab12 /sys/fs/cgroup ro - cgroup2 cgroup ro\n",
            (2, ["/sys/fs/cgroup/w", "/sys/fs/cgroup"]),
        ),
        (
            "a container that is told a path outside of what it sees",
            "0::/../ab13/w\n",
            "26 20 0:24 /docker/ab1 /sys/fs/cgroup ro - cgroup2 cgroup ro\n",
            (2, ["/sys/fs/cgroup"]),
        ),
        (
            "a path that only begins like what is mounted",
            "0::/docker/ab12\n",
            "26 20 0:24 /docker/ab1 /sys/fs/cgroup ro - cgroup2 cgroup ro\n",
            (2, ["/sys/fs/cgroup"]),
        ),
        (
            "controllers that share a hierarchy, in a folder with a space",
            "4:cpu,memory:/a:b\n",
            "35 31 0:32 / /sys/my\\040cgroups rw - cgroup cgroup rw,cpu,memory\n",
            (1, ["/sys/my cgroups/a:b", "/sys/my cgroups"]),
        ),
        ("no cgroup is mounted", "0::/\n", "31 23 0:28 / /sys rw - tmpfs tmpfs rw\n", None),
        ("memory is counted where nothing is mounted", "4:memory:/\n", V2, None),
        ("nothing can be read", "", "", None),
        ("lines that are cut off", "0:\n4:mem\n", "26 20 0:24 /\n26 20 0:24 / /x rw - cgroup2\n", None),
    ],
)
def test_the_cgroup_of_a_process_is_found(desc: str, cgroup: str, mountinfo: str, found: Any) -> None:
    assert oom.find(cgroup, mountinfo) == (None if found is None else Cgroup(found[0], tuple(found[1]))), desc


def test_a_cgroup_of_each_version_has_its_own_files() -> None:
    first, second = Cgroup(1, ("/m/a", "/m")), Cgroup(2, ("/c/a", "/c"))

    assert (first.count_path, second.count_path) == ("/m/a/memory.oom_control", "/c/a/memory.events")
    assert first.limit_paths == ["/m/a/memory.limit_in_bytes", "/m/memory.limit_in_bytes"]
    assert second.limit_paths == ["/c/a/memory.max", "/c/memory.max"]


@pytest.mark.parametrize(
    ("desc", "text", "count"),
    [
        ("version 2", "low 0\nhigh 0\nmax 31\noom 2\noom_kill 3\noom_group_kill 0\n", 3),
        ("version 1", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", 7),
        ("the machine", "pgfault 5\noom_kill 12\ncompact_stall 0\n", 12),
        ("a kernel that does not count", "oom_kill_disable 0\nunder_oom 0\n", None),
        ("no number", "oom_kill many\n", None),
        ("nothing", "", None),
    ],
)
def test_kills_are_read_from_what_counts_them(desc: str, text: str, count: int | None) -> None:
    assert oom.kills(text) == count, desc


@pytest.mark.parametrize(("text", "n_bytes"), [("1073741824\n", GIB), ("max\n", None), ("-1\n", None), ("", None)])
def test_a_limit_is_read_in_bytes(text: str, n_bytes: int | None) -> None:
    assert oom.limit(text) == n_bytes


MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("peak_mib", "limits", "said"),
    [
        (812, [GIB], "it had 812 MiB; the cgroup allows 1.0 GiB"),
        (1024, [GIB, GIB // 2], "it had 1.0 GiB; the cgroup allows 512 MiB"),
        (1, [], f"it had 1 MiB; the machine has {MACHINE / GIB:.1f} GiB"),
        # What version 1 says where there is no limit.
        (1, [9223372036854771712], f"it had 1 MiB; the machine has {MACHINE / GIB:.1f} GiB"),
    ],
)
def test_the_cause_names_what_it_had_and_what_is_allowed(peak_mib: int, limits: list[int], said: str) -> None:
    assert oom.in_words(peak_mib << 10, limits) == f"killed by the kernel: out of memory ({said})"


# --- deaths, one after the other -------------------------------------------------------------------


class Kernel:
    """Plays a cgroup of version 2 with a limit of 1 GiB, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.events = folder / "memory.events"
        self.proc = folder / "proc"
        self.proc.mkdir()
        (self.proc / "cgroup").write_text("0::/\n")
        (self.proc / "mountinfo").write_text(f"26 20 0:24 / {folder} rw - cgroup2 cgroup2 rw\n")
        (folder / "memory.max").write_text(f"{GIB}\n")
        self.counts(0)

    def counts(self, kills: int) -> None:
        self.events.write_text(f"oom 9\noom_kill {kills}\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


SAID = "killed by the kernel: out of memory (it had 812 MiB; the cgroup allows 1.0 GiB)"


def test_each_kill_that_is_counted_explains_one_death(kernel: Kernel) -> None:
    # Given a cgroup in which processes were killed before
    kernel.counts(3)
    watch = OutOfMemory(str(kernel.proc))

    # When a slot is killed by somebody, then two by the kernel at once, then one by somebody
    first = watch.cause(KILLED, 812 << 10)
    kernel.counts(5)
    others = [watch.cause(KILLED, 812 << 10) for _ in range(3)]

    # Then two deaths are explained
    assert (first, others) == (None, [SAID, SAID, None])


@pytest.mark.parametrize("status", [0, 1 << 8, int(signal.SIGSEGV), int(signal.SIGTERM)])
def test_what_the_kernel_did_not_kill_was_not_killed_for_want_of_memory(kernel: Kernel, status: int) -> None:
    # Given a task whose own child was killed for want of memory
    watch = OutOfMemory(str(kernel.proc))
    kernel.counts(1)

    # When its slot ends otherwise, and the next one is killed by somebody
    causes = [watch.cause(status, 812 << 10), watch.cause(KILLED, 812 << 10)]

    # Then neither is explained by that
    assert causes == [None, None]


def test_who_has_no_cgroup_is_told_of_the_machine(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a process of the root cgroup, which counts nothing
    (kernel.proc / "mountinfo").write_text("")
    monkeypatch.setattr(oom, "_MACHINE", str(kernel.events))
    watch = OutOfMemory(str(kernel.proc))

    # When the machine runs out of memory
    kernel.counts(1)

    # Then that is told
    assert f"the machine has {MACHINE / GIB:.1f} GiB" in str(watch.cause(KILLED, 812 << 10))


def test_where_nothing_can_be_read_nothing_is_said(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oom, "_MACHINE", str(kernel.events))
    kernel.events.unlink()
    watch = OutOfMemory(str(kernel.proc))
    assert watch.cause(KILLED, 812 << 10) is None

    # And a count that comes to be later says nothing of what was before
    kernel.counts(1)
    assert watch.cause(KILLED, 812 << 10) is None


# --- a real one ------------------------------------------------------------------------------------

LIMIT = 96 << 20

#: Joins a cgroup as a supervisor that was started in it, and forks a child that wants more than there is.
HUNGRY = """
import os, sys
from mesh.oom import OutOfMemory
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
watch = OutOfMemory()
def death(of):
    pid = os.fork()
    if not pid:
        of()
    _, status, usage = os.wait4(pid, 0)
    print(watch.cause(status, usage.ru_maxrss))
def eats():
    bytearray(1 << 30)
    os._exit(0)
death(eats)
death(lambda: os.kill(os.getpid(), 9))
"""


@pytest.mark.root
def test_the_kernels_own_kill_is_told_with_its_figures() -> None:
    # When a process wants more than its cgroup has, and a second one is killed by hand
    with small_cgroup(LIMIT) as folder:
        command = [sys.executable, "-c", HUNGRY, str(folder / "cgroup.procs")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)

    # Then the first alone was killed for want of memory
    first, second = ended.stdout.splitlines()
    assert first.startswith("killed by the kernel: out of memory (it had "), ended
    assert first.endswith(" MiB; the cgroup allows 96 MiB)")
    assert second == "None"
