"""`mesh.testing.plugin`: what pytest's fixtures give to the tests of other projects."""

import os
import sys

import pytest

PLUGIN = "pytest_plugins = ('mesh.testing.plugin',)\n"


@pytest.fixture
def project(pytester):
    """A project with tests that use the plugin. They are run in a process of their own, warnings being errors."""
    pytester.makeconftest(PLUGIN)
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider --strict-markers\nfilterwarnings = error\n")
    return pytester


def outcomes(project, **expected):
    result = project.runpytest_subprocess()
    result.assert_outcomes(**expected)
    return result


def test_a_worker_runs_what_an_app_calls_and_each_test_has_its_own(project):
    project.makepyfile(
        """
        import os
        import pytest
        from mesh import current_app

        seen = []

        @pytest.mark.parametrize("number", [1, 2])
        def test_call(mesh_app, mesh_worker, number):
            @mesh_app.task
            def add(x, y):
                return x + y, os.getpid()

            assert list(mesh_app.tasks) == ["test_a_worker_runs_what_an_app_calls_and_each_test_has_its_own.add"]
            assert add.delay(2, number).get(timeout=20) == (2 + number, os.getpid())
            assert current_app.main == mesh_app.main == "mesh.tests"
            seen.append(mesh_app.conf.broker_url)

        def test_they_were_different_and_are_gone():
            assert len(set(seen)) == 2
            assert not [url for url in seen if os.path.exists(url.removeprefix("mesh://"))]
        """
    )
    outcomes(project, passed=3)


def test_a_worker_for_all_tests_is_started_once(project):
    project.makeconftest(
        PLUGIN
        + """
import pytest
from kit_app import app

@pytest.fixture(scope="session")
def mesh_session_app():
    return app

@pytest.fixture(scope="session")
def mesh_worker_parameters():
    return {"concurrency": 2, "queues": ["mine"], "hostname": "kit@here"}

@pytest.fixture(scope="session")
def mesh_includes():
    return ["kit_tasks"]
"""
    )
    project.makepyfile(
        kit_app="from mesh import Mesh\napp = Mesh('kit')",
        kit_tasks="from kit_app import app\n@app.task\ndef add(x, y): return x + y",
        test_it="""
        import pytest
        from kit_app import app

        started = set()

        @pytest.mark.parametrize("number", range(3))
        def test_call(mesh_session_worker, number):
            assert app.send_task("kit_tasks.add", (2, number), queue="mine").get(timeout=20) == 2 + number
            assert app.control.inspect().registered() == {"kit@here": ["kit_tasks.add"]}
            started.add(mesh_session_worker)

        def test_it_was_one():
            assert len(started) == 1
        """,
    )
    outcomes(project, passed=4)


def test_settings_come_from_fixtures_and_the_marker(project):
    project.makeconftest(
        PLUGIN
        + """
import pytest

@pytest.fixture(scope="session")
def mesh_config():
    return {"task_default_queue": "configured", "task_default_priority": 3}

@pytest.fixture(scope="session")
def mesh_parameters():
    return {"main": "kit", "set_as_current": False}
"""
    )
    project.makepyfile(
        """
        import pytest
        from mesh.exceptions import NoCurrentApp
        from mesh import current_app

        @pytest.mark.mesh(task_default_priority=7)
        def test_the_marker_goes_first(mesh_app):
            assert (mesh_app.conf.task_default_queue, mesh_app.conf.task_default_priority) == ("configured", 7)

        def test_the_next_test_has_what_is_configured(mesh_app):
            assert (mesh_app.main, mesh_app.conf.task_default_priority) == ("kit", 3)
            with pytest.raises(NoCurrentApp):
                current_app.main
        """
    )
    outcomes(project, passed=2)


@pytest.mark.parametrize(("enabled", "shown"), [(True, True), (False, False)])
def test_what_a_node_says_is_shown_where_that_is_asked_for(project, enabled, shown):
    project.makeconftest(
        PLUGIN + f"import pytest\n@pytest.fixture(scope='session')\ndef mesh_enable_logging(): return {enabled}\n"
    )
    project.makepyfile(
        """
        def test_that_fails(mesh_app):
            from mesh.testing import start_worker
            with start_worker(mesh_app):
                pass
            assert 0
        """
    )
    said = outcomes(project, failed=1).stdout.str()
    assert ("stopping: nothing runs" in said) is shown


def test_a_worker_that_does_not_end_is_an_error_of_the_test(project):
    project.makeconftest(
        PLUGIN
        + "import pytest\n@pytest.fixture(scope='session')\n"
        + "def mesh_worker_parameters(): return {'shutdown_timeout': 0.05}\n"
    )
    project.makepyfile(
        """
        import threading
        import time

        def test_that_leaves_something(mesh_app, mesh_worker):
            begun = threading.Event()

            @mesh_app.task(name="endless")
            def endless():
                begun.set()
                while True:
                    time.sleep(0.001)

            endless.delay()
            begun.wait()
        """
    )
    result = outcomes(project, passed=1, errors=1)
    result.stdout.re_match_lines([r".*WorkerStillRuns: worker test@\S+ was to end, .* still ran endless\[.*"])


def test_the_plugin_costs_little_where_no_test_uses_it(project):
    project.makepyfile(
        """
        import sys

        def test_nothing():
            assert not {"zmq", "msgpack", "mesh.app", "mesh.testing.worker"} & set(sys.modules)
        """
    )
    outcomes(project, passed=1)


def test_the_plugin_is_none_that_pytest_loads_by_itself():
    from importlib.metadata import entry_points

    assert [found.name for found in entry_points(group="pytest11") if found.value.startswith("mesh")] == []


def test_the_fixtures_work_in_this_run_too(mesh_app, mesh_worker):
    pid = mesh_app.task(name="pid")(os.getpid)
    assert pid.delay().get(20) == os.getpid()
    assert "mesh.testing.worker" in sys.modules


def test_an_app_that_is_marked_as_eager_calls_eagerly(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.mesh(task_always_eager=True)
        def test_call(mesh_app):
            called = mesh_app.task(name="double")(lambda x: 2 * x).delay(21)
            assert called.get(timeout=5) == 42
            assert type(called).__name__ == "EagerResult"
        """
    )
    outcomes(project, passed=1)
