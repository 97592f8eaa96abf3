"""What is measured, and the same way for every system. `cases` says what the figures are called and limited to."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from bench.figures import percentile
from bench.marks import new_marks, wait_for_marks
from bench.process_facts import cpu_ns, descriptors, pss_bytes, wake_ups
from bench.sizes import RESIDENT_TASKS, Sizes
from bench.systems import protocol
from bench.systems.protocol import Pids, Role

#: {metric: value}, in the unit that `cases` gives the metric.
Figures: TypeAlias = dict[str, float]

_MIB = 1 << 20


def sequential(system: protocol.Caller, sizes: Sizes, scratch: Path) -> Figures:
    """Latency of a call whose result is awaited before the next call, µs; CPU per call by role, µs."""
    took_us: list[float] = []

    def run() -> None:
        for number in range(sizes.sequential_calls):
            begun_s = time.perf_counter()
            system.call(number, 2)
            took_us.append((time.perf_counter() - begun_s) * 1e6)

    cpu = _cpu_us(system, sizes, sizes.sequential_calls, run)
    return {"p50": percentile(took_us, 50), "p99": percentile(took_us, 99), **cpu}


def loop(system: protocol.Caller, sizes: Sizes, scratch: Path) -> Figures:
    """Small tasks per second called one by one, all results with the client; CPU per task by role, µs."""
    return _throughput(system, sizes, system.loop)


def batch(system: protocol.Batcher, sizes: Sizes, scratch: Path) -> Figures:
    """Small tasks per second called in batches, all results with the client; CPU per task by role, µs."""
    return _throughput(system, sizes, system.batch)


def submit(system: protocol.Submitter, sizes: Sizes, scratch: Path) -> Figures:
    """Tasks per second until the system has taken them all over (mesh: confirmed at the default level)."""
    took_s = _seconds(lambda: system.submit(sizes.tasks))
    system.finish()
    return {"rate": sizes.tasks / took_s}


def forget(system: protocol.Forgetter, sizes: Sizes, scratch: Path) -> Figures:
    """Tasks per second without results, until all have run."""
    marks = new_marks(scratch / "forget")
    return {"rate": sizes.tasks / _seconds(lambda: system.forget(sizes.tasks, marks))}


def gather(system: protocol.Caller, sizes: Sizes, scratch: Path) -> Figures:
    """Many calls and the sum of their results, s. Raises ValueError where the sum is wrong."""
    begun_s = time.perf_counter()
    total = sum(system.gather(sizes.gather_calls))
    took_s = time.perf_counter() - begun_s
    if total != sizes.gather_calls * (sizes.gather_calls - 1):
        raise ValueError(f"the sum of {sizes.gather_calls} results is {total}")
    return {"time": took_s}


def echo(system: protocol.Caller, sizes: Sizes, scratch: Path) -> Figures:
    """MiB/s of bodies that go out and come back, each counted once."""
    body = bytes(sizes.echo_bytes)
    took_s = _seconds(lambda: system.echo(body, sizes.echoes, sizes.echoes_in_flight))
    return {"rate": sizes.echoes * sizes.echo_bytes / _MIB / took_s}


def cold(system: protocol.ColdStarter, sizes: Sizes, scratch: Path) -> Figures:
    """From nothing running to the first result, s."""
    return {"time": system.cold_start()}


def kit(system: protocol.Tested, sizes: Sizes, scratch: Path) -> Figures:
    """A router and a node in this process, from nothing to nothing, with one call: the first, and the median, ms."""
    first_s, *took_s = [_seconds(system.in_process) for _ in range(1 + sizes.kit_workers)]
    return {"time": median(took_s) * 1e3, "first": first_s * 1e3}


def node(system: protocol.Tested, sizes: Sizes, scratch: Path) -> Figures:
    """A node process, and the router that it starts, from nothing until it is ready, ms."""
    return {"time": system.node_process() * 1e3}


def idle(system: protocol.System, sizes: Sizes, scratch: Path) -> Figures:
    """MiB of PSS and wake-ups per second, by role, of a started system that nobody uses.

    `pss` leaves out the client. The benchmark's own two processes share the interpreter's pages with the system; the
    client's wake-ups include one for each watch.
    """
    pids = system.pids()
    time.sleep(sizes.idle_settle_s)
    before = _sums(pids, wake_ups)
    time.sleep(sizes.idle_watch_s)
    woken = {role: count - before[role] for role, count in _sums(pids, wake_ups).items()}
    memory = {role: held / _MIB for role, held in _sums(pids, pss_bytes).items() if role is not Role.CLIENT}
    return {
        "pss": sum(memory.values()),
        **{f"pss_{role}": mib for role, mib in memory.items()},
        **{f"wake_{role}": count / sizes.idle_watch_s for role, count in woken.items()},
    }


def memory(system: protocol.Hoarder, sizes: Sizes, scratch: Path) -> Figures:
    """Bytes of router PSS per queued task beyond its body, while all are resident and at the end; how long a router
    takes that finds them in the journal of one that was killed; then the drain.
    """
    marks = new_marks(scratch / "memory")
    router = system.start_router(marks)
    resident = min(sizes.queued_tasks, RESIDENT_TASKS)
    empty_bytes = _settled_pss(router, sizes)
    fill_s = _seconds(lambda: system.hoard(resident, marks))
    resident_bytes = _settled_pss(router, sizes) - empty_bytes
    fill_s += _seconds(lambda: system.hoard(sizes.queued_tasks - resident, marks))
    all_bytes = _settled_pss(router, sizes) - empty_bytes
    recover_s = _seconds(system.replace_router)
    drain_s = _seconds(lambda: _drain(system, sizes, marks))
    body_bytes = system.body_bytes(marks)
    return {
        "resident": resident_bytes / resident - body_bytes,
        "all": all_bytes / sizes.queued_tasks - body_bytes,
        "router": (empty_bytes + all_bytes) / _MIB,
        "fill_rate": sizes.queued_tasks / fill_s,
        "recover": recover_s,
        "drain": drain_s,
        "drain_rate": sizes.queued_tasks / drain_s,
    }


def soak(system: protocol.Soaked, sizes: Sizes, scratch: Path) -> Figures:
    """By how much the greatest of each figure in the second half of many tasks exceeds that in the first.

    In the first half the router fills the room that it has for outcomes, and their tables grow as large as they get.
    """
    pids = system.pids()
    looks, took_s = [], 0.0
    for _ in range(sizes.soak_tasks // sizes.tasks):
        took_s += _seconds(lambda: system.loop(sizes.tasks))
        looks.append(_look(system, sizes, pids))
    first, second = looks[: len(looks) // 2], looks[len(looks) // 2 :]
    most = {key: max(look[key] for look in second) for key in looks[0]}
    grown = {key: most[key] - max(look[key] for look in first) for key in looks[0]}
    return {"rate": sizes.soak_tasks / took_s, **grown, **{f"{key}_most": most[key] for key in ("pss_router", "disk")}}


def _look(system: protocol.Soaked, sizes: Sizes, pids: Pids) -> Figures:
    time.sleep(sizes.cpu_settle_s)
    files = system.files()
    pss = {f"pss_{role}": mib / _MIB for role, mib in _sums(pids, pss_bytes).items()}
    return {
        **pss,
        "descriptors": sum(_sums(pids, descriptors).values()),
        "files": len(files),
        "disk": sum(path.stat().st_size for path in files) / _MIB,
    }


def fairness(system: protocol.Napper, sizes: Sizes, scratch: Path) -> Figures:
    """One long task, then many short ones: until the short ones are done, s."""
    took_s = _seconds(lambda: system.naps(sizes.long_nap_s, sizes.short_nap_s, sizes.short_naps))
    system.finish()
    return {"time": took_s}


#: By the name that `cases` and the driver's requests use. Which protocol an operation needs is in its signature.
OPERATIONS: dict[str, Callable[[Any, Sizes, Path], Figures]] = {
    operation.__name__: operation
    for operation in (
        *(sequential, loop, batch, submit, forget, gather),
        *(echo, cold, kit, node, idle, memory, soak, fairness),
    )
}


def _seconds(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def _throughput(system: protocol.System, sizes: Sizes, run: Callable[[int], None]) -> Figures:
    took_s: list[float] = []
    cpu = _cpu_us(system, sizes, sizes.tasks, lambda: took_s.append(_seconds(lambda: run(sizes.tasks))))
    return {"rate": sizes.tasks / took_s[0], **cpu}


def _cpu_us(system: protocol.System, sizes: Sizes, tasks: int, work: Callable[[], None]) -> Figures:
    """CPU that `work` takes for each of its tasks, in all processes, also after its end: in all and by role, µs."""
    pids = system.pids()
    before = _sums(pids, cpu_ns)
    work()
    time.sleep(sizes.cpu_settle_s)
    used_us = {role: (used - before[role]) / 1e3 / tasks for role, used in _sums(pids, cpu_ns).items()}
    return {"cpu": sum(used_us.values()), **{f"cpu_{role}": us for role, us in used_us.items()}}


def _sums(pids: Pids, of: Callable[[int], int]) -> dict[Role, int]:
    return {role: sum(of(pid) for pid in group) for role, group in pids.items()}


def _settled_pss(pid: int, sizes: Sizes) -> int:
    time.sleep(sizes.idle_settle_s)
    return pss_bytes(pid)


def _drain(system: protocol.Hoarder, sizes: Sizes, marks: Path) -> None:
    system.start_node()
    wait_for_marks(marks, sizes.queued_tasks, sizes.operation_timeout_s)
