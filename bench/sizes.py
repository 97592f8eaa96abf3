"""How much of everything a run does. The only place of bare numbers in `bench`."""

from dataclasses import dataclass

#: Worker processes of every system, so that all of them are measured with the same parallelism.
SLOTS = 2
#: Tasks in one frame of the batched raw floor, and calls in one chunk of the pool's `map`.
TASKS_PER_FRAME = 32
#: The router's `queue_resident`: beyond so many tasks it may page records out, so the memory budget is for these.
RESIDENT_TASKS = 100_000
#: Tasks that one batch block of the memory case sends, so that the client stays small.
TASKS_PER_BLOCK = 1_000
#: From so many rounds on, limits are judged by the interval of the median and not by the median.
ROUNDS_FOR_INTERVAL = 15
DEFAULT_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts, bytes and seconds of one run; sent to the drivers with every operation."""

    warm_up_calls: int = 300
    sequential_calls: int = 1_000
    #: Tasks of the throughput, submit and fire-and-forget cases.
    tasks: int = 20_000
    gather_calls: int = 1_000
    echoes: int = 200
    echo_bytes: int = 1 << 20
    echoes_in_flight: int = 8
    #: How long the idle mesh is left alone before it is watched, and for how long it is watched.
    idle_settle_s: float = 2.0
    idle_watch_s: float = 5.0
    #: Nodes that are started one after the other inside the driver, after a first one.
    kit_workers: int = 20
    queued_tasks: int = 200_000
    #: In the first half the tables of outcomes reach the size that they keep.
    soak_tasks: int = 4_000_000
    long_nap_s: float = 3.0
    short_naps: int = 200
    short_nap_s: float = 0.001
    #: CPU is read this long after the last result, so that acks and commits that trail behind are counted.
    cpu_settle_s: float = 0.2
    #: An operation that takes longer has failed.
    operation_timeout_s: float = 120.0


FULL = Sizes()
QUICK = Sizes(
    warm_up_calls=10,
    sequential_calls=50,
    tasks=500,
    gather_calls=50,
    echoes=16,
    echo_bytes=1 << 16,
    idle_settle_s=0.2,
    idle_watch_s=0.5,
    kit_workers=3,
    queued_tasks=2_000,
    soak_tasks=5_000,
    long_nap_s=0.3,
    short_naps=20,
    cpu_settle_s=0.05,
    operation_timeout_s=60.0,
)
