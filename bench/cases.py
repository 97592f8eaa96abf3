"""What is compared with what: the cases, who takes part in each, and the names and limits of the figures."""

from dataclasses import dataclass, field

from bench.budgets import Budget, Sense

_MOST = Sense.AT_MOST
_LEAST = Sense.AT_LEAST


@dataclass(frozen=True, slots=True)
class Entrant:
    """A system in a case, by the label under which it is shown, and the operation that measures it."""

    label: str
    system: str
    operation: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that the operations of a case return: its key there, its unit and its name in the table."""

    key: str
    unit: str
    title: str
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A row or several of the table. The first entrant is mesh, the others are its floors."""

    name: str
    title: str
    entrants: tuple[Entrant, ...]
    metrics: tuple[Metric, ...]
    #: Each measurement has a driver of its own with no other system running; else all are started once and take turns.
    alone: bool = field(default=False, kw_only=True)
    #: Whether the systems are started (and warm) before they are measured.
    started: bool = field(default=True, kw_only=True)
    #: For figures that hardly vary and take long.
    most_rounds: int = field(default=1_000, kw_only=True)


def _all(operation: str, *systems: str) -> tuple[Entrant, ...]:
    return tuple(Entrant(system, system, operation) for system in systems)


def _cpu(client: Budget | None = None, router: Budget | None = None, slot: Budget | None = None) -> tuple[Metric, ...]:
    return (
        Metric("cpu", "µs", "CPU a task"),
        Metric("cpu_client", "µs", "CPU a task, client", client),
        Metric("cpu_router", "µs", "CPU a task, router", router),
        Metric("cpu_supervisor", "µs", "CPU a task, supervisor"),
        Metric("cpu_slot", "µs", "CPU a task, slots", slot),
    )


CASES: tuple[Case, ...] = (
    Case(
        "sequential",
        "one call at a time",
        _all("sequential", "mesh", "raw", "pool"),
        (
            Metric("p50", "µs", "p50", Budget(_MOST, 1.25, "raw")),
            Metric("p99", "µs", "p99", Budget(_MOST, 3, "raw", "p50")),
            *_cpu(),
        ),
    ),
    Case(
        "loop",
        "small tasks, called one by one",
        _all("loop", "mesh", "raw", "pool"),
        (
            Metric("rate", "tasks/s", "throughput", Budget(_LEAST, 3, "pool")),
            *_cpu(Budget(_MOST, 10), Budget(_MOST, 12), Budget(_MOST, 13)),
        ),
    ),
    Case(
        "journaled",
        "small tasks, at the default level",
        _all("loop", "mesh", "none"),
        (Metric("rate", "tasks/s", "throughput", Budget(_LEAST, 0.85, "none")), *_cpu()),
    ),
    Case(
        "synced",
        "small tasks, each batch on the disk",
        (Entrant("mesh", "synced", "loop"), Entrant("none", "none", "loop")),
        (Metric("rate", "tasks/s", "throughput", Budget(_LEAST, 0.5, "none")), *_cpu()),
    ),
    Case(
        "latency",
        "one call at a time, at the default level",
        _all("sequential", "mesh", "none"),
        (
            Metric("p50", "µs", "p50", Budget(_MOST, 1.1, "none")),
            Metric("p99", "µs", "p99", Budget(_MOST, 2, "none")),
            *_cpu(),
        ),
    ),
    Case(
        "batch",
        "small tasks, one batch",
        (
            Entrant("mesh", "mesh", "batch"),
            Entrant("raw ×32", "raw", "batch"),
            Entrant("pool", "pool", "loop"),
            Entrant("pool ×32", "pool", "batch"),
        ),
        (Metric("rate", "tasks/s", "throughput", Budget(_LEAST, 3, "pool")), *_cpu()),
    ),
    Case(
        "submit",
        "submit, confirmed",
        (*_all("submit", "mesh", "pool"), Entrant("pool with results", "pool", "loop")),
        (Metric("rate", "tasks/s", "rate", Budget(_LEAST, 4, "pool with results")),),
    ),
    Case(
        "forget",
        "fire and forget",
        _all("forget", "mesh", "pool"),
        (Metric("rate", "tasks/s", "all have run"),),
    ),
    Case(
        "gather",
        "1 000 calls and their sum",
        _all("gather", "mesh", "raw", "pool"),
        (Metric("time", "s", "time", Budget(_MOST, 1.5, "pool")),),
    ),
    Case(
        "echo",
        "1 MiB echo, 8 in flight",
        _all("echo", "mesh", "raw", "pool"),
        (Metric("rate", "MiB/s", "rate", Budget(_LEAST, 1, "pool")),),
    ),
    Case(
        "fairness",
        "one of 3 s, then 200 of 1 ms",
        _all("fairness", "mesh", "pool"),
        (Metric("time", "s", "the 200 are done", Budget(_MOST, 0.25)),),
    ),
    Case(
        "cold",
        "cold start",
        _all("cold", "mesh", "pool"),
        (Metric("time", "s", "first result", Budget(_MOST, 0.5)),),
        alone=True,
        started=False,
    ),
    Case(
        "kit",
        "a node for a test",
        (Entrant("mesh", "mesh", "kit"), Entrant("node process", "mesh", "node")),
        (
            Metric("time", "ms", "start, one call and end; of the process: start", Budget(_MOST, 0.5, "node process")),
            Metric("first", "ms", "the first one, with what is imported for it"),
        ),
        alone=True,
        started=False,
    ),
    Case(
        "idle",
        "idle",
        _all("idle", "mesh", "raw", "pool"),
        (
            Metric("pss", "MiB", "PSS", Budget(_MOST, 40)),
            *(Metric(f"pss_{role}", "MiB", f"PSS, {role}") for role in ("router", "supervisor", "slot")),
            *(Metric(f"wake_{role}", "1/s", f"wake-ups, {role}") for role in ("client", "router", "supervisor")),
            Metric("wake_slot", "1/s", "wake-ups, slots", Budget(_MOST, 0)),
        ),
        alone=True,
        most_rounds=3,
    ),
    Case(
        "memory",
        "queued tasks, no node",
        _all("memory", "mesh"),
        (
            Metric("resident", "B", "router PSS a task beyond the body, the first 100 000", Budget(_MOST, 600)),
            Metric("all", "B", "router PSS a task beyond the body, all"),
            Metric("router", "MiB", "router PSS, full"),
            Metric("fill_rate", "tasks/s", "queued and confirmed, a block at a time"),
            Metric("recover", "s", "found again after kill -9"),
            Metric("drain", "s", "drained by a node"),
            Metric("drain_rate", "tasks/s", "drain"),
        ),
        alone=True,
        started=False,
        most_rounds=1,
    ),
    Case(
        "soak",
        "4 000 000 tasks, growth from the first half to the second",
        _all("soak", "mesh"),
        (
            *(Metric(f"pss_{role}", "MiB", f"PSS, {role}") for role in ("client", "router", "supervisor", "slot")),
            Metric("descriptors", "", "descriptors of all processes", Budget(_MOST, 0)),
            Metric("files", "", "files", Budget(_MOST, 0)),
            Metric("disk", "MiB", "bytes of files"),
            Metric("pss_router_most", "MiB", "router PSS, greatest"),
            Metric("disk_most", "MiB", "bytes of files, greatest"),
            Metric("rate", "tasks/s", "throughput"),
        ),
        alone=True,
        most_rounds=1,
    ),
)

MESH = "mesh"


def select(names: list[str]) -> tuple[Case, ...]:
    """The named cases in the order of the table; all where none is named. Raises KeyError for an unknown name."""
    known = {case.name for case in CASES}
    if unknown := [name for name in names if name not in known]:
        raise KeyError(f"no case is called {', '.join(unknown)}; there are {', '.join(case.name for case in CASES)}")
    return tuple(case for case in CASES if not names or case.name in names)
