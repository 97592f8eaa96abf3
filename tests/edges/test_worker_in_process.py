"""`mesh.testing.start_worker`: a router and a node in the test's own process, as tests of other projects use them."""

import asyncio
import os
import signal
import threading
import time

import pytest

from mesh import Mesh, exceptions, messages, transport
from mesh.core.supervision import STAND_IN_S
from mesh.testing import WorkerStillRuns, start_router, start_worker

#: Long, as the machine may be slow and busy.
PATIENCE_S = 20.0


@pytest.fixture
def app():
    return Mesh("kit", set_as_current=False)


@pytest.fixture
def gate():
    """What tasks wait for; opened at the latest when the test is over."""
    gate = threading.Event()
    yield gate
    gate.set()


def registered(app, function, **options):
    return app.task(name=function.__name__, **options)(function)


def runs(worker):
    """Waits until the worker runs something."""
    deadline_mono_s = time.monotonic() + PATIENCE_S
    never = threading.Event()
    while not (running := worker.running()):
        assert time.monotonic() < deadline_mono_s
        never.wait(0.001)
    return running


def spin(seconds):
    """Takes no notice of anything but what ends it."""
    end_mono_s = time.monotonic() + seconds
    never = threading.Event()
    while time.monotonic() < end_mono_s:
        try:
            never.wait(0.001)
        except Exception:
            continue


async def nap(seconds):
    await asyncio.sleep(seconds)


# --- where tasks run -------------------------------------------------------------------------------


def test_a_task_runs_in_the_process_of_the_test_and_sees_what_the_test_has_patched(app, monkeypatch):
    # Given a task that reads a variable, which is set only once the worker runs
    task = registered(app, where)
    with start_worker(app):
        monkeypatch.setenv("KIT", "patched")

        # When it is called, then it has run here, in another thread
        assert task.delay().get(PATIENCE_S) == [os.getpid(), "patched", False]


def where():
    return [os.getpid(), os.environ["KIT"], threading.current_thread() is threading.main_thread()]


def test_tasks_that_are_registered_after_the_start_run(app):
    with start_worker(app):
        task = app.task(name="late")(lambda: "late")
        assert task.delay().get(PATIENCE_S) == "late"


def test_tasks_of_included_modules_run(app, tmp_path, monkeypatch):
    # Given an app that names a module, which registers a task
    (tmp_path / "kit_included.py").write_text(
        "from tests.edges.test_worker_in_process import the\nthe.app.task(name='included')(lambda: 'here')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    the.app = app
    app.conf.include = ["kit_included"]

    # When a worker starts, then it has that task
    with start_worker(app):
        assert app.send_task("included").get(PATIENCE_S) == "here"


class the:
    """What a module finds that a test has written."""

    app: Mesh


def test_a_task_may_wait_for_another_one_though_there_is_one_slot(app):
    inner = app.task(name="inner")(lambda x: x + 1)
    outer = app.task(name="outer")(lambda x: inner.delay(x).get(PATIENCE_S))
    with start_worker(app, concurrency=1):
        assert outer.delay(1).get(PATIENCE_S) == 2


def test_a_slot_says_again_that_it_waits_no_more_where_the_router_could_not_take_it(app, monkeypatch):
    # Given a router that has no room for that the first time
    dropped: list[messages.Message] = []
    send = transport.Link.send

    def send_but_once(link, message, frames=()):
        if message == messages.Blocked(False) and not dropped:
            dropped.append(message)
            return False
        return send(link, message, frames)

    monkeypatch.setattr(transport.Link, "send", send_but_once)
    inner = app.task(name="inner")(lambda x: x + 1)
    outer = app.task(name="outer")(lambda x: inner.delay(x).get(PATIENCE_S))
    with start_worker(app, concurrency=1):
        # When its task has waited, and the slot that stood in for it has gone
        assert outer.delay(1).get(PATIENCE_S) == 2
        threading.Event().wait(5 * STAND_IN_S)

        # Then it gets work again
        assert inner.delay(1).get(PATIENCE_S) == 2
    assert dropped


def test_several_slots_run_tasks_at_the_same_time(app):
    barrier = threading.Barrier(3)
    task = app.task(name="meet")(lambda: barrier.wait(PATIENCE_S))
    with start_worker(app, concurrency=3):
        results = [task.delay() for _ in range(3)]
        assert sorted(result.get(PATIENCE_S) for result in results) == [0, 1, 2]


def test_slots_that_start_at_once_share_one_context(app, monkeypatch):
    # Given contexts that take their time to be made
    made, make = [], transport.context

    def made_slowly():
        threading.Event().wait(0.05)
        made.append(threading.current_thread().name)
        return make()

    monkeypatch.setattr(transport, "context", made_slowly)

    # When several slots start, then one of them has made the one of all
    with start_worker(app, concurrency=3):
        assert len([name for name in made if name.startswith("slot-")]) == 1


def test_retries_and_failures_are_those_of_a_node(app):
    @app.task(name="third", bind=True, max_retries=5)
    def third(self):
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        raise KeyError(self.request.retries)

    with start_worker(app), pytest.raises(KeyError) as caught:
        third.delay().get(PATIENCE_S)
    assert caught.value.args == (2,)
    assert third.name == "third"


# --- the mesh and the app --------------------------------------------------------------------------


def test_the_app_has_its_own_settings_again_when_the_worker_has_ended(app):
    # Given an app with a broker of its own, which calls eagerly
    app.conf.update(broker_url="mesh://elsewhere", task_always_eager=True)

    # When it has a worker, then calls go there
    with start_worker(app) as worker:
        assert app.conf.broker_url.startswith("mesh:///")
        assert app.conf.explain()["broker_url"].source == "mesh.testing"
        assert app.control.ping() == [{worker.hostname: {"ok": "pong"}}]
        directory = app.conf.broker_url.removeprefix("mesh://")

    # And then everything is as it was
    assert (app.conf.broker_url, app.conf.task_always_eager) == ("mesh://elsewhere", True)
    assert not os.path.exists(directory)


def test_what_the_test_sets_meanwhile_stays_set(app):
    with start_worker(app):
        app.conf.task_default_priority = 7
    assert app.conf.task_default_priority == 7


def test_what_is_called_without_a_worker_waits_for_one(app):
    task = app.task(name="task")(lambda: 1)
    with start_router(app):
        result = task.delay()
        assert result.confirmed(PATIENCE_S)
        assert result.state == "PENDING"
        with start_worker(app):
            assert result.get(PATIENCE_S) == 1


def test_workers_of_one_app_share_its_mesh_and_serve_queues_of_their_own(app):
    # Given a task that tells by which node it is run
    @app.task(name="by", bind=True)
    def by(self):
        return self.request.hostname

    # When two workers serve a queue each
    with start_worker(app, queues="one") as one, start_worker(app, queues=["two"], concurrency=2) as two:
        told = [by.apply_async(queue=queue).get(PATIENCE_S) for queue in ("one", "two")]

    # Then each has run what was called on its own
    assert told == [one.hostname, two.hostname]
    assert one.hostname != two.hostname


def test_two_apps_have_meshes_of_their_own(app):
    other = Mesh("other", set_as_current=False)
    app.task(name="who")(lambda: "app")
    other.task(name="who")(lambda: "other")
    with start_worker(app), start_worker(other):
        assert [one.send_task("who").get(PATIENCE_S) for one in (app, other)] == ["app", "other"]


def test_a_reload_tells_of_new_tasks_and_keeps_new_limits(app):
    # Given a worker, and a task and a setting that are newer
    with start_worker(app) as worker:
        app.task(name="late")(spin)
        app.close()  # settings may change while nobody is connected
        app.conf.task_time_limit = 0.05
        assert app.control.inspect([worker.hostname]).registered() == {worker.hostname: []}

        # When it is reloaded
        worker.reload()

        # Then it knows both
        assert app.control.inspect([worker.hostname]).registered() == {worker.hostname: ["late"]}
        with pytest.raises(exceptions.TimeLimitExceeded):
            app.send_task("late", (PATIENCE_S,)).get(PATIENCE_S)


# --- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [spin, nap])
def test_a_task_beyond_its_time_limit_is_ended_and_the_slot_replaced(app, function):
    # Given one slot and a task that takes too long
    task, quick = registered(app, function), app.task(name="quick")(lambda: 1)
    with start_worker(app):
        # When it reaches its limit, again and again
        for _ in range(5):
            with pytest.raises(exceptions.TimeLimitExceeded) as caught:
                task.apply_async((PATIENCE_S,), time_limit=0.02).get(PATIENCE_S)

            # Then its caller hears what that of a node would, and the next task runs
            assert "it ran longer than its time limit of 0.02 s" in str(caught.value)
            assert quick.delay().get(PATIENCE_S) == 1


def test_a_task_that_hears_nothing_is_given_up_at_its_time_limit(app, gate):
    # Given a task that waits in C code, where nothing can be raised in it
    task, quick = app.task(name="deaf")(gate.wait), app.task(name="quick")(lambda: 1)
    with start_worker(app):
        # When it reaches its limit, then its caller hears of it, and another slot works
        with pytest.raises(exceptions.TimeLimitExceeded):
            task.apply_async(time_limit=0.02).get(PATIENCE_S)
        assert quick.delay().get(PATIENCE_S) == 1

        # And what it returns at last is nobody's
        gate.set()
    assert "deaf" not in str(threading.enumerate())


def test_a_task_that_waits_for_a_result_is_given_up_at_its_time_limit(app):
    # Given a task that waits for one that nobody runs
    inner = app.task(name="inner")(lambda: 1)
    outer = app.task(name="outer")(lambda: inner.apply_async(queue="nobody's").get(PATIENCE_S))
    begun_mono_s = time.monotonic()

    # When it reaches its limit, then its caller hears of it, and it does not keep the worker from ending
    with start_worker(app), pytest.raises(exceptions.TimeLimitExceeded):
        outer.apply_async(time_limit=0.05).get(PATIENCE_S)
    assert time.monotonic() - begun_mono_s < PATIENCE_S / 2


def test_tasks_of_all_slots_are_ended_at_their_time_limits(app):
    task = registered(app, spin)
    with start_worker(app, concurrency=3):
        results = [task.apply_async((PATIENCE_S,), time_limit=0.05) for _ in range(3)]
        for result in results:
            with pytest.raises(exceptions.TimeLimitExceeded):
                result.get(PATIENCE_S)


def test_a_task_with_acks_on_timeout_off_runs_again_after_its_time_limit(app):
    seen = []

    @app.task(name="now and then", acks_on_timeout=False)
    def now_and_then():
        seen.append(1)
        if len(seen) == 1:
            spin(PATIENCE_S)
        return len(seen)

    with start_worker(app):
        assert now_and_then.apply_async(time_limit=0.05).get(PATIENCE_S) == 2


def test_a_soft_time_limit_is_raised_in_the_task(app):
    @app.task(name="soft", soft_time_limit=0.02)
    def soft():
        never = threading.Event()
        try:
            while True:
                never.wait(0.001)
        except exceptions.SoftTimeLimitExceeded:
            return "in time"

    with start_worker(app):
        assert soft.delay().get(PATIENCE_S) == "in time"


# --- the end ---------------------------------------------------------------------------------------


def test_what_runs_is_finished_before_the_worker_ends(app, gate):
    ended = []
    task = app.task(name="finishes")(lambda: ended.append(gate.wait(PATIENCE_S)))
    with start_worker(app) as worker:
        task.delay()
        runs(worker)
        threading.Timer(0.02, gate.set).start()
    assert ended == [True]


def test_a_worker_that_does_not_end_in_time_names_what_runs_and_interrupts_it(app):
    # Given a task that does not end
    task = registered(app, spin)
    with pytest.raises(WorkerStillRuns) as caught, start_worker(app, shutdown_timeout=0.02) as worker:  # noqa: PT012
        result = task.delay(PATIENCE_S)
        runs(worker)

    # Then the error names it, and it does not run any more
    assert caught.value.tasks == [f"spin[{result.id}]"]
    assert caught.value.alive == []
    assert f"after 0.02 s still ran spin[{result.id}]" in str(caught.value)


def test_a_task_that_hears_nothing_is_named_as_one_that_goes_on(app, gate):
    task = app.task(name="deaf")(gate.wait)
    with pytest.raises(WorkerStillRuns) as caught, start_worker(app, shutdown_timeout=0.02) as worker:  # noqa: PT012
        result = task.delay()
        runs(worker)
    assert caught.value.alive == [f"deaf[{result.id}]"]
    assert "a thread can't be killed" in str(caught.value)


def test_the_error_of_the_test_goes_before_that_of_the_end(app):
    task = registered(app, spin)
    with pytest.raises(ZeroDivisionError) as caught, start_worker(app, shutdown_timeout=0.02) as worker:  # noqa: PT012
        task.delay(PATIENCE_S)
        runs(worker)
        1 / 0  # noqa: B018
    assert "still ran spin[" in caught.value.__notes__[0]


def test_a_process_that_a_task_forks_does_not_come_out_of_the_test(app):
    @app.task(name="forks")
    def forks():
        pid = os.fork()
        return pid and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with start_worker(app):
        assert forks.delay().get(PATIENCE_S) == 0


def test_the_handlers_of_signals_are_those_of_the_test(app):
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with start_worker(app):
        assert {number: signal.getsignal(number) for number in kept} == kept
        assert signal.set_wakeup_fd(-1) == -1


def test_the_stacks_of_a_worker_are_asked_for_without_a_signal(app, caplog):
    with start_worker(app) as worker:
        worker.node.on_signal(signal.SIGUSR1)
        worker.ping()
        worker.ping()
    assert "the supervisor (pid" in caplog.text
