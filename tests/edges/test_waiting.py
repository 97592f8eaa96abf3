"""A task that waits tells its host of it; whatever else waits tells nobody."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from mesh import waiting
from mesh.exceptions import WouldDeadlock
from mesh.waiting import Waiting


class Host:
    """Notes who waits; may refuse."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.refuses = False

    def begins_to_wait(self) -> None:
        if self.refuses:
            raise WouldDeadlock("no")
        self.said.append("waits")

    def waited(self) -> None:
        self.said.append("goes on")


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    waiting.set_host(host)
    yield host
    waiting.set_host(None)


def test_the_host_hears_of_the_beginning_and_the_end(host: Host) -> None:
    with Waiting():
        assert host.said == ["waits"]
    assert host.said == ["waits", "goes on"]


def test_the_host_hears_of_the_end_of_a_wait_that_fails(host: Host) -> None:
    with pytest.raises(TimeoutError), Waiting():
        raise TimeoutError
    assert host.said == ["waits", "goes on"]


def test_a_host_that_refuses_is_not_told_of_an_end(host: Host) -> None:
    host.refuses = True
    with pytest.raises(WouldDeadlock), Waiting():
        raise AssertionError("it must not wait")
    assert host.said == []


def test_who_is_no_task_tells_nobody() -> None:
    waiting.set_host(None)
    with Waiting():
        pass


def test_a_thread_that_has_the_context_of_a_task_is_heard_and_another_is_not(host: Host) -> None:
    def wait() -> None:
        with Waiting():
            pass

    context = contextvars.copy_context()
    for target in (wait, partial(context.run, wait)):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert host.said == ["waits", "goes on"]


def test_each_coroutine_has_the_host_that_runs_it() -> None:
    # Given two coroutines of one loop, each run by a host of its own
    hosts = Host(), Host()

    async def run(host: Host, others: asyncio.Event, mine: asyncio.Event) -> None:
        waiting.set_host(host)
        mine.set()
        await others.wait()
        with Waiting():
            assert host.said == ["waits"]

    async def both() -> None:
        events = asyncio.Event(), asyncio.Event()
        await asyncio.gather(run(hosts[0], *events), run(hosts[1], *reversed(events)))

    # When both wait, then each is heard by its own
    asyncio.run(both())
    assert [host.said for host in hosts] == [["waits", "goes on"]] * 2
