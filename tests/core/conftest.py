"""Machines that are checked when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import pytest

from mesh.core.calls import Calls
from mesh.core.dispatch import Budgets
from mesh.core.recovery import Pages
from tests.core.bench import Bench
from tests.core.builders import BUDGETS, NO_PAGES, Caller, Make, Router
from tests.core.caller_side import BOOT, PREFIX


class Checked(Protocol):
    """A machine of the core."""

    def check(self) -> None:
        """Raises AssertionError where it is inconsistent."""
        ...


Machine = TypeVar("Machine", bound=Checked)


@pytest.fixture
def checked() -> Iterator[Callable[[Any], Any]]:
    """Hands a machine back, and checks it on teardown."""
    machines: list[Checked] = []

    def keep(machine: Machine) -> Machine:
        machines.append(machine)
        return machine

    yield keep
    for machine in machines:
        machine.check()


@pytest.fixture
def make_router(checked: Callable[[Any], Any]) -> Make:
    """Makes a router with the limits the test says."""

    def make(**limits: Any) -> Router:
        router = Router(**limits)
        checked(router.owner)
        return router

    return make


@pytest.fixture
def router(make_router: Make) -> Router:
    return make_router()


@pytest.fixture
def restart(make_router: Make) -> Callable[..., Router]:
    """The next router, which has read what an earlier one wrote, or the first so many commits of it.

    What it has found is in its `recovered`.
    """

    def restart(
        router: Router, commits: int | None = None, pages: Pages = NO_PAGES, later_s: float = 0.0, **limits: Any
    ) -> Router:
        later = make_router(journal=router.journal.upto(commits), mono_s=router.mono_s + later_s, **limits)
        later.numbers = router.numbers  # processes and links of before are others
        later.learns("t")
        later.recovered = later.recover(pages)
        return later

    return restart


@pytest.fixture
def client(router: Router) -> Caller:
    """A client of a router that knows that its tasks are short."""
    router.learns("t")
    return router.client(2)


@pytest.fixture
def make_bench(checked: Callable[[Any], Any]) -> Callable[..., Bench]:
    """Makes a dispatch with the budgets the test says."""
    return lambda *budgets: checked(Bench(Budgets(*budgets) if budgets else BUDGETS))


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def make_calls(checked: Callable[[Any], Any]) -> Callable[..., Calls]:
    """Makes the calls of a client that has joined a router."""

    def make(unconfirmed_max: int = 1_000_000) -> Calls:
        calls: Calls = checked(Calls(PREFIX, unconfirmed_max))
        calls.joined(BOOT)
        return calls

    return make


@pytest.fixture
def calls(make_calls: Callable[..., Calls]) -> Calls:
    return make_calls()
