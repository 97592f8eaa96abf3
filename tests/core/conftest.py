"""Machines that are checked when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import pytest

from tests.core.builders import Make, Router


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
