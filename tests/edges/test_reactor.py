"""Who drives a client's sockets: the token moves between the I/O thread and who waits, and nobody is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mesh import locate
from mesh.client import Client
from mesh.interfaces import PendingCall
from mesh.settings import Settings
from tests.edges.fake_node import DEADLINE_S, FakeNode, wait_for

ROOT = Path(__file__).resolve().parents[2]


class Gate:
    """A slot's work: bodies that begin with `wait` end when the gate opens, all others at once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()

    def answer(self, record: list[Any]) -> bytes:
        body = bytes(record[4])
        if body.startswith(b"wait"):
            self.reached.set()
            assert self.open.wait(DEADLINE_S)
        return body


@pytest.fixture
def place(mesh_dir: Path) -> locate.Place:
    return locate.locate(f"mesh://{mesh_dir}")


@pytest.fixture
def gate(place: locate.Place) -> Iterator[Gate]:
    """A router, and a slot that is let in."""
    gate = Gate()
    locate.ensure_router(place)
    try:
        with FakeNode(place, answer=gate.answer):
            yield gate
    finally:
        gate.open.set()


@pytest.fixture
def client(place: locate.Place, gate: Gate) -> Iterator[Client]:
    client = Client(place, Settings())
    yield client
    gate.open.set()
    client.close()


def submit(client: Client, body: bytes, queue: str = "work") -> PendingCall:
    return client.submit("f", queue, 0, 0, body, None, None)


def value_of(client: Client, pending: PendingCall, _: int = 0, *, timeout_s: float = DEADLINE_S) -> bytes | None:
    """What came of a call; None where nothing came in time."""
    return pending.ending.body if client.wait(pending, timeout_s) and pending.ending else None


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """What each of many threads that begin at once makes of its number. Threads that hang fail the test."""
    results: list[object] = [None] * count
    begin = threading.Barrier(count)

    def run(number: int) -> None:
        begin.wait(DEADLINE_S)
        try:
            results[number] = work(number)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    return results


def driving(client: Client) -> str:
    """Who holds the token, as far as it can be told from outside: "io", "caller" or nobody."""
    reactor = client._reactor
    return "" if not reactor._driven else "io" if reactor._io_drives else "caller"


# --- many threads --------------------------------------------------------------------------------


def test_each_of_many_waiting_threads_gets_its_own_result(client):
    def work(number: int) -> bool:
        mine = [b"%d-%d" % (number, step) for step in range(40)]
        return all(value_of(client, submit(client, body)) == body for body in mine)

    assert in_threads(8, work) == [True] * 8


def test_many_threads_that_wait_for_one_call_all_get_it(client, gate):
    for _ in range(30):
        pending = submit(client, b"shared")
        assert in_threads(6, partial(value_of, client, pending)) == [b"shared"] * 6


def test_a_wait_for_the_confirm_and_a_wait_for_the_end_of_one_call_both_end(client):
    def work(pending: PendingCall, number: int) -> object:
        wait = client.wait_confirmed if number % 2 else client.wait
        return wait(pending, DEADLINE_S)

    for _ in range(30):
        assert in_threads(6, partial(work, submit(client, b"x"))) == [True] * 6


def test_calls_made_while_another_thread_waits_are_sent_and_answered(client, gate):
    # Given a thread that waits for a task that does not end, and so drives
    held = submit(client, b"wait", queue="nobody")
    waiting = threading.Thread(target=client.wait, args=(held, DEADLINE_S), daemon=True)
    waiting.start()
    wait_for(lambda: driving(client) == "caller", "the waiting thread to drive")

    # When others call and wait
    def work(number: int) -> bool:
        calls = [submit(client, b"%d-%d" % (number, step)) for step in range(50)]
        return [value_of(client, one) for one in calls] == [b"%d-%d" % (number, step) for step in range(50)]

    # Then they get what is theirs
    assert in_threads(4, work) == [True] * 4
    assert waiting.is_alive()
    client.close()
    waiting.join(DEADLINE_S)
    assert not waiting.is_alive()


def test_calls_that_nobody_waits_for_are_sent_by_the_io_thread(client):
    # Given a burst of calls without any wait
    calls = [submit(client, b"%d" % number) for number in range(500)]

    # Then all of them end, by themselves
    wait_for(lambda: all(one.ending is not None for one in calls), "the results of a burst")


# --- the token -----------------------------------------------------------------------------------


def test_a_waiting_thread_takes_the_token_and_lays_it_down_for_the_io_thread(client):
    # Given a client at rest, driven by its I/O thread
    assert value_of(client, submit(client, b"first")) == b"first"
    wait_for(lambda: driving(client) == "io", "the I/O thread to drive")

    # When a thread waits
    held = submit(client, b"held", queue="nobody")
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(client.wait(held, 0.3)), daemon=True)
    thread.start()

    # Then it drives, and when it has waited long enough the I/O thread does again
    wait_for(lambda: driving(client) == "caller", "the waiting thread to drive")
    thread.join(DEADLINE_S)
    assert results == [False]
    wait_for(lambda: driving(client) == "io", "the I/O thread to drive again")


def test_the_next_waiter_goes_on_when_the_one_that_drives_has_its_result(client, gate):
    # Given two threads that wait: the first one drives, the second follows
    first, second = submit(client, b"wait"), submit(client, b"second")
    assert gate.reached.wait(DEADLINE_S)
    values: dict[str, bytes | None] = {}
    threads = []
    for name, pending in (("first", first), ("second", second)):
        threads.append(threading.Thread(target=lambda n=name, p=pending: values.update({n: value_of(client, p)})))
        threads[-1].start()
        wait_for(lambda: driving(client) == "caller", "a waiting thread to drive")

    # When the first one's result comes
    gate.open.set()

    # Then the second one's does too
    for thread in threads:
        thread.join(DEADLINE_S)
    assert values == {"first": b"wait", "second": b"second"}


def test_the_io_thread_sleeps_while_another_thread_drives(client):
    # Given a thread that drives
    assert value_of(client, submit(client, b"first")) == b"first"
    held = submit(client, b"held", queue="nobody")
    waiting = threading.Thread(target=client.wait, args=(held, 2.0), daemon=True)
    waiting.start()
    wait_for(lambda: driving(client) == "caller", "the waiting thread to drive")
    io_thread = client._reactor._thread.native_id
    wait_for(lambda: client._reactor._io_asleep, "the I/O thread to fall asleep")

    # When it goes on driving for a while
    before, begun = switches(io_thread), time.monotonic()
    waiting.join(DEADLINE_S)
    woken, elapsed_s = switches(io_thread) - before, time.monotonic() - begun

    # Then the I/O thread has hardly woken up: some ten times, at the end, and not every few milliseconds
    assert woken < 20 + 20 * elapsed_s


def test_a_client_at_rest_hardly_wakes_up(client):
    # Given a client that has done its work
    assert value_of(client, submit(client, b"first")) == b"first"
    wait_for(lambda: driving(client) == "io", "the I/O thread to drive")
    io_thread = client._reactor._thread.native_id

    # When nothing happens for a while
    before, begun = switches(io_thread), time.monotonic()
    threading.Event().wait(1.0)
    woken, elapsed_s = switches(io_thread) - before, time.monotonic() - begun

    # Then its I/O thread wakes up for what is due, and not to look
    assert woken < 20 + 20 * elapsed_s


def switches(thread_id: int | None) -> int:
    """How often a thread of this process has gone to sleep."""
    for line in Path(f"/proc/self/task/{thread_id}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError("the kernel counts no switches")


# --- time-outs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [0, -1, 0.001, 0.05])
def test_a_wait_ends_without_a_result_when_its_time_is_up(client, timeout_s):
    held = submit(client, b"held", queue="nobody")

    # When threads wait less than it takes: the one that drives and those that follow
    assert in_threads(3, lambda _: client.wait(held, timeout_s)) == [False] * 3

    # Then the client goes on
    assert value_of(client, submit(client, b"next")) == b"next"


@pytest.mark.parametrize("timeout_s", [1e12, 1e300, float("inf")])
def test_a_wait_may_be_as_long_as_anybody_likes(client, timeout_s):
    assert in_threads(3, lambda _: value_of(client, submit(client, b"x"), timeout_s=timeout_s)) == [b"x"] * 3


# --- interruption --------------------------------------------------------------------------------

INTERRUPTED = """
import signal, sys
from mesh import locate
from mesh.client import Client
from mesh.settings import Settings

client = Client(locate.locate(sys.argv[1]), Settings())

def value_of(body, queue="work", timeout_s=30.0):
    pending = client.submit("f", queue, 0, 0, body, None, None)
    return client.wait(pending, timeout_s) and pending.ending.body

assert value_of(b"before") == b"before"
for count in range(int(sys.argv[2])):
    try:
        print("waiting", flush=True)
        value_of(b"never", queue="nobody")
        print("not interrupted", flush=True)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", value_of(b"after"), flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
client.close()
print("closed", flush=True)
"""


def test_a_client_whose_main_thread_is_interrupted_while_it_waits_goes_on(gate, mesh_url):
    # Given a program that waits in its main thread
    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, mesh_url, "5"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert program.stdout is not None
    with program.stdout as said:
        for _ in range(5):
            assert said.readline() == "waiting\n"

            # When it gets SIGINT, then the wait ends as Python's do and the client works
            program.send_signal(signal.SIGINT)
            assert said.readline() == "interrupted b'after'\n"
        assert said.readline() == "closed\n"
    assert program.wait(DEADLINE_S) == 0


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("waiters", [1, 2, 5])
def test_closing_ends_every_wait_and_leaves_no_thread(client, waiters):
    # Given threads that wait without an end, and one that waits for a confirm
    held = [submit(client, b"held", queue="nobody") for _ in range(waiters)]
    assert all(client.wait_confirmed(one, DEADLINE_S) for one in held)
    results: list[object] = []

    def work(pending: PendingCall) -> None:
        try:
            results.append(client.wait(pending, None))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=work, args=(one,), daemon=True) for one in [*held, held[0]]]
    for thread in threads:
        thread.start()
    wait_for(lambda: driving(client) == "caller", "a waiting thread to drive")
    wait_for(lambda: len(client._reactor._following) == waiters, "the others to follow")

    # When the client is closed
    client.close()

    # Then each of them ends, without a result
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert len(results) == waiters + 1
    assert all(one is False or isinstance(one, Exception) for one in results)
    assert not client._reactor._thread.is_alive()


def test_closing_while_threads_call_delivers_or_refuses_and_does_not_hang(client):
    # Given threads that call and wait as fast as they can
    assert value_of(client, submit(client, b"first")) == b"first"
    calling = threading.Event()

    def work(number: int) -> str:
        if number == 0:
            assert calling.wait(DEADLINE_S)
            client.close()
            return "closed"
        try:
            for _ in range(100_000):
                pending = submit(client, b"x")
                calling.set()
                if not client.wait(pending, None):
                    return "ended"
        except Exception as error:
            return f"refused: {type(error).__name__}"
        return "never stopped"

    # When the client is closed meanwhile
    results = in_threads(4, work)

    # Then all of them come to an end
    assert results[0] == "closed"
    assert "never stopped" not in results
    assert not any(isinstance(one, BaseException) for one in results)


def test_closing_twice_and_from_several_threads_is_closing_once(client):
    assert value_of(client, submit(client, b"first")) == b"first"
    assert in_threads(4, lambda _: client.close()) == [None] * 4
    assert not client._reactor._thread.is_alive()


def test_a_router_that_is_told_to_stop_right_behind_a_message_stops(place):
    # Given routers, each with a client that says its last word
    for attempt in range(12):
        locate.ensure_router(place)
        client = Client(place, Settings())
        assert client.wait_confirmed(submit(client, b"x", queue="nobody"), DEADLINE_S)
        pid = locate.router_pid(place)
        assert pid
        pidfd = os.pidfd_open(pid)
        client.close()

        # When the signal comes at any moment between that word and the router's next wait
        until = time.perf_counter() + attempt * 0.00005
        while time.perf_counter() < until:
            pass
        os.kill(pid, signal.SIGTERM)

        # Then it is heard
        assert select.select([pidfd], [], [], DEADLINE_S)[0], "the router sleeps on"
        os.close(pidfd)
