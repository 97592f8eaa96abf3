"""Fixtures for pytest: `pytest_plugins = ("mesh.testing.plugin",)` in the topmost conftest.py.

It is no plugin that pytest finds by itself: each run of each project beside mesh would import it. What it offers is
imported when a test asks for it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mesh.app import Mesh
    from mesh.testing.worker import Worker


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known."""
    config.addinivalue_line("markers", "mesh(**settings): settings of the app that the fixture mesh_app makes.")


# --- to be overridden ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mesh_config() -> Mapping[str, Any]:
    """Settings of the apps that are made here."""
    return {}


@pytest.fixture(scope="session")
def mesh_parameters() -> Mapping[str, Any]:
    """Keywords with which `Mesh` is called."""
    return {}


@pytest.fixture(scope="session")
def mesh_worker_parameters() -> Mapping[str, Any]:
    """Keywords with which `start_worker` is called."""
    return {}


@pytest.fixture(scope="session")
def mesh_includes() -> Iterable[str]:
    """Modules to be imported before a worker starts, for their tasks."""
    return ()


@pytest.fixture(scope="session")
def mesh_enable_logging() -> bool:
    """Whether what routers and nodes say from INFO up is shown with a test that fails; else it is warnings alone."""
    return False


# --- to be used ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mesh_session_app(
    mesh_config: Mapping[str, Any], mesh_parameters: Mapping[str, Any], mesh_enable_logging: bool
) -> Iterator[Mesh]:
    """An app for all tests, with a router of its own in this process."""
    with _app(mesh_parameters, mesh_config, mesh_enable_logging) as app:
        yield app


@pytest.fixture(scope="session")
def mesh_session_worker(
    mesh_session_app: Mesh, mesh_includes: Iterable[str], mesh_worker_parameters: Mapping[str, Any]
) -> Iterator[Worker]:
    """A node in this process that runs what `mesh_session_app` calls, for all tests."""
    with _worker(mesh_session_app, mesh_includes, mesh_worker_parameters) as worker:
        yield worker


@pytest.fixture
def mesh_app(
    request: pytest.FixtureRequest,
    mesh_config: Mapping[str, Any],
    mesh_parameters: Mapping[str, Any],
    mesh_enable_logging: bool,
) -> Iterator[Mesh]:
    """An app for one test, with a router of its own in this process: what it calls waits for a worker."""
    mark = request.node.get_closest_marker("mesh")
    config = {**mesh_config, **(mark.kwargs if mark is not None else {})}
    with _app(mesh_parameters, config, mesh_enable_logging) as app:
        yield app


@pytest.fixture
def mesh_worker(
    mesh_app: Mesh, mesh_includes: Iterable[str], mesh_worker_parameters: Mapping[str, Any]
) -> Iterator[Worker]:
    """A node in this process that runs what `mesh_app` calls, for one test."""
    with _worker(mesh_app, mesh_includes, mesh_worker_parameters) as worker:
        yield worker


@contextlib.contextmanager
def _app(parameters: Mapping[str, Any], config: Mapping[str, Any], logs: bool) -> Iterator[Mesh]:
    from mesh.app import Mesh
    from mesh.results import current_source, set_default_source
    from mesh.testing.local_mesh import start_router

    current = current_source()
    app = Mesh(**{"main": "mesh.tests", **parameters})
    app.conf.update(config)
    try:
        with _logging(logs), start_router(app, eager=True):
            yield app
    finally:
        set_default_source(current)


@contextlib.contextmanager
def _worker(app: Mesh, includes: Iterable[str], parameters: Mapping[str, Any]) -> Iterator[Worker]:
    from mesh.loading import load_module
    from mesh.testing.worker import start_worker

    for module in includes:
        load_module(module)
    with start_worker(app, **parameters) as worker:
        yield worker


@contextlib.contextmanager
def _logging(enabled: bool) -> Iterator[None]:
    logger = logging.getLogger("mesh")
    level = logger.level
    if enabled:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
