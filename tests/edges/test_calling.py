"""Calling tasks: what is sent for a call, and what is refused before anything is sent."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import mesh
from mesh import exceptions as ex
from mesh import ids
from mesh.app import current_app
from mesh.messages import Flag
from mesh.request import enter_request, leave_request
from tests.edges.recording import RecordingMesh

ROOT = Path(__file__).parents[2]
HERE = __name__


@pytest.fixture
def app():
    return RecordingMesh("proj")


@pytest.fixture
def add(app):
    @app.task
    def add(x, y=1):
        return x + y

    return add


# --- defining ------------------------------------------------------------------------------------


def test_a_task_is_named_after_its_module_and_function(app, add):
    assert add.name == f"{HERE}.add"
    assert app.tasks[add.name] is add
    assert app.tasks.find(add.name).run(2, 3) == 5


def test_the_decorator_works_with_and_without_parentheses_and_keeps_what_the_function_says_of_itself(app):
    # Given the three ways to write it
    def shout(text: str) -> str:
        """Loud."""
        return text.upper()

    plain, empty, named = app.task(shout), app.task()(shout), app.task(name="loud")(shout)

    # Then each is that function
    assert [task("a") for task in (plain, empty, named)] == ["A", "A", "A"]
    assert (named.name, named.__name__, named.__doc__, named.__module__) == ("loud", "shout", "Loud.", HERE)


def test_a_task_of_a_script_bears_the_name_of_its_app(app):
    def add():
        pass

    add.__module__ = "__main__"

    assert app.task(add).name == "proj.add"


def test_a_task_of_a_script_whose_app_has_no_name_bears_that_of_the_script(tmp_path):
    # Given a script
    script = tmp_path / "jobs.py"
    script.write_text("from mesh import Mesh\napp = Mesh()\n@app.task\ndef add(): pass\nprint(add.name)\n")

    # When it runs, then its task is named as others would import it
    assert _python(str(script)) == "jobs.add"


def test_a_bound_task_gets_itself_and_callers_leave_it_out(app):
    # Given a bound task
    @app.task(bind=True)
    def who(self, x):
        return self, x

    # When it is called, and sent
    task, x = who(7)
    who.delay(8)

    # Then it sees itself, and nobody passes `self`
    assert (task, x) == (who, 7)
    assert app.last.args == [8]
    definition = app.tasks.find(who.name)
    assert definition.bind
    assert definition.run(definition.task, 9) == (who, 9)
    assert who.run(9) == (who, 9)


def test_a_module_that_is_imported_again_replaces_its_task(app):
    def make():
        @app.task(name="again")
        def again():
            pass

        return again

    first, second = make(), make()

    assert first is not second
    assert app.tasks["again"] is second


def test_two_functions_cannot_share_a_name(app):
    app.task(name="same")(len)

    with pytest.raises(ex.TaskNameTaken, match="'same' belongs to len"):
        app.task(name="same")(max)


def test_what_a_task_throws_is_told_to_the_slot(app):
    @app.task(throws=(KeyError, ValueError))
    def look():
        pass

    assert app.tasks.find(look.name).throws == (KeyError, ValueError)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({"quue": "x"}, ex.UnknownOption, "did you mean 'queue'", id="misspelt"),
        pytest.param({"colour": "red"}, TypeError, "no option 'colour'", id="unknown is a TypeError as in Python"),
        pytest.param({"autoretry_for": ()}, ex.OptionNotAvailable, "not offer it yet", id="Celery's, not yet"),
        pytest.param({"serializer": "json"}, ex.OptionNotAvailable, "msgpack", id="Celery's, without meaning here"),
        pytest.param({"queue": "a,b"}, ex.InvalidCall, "queue name", id="a queue with a comma"),
        pytest.param({"priority": 10}, ex.InvalidCall, "from 0 to 9", id="a priority above 9"),
        pytest.param({"ignore_result": 1}, ex.InvalidCall, "True or False", id="a number for a switch"),
        pytest.param({"expires": "soon"}, ex.InvalidCall, "seconds from now", id="no time"),
        pytest.param({"throws": "ValueError"}, ex.InvalidCall, "exception classes", id="a text for exceptions"),
        pytest.param({"name": 7}, ex.InvalidCall, "a task name", id="a number for a name"),
        pytest.param({"bind": "yes"}, ex.InvalidCall, "True or False", id="a text for a switch"),
        pytest.param({"durability": "disk"}, ex.InvalidCall, "'journaled'", id="a durability that is none"),
        pytest.param({"delivery_mode": 3}, ex.InvalidCall, "'persistent'", id="a delivery mode that is none"),
    ],
)
def test_an_option_that_cannot_be_is_refused_where_the_task_is_defined(app, options, error, words):
    with pytest.raises(error, match=words):
        app.task(**options)(_function)

    assert len(app.tasks) == 0


def _function():
    pass


def _generator():
    yield


@pytest.mark.parametrize(
    ("function", "error"),
    [
        pytest.param(_generator, ex.OptionNotAvailable, id="a generator"),
        pytest.param(7, ex.InvalidCall, id="a number"),
        pytest.param("name", ex.InvalidCall, id="a name without its keyword"),
        pytest.param(lambda: 1, ex.InvalidCall, id="a lambda, which has no name"),
        pytest.param(functools.partial(print), ex.InvalidCall, id="a partial, which has no name"),
    ],
)
def test_what_cannot_be_a_task_is_refused(app, function, error):
    with pytest.raises(error):
        app.task(function)


def test_a_task_is_not_decorated_twice(app, add):
    with pytest.raises(ex.InvalidCall, match="decorated only once"):
        app.task(name="twice")(add)


# --- sending -------------------------------------------------------------------------------------


def test_delay_sends_the_arguments_with_the_defaults(app, add):
    result = add.delay(2, y=3)

    sent = app.last
    assert (sent.name, sent.queue, sent.priority, sent.flags, sent.options) == (add.name, "celery", 0, 0, None)
    assert (sent.args, sent.kwargs) == ([2], {"y": 3})
    assert result.id == result.task_id == ids.to_text(sent.pending.task_id)


def test_calling_a_task_like_a_function_sends_nothing(app, add):
    assert add(2, 2) == 4
    assert "opened" not in vars(app)


def test_apply_async_sends_the_options_of_the_call(app, add):
    before = time.time()
    add.apply_async(
        (2,), {"y": 3}, queue="lopri", countdown=10, expires=60, priority=9, task_id="mine", headers={"trace": [1]}
    )

    sent = app.last
    assert (sent.args, sent.kwargs, sent.queue, sent.priority) == ([2], {"y": 3}, "lopri", 9)
    assert sent.options.keys() == {"id", "eta", "expires", "headers"}
    assert (sent.options["id"], sent.options["headers"]) == ("mine", {"trace": [1]})
    assert 10 <= sent.options["eta"] - before < 11
    assert 60 <= sent.options["expires"] - before < 61


@pytest.mark.parametrize(
    ("task", "call", "flags"),
    [
        pytest.param({}, {}, Flag.NONE, id="nothing said"),
        pytest.param({}, {"ignore_result": True}, Flag.IGNORE_RESULT, id="ignored by the call"),
        pytest.param({"ignore_result": True}, {}, Flag.IGNORE_RESULT, id="ignored by the task"),
        pytest.param({"ignore_result": True}, {"ignore_result": False}, Flag.NONE, id="the call goes before the task"),
        pytest.param({"track_started": True}, {}, Flag.TRACK_STARTED, id="tracked"),
        pytest.param({"acks_late": False}, {}, Flag.EARLY_ACK, id="early ack by the task"),
        pytest.param({}, {"acks_late": False}, Flag.EARLY_ACK, id="early ack by the call"),
        pytest.param({"acks_late": False}, {"acks_late": True}, Flag.NONE, id="late ack by the call"),
        pytest.param({}, {"durability": "none"}, Flag.TRANSIENT, id="not journaled"),
        pytest.param({}, {"durability": "synced"}, Flag.SYNCED, id="synced"),
        pytest.param({"durability": "synced"}, {}, Flag.SYNCED, id="synced by the task"),
        pytest.param({"durability": "synced"}, {"durability": "none"}, Flag.TRANSIENT, id="not journaled by the call"),
        pytest.param({"durability": "none"}, {"durability": "journaled"}, Flag.NONE, id="journaled by the call"),
        pytest.param({}, {"delivery_mode": 1}, Flag.TRANSIENT, id="transient by its number"),
        pytest.param({}, {"delivery_mode": "transient"}, Flag.TRANSIENT, id="transient"),
        pytest.param({"delivery_mode": "transient"}, {}, Flag.TRANSIENT, id="transient by the task"),
        pytest.param({"durability": "none"}, {"delivery_mode": 2}, Flag.NONE, id="persistent by its number"),
        pytest.param({"durability": "none"}, {"delivery_mode": "persistent"}, Flag.NONE, id="persistent"),
    ],
)
def test_flags_come_from_the_call_then_the_task(app, task, call, flags):
    app.task(name="t", **task)(_function).apply_async(**call)

    assert app.last.flags == flags


def test_a_task_sent_by_name_has_the_durability_of_the_settings_or_of_the_call(app):
    app.conf.task_durability = "none"

    app.send_task("t")
    app.send_task("t", durability="synced")

    assert [sent.flags for sent in app.opened[0].sent] == [Flag.TRANSIENT, Flag.SYNCED]


def test_settings_stand_behind_tasks_and_a_change_holds_from_the_next_call(app, add):
    # Given a task that has been called
    add.delay(1)

    # When settings change, and then an option of the task
    app.conf.update(task_default_queue="other", task_default_priority=3, task_track_started=True, task_acks_late=False)
    app.conf.update(task_durability="synced", result_persistent=True)
    add.delay(1)
    second = app.last
    add.queue = "own"
    add.delay(1)

    # Then each call has what held when it was made
    assert app.opened[0].sent[0].queue == "celery"
    assert (second.queue, second.priority) == ("other", 3)
    assert second.flags == Flag.TRACK_STARTED | Flag.EARLY_ACK | Flag.SYNCED | Flag.KEEP_RESULT
    assert app.last.queue == "own"


def test_an_option_set_later_is_checked_too(add):
    with pytest.raises(ex.InvalidCall):
        add.priority = 11


def test_expires_of_a_task_counts_from_each_call(app):
    task = app.task(name="t", expires=30)(_function)
    before = time.time()

    task.delay()
    task.apply_async(expires=90)

    delayed, applied = (sent.options["expires"] - before for sent in app.opened[0].sent)
    assert 30 <= delayed < 31
    assert 90 <= applied < 91


def test_a_task_is_sent_by_name_alone(app):
    result = app.send_task("elsewhere.add", [2], {"y": 3}, queue="far", task_id="n-1")

    sent = app.last
    assert (sent.name, sent.args, sent.kwargs, sent.queue) == ("elsewhere.add", [2], {"y": 3}, "far")
    assert result.id == "n-1"


def test_a_batch_is_the_clients(app, add):
    with app.batch():
        add.delay(1)

    assert app.opened[0].batches == 1


# --- times ---------------------------------------------------------------------------------------

NOON = datetime(2040, 1, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("eta", "conf"),
    [
        pytest.param(datetime(2040, 1, 1, 12, tzinfo=UTC), {}, id="aware"),
        pytest.param(datetime(2040, 1, 1, 14, tzinfo=timezone(timedelta(hours=2))), {}, id="aware, elsewhere"),
        pytest.param(datetime(2040, 1, 1, 12), {}, id="without a zone it is UTC"),
        pytest.param("2040-01-01T12:00:00Z", {}, id="a text"),
        pytest.param("2040-01-01T12:00:00", {}, id="a text without a zone is UTC"),
        pytest.param("2040-01-01T07:00:00-05:00", {}, id="a text with an offset"),
        pytest.param(datetime(2040, 1, 1, 13), {"timezone": "Europe/Berlin"}, id="without a zone, in `timezone`"),
    ],
)
@pytest.mark.parametrize("option", ["eta", "expires"])
def test_times_become_wall_seconds(app, add, option, eta, conf):
    app.conf.update(conf)

    add.apply_async((1,), **{option: eta})

    assert app.last.options == {option: NOON}


def test_without_utc_a_time_without_a_zone_is_local(app, add):
    app.conf.enable_utc = False

    add.apply_async((1,), eta=datetime(2040, 1, 1, 12))

    assert app.last.options == {"eta": datetime(2040, 1, 1, 12).timestamp()}


@pytest.mark.parametrize("expires", [-5, datetime(2020, 1, 1, tzinfo=UTC), "2020-01-01"])
def test_an_expiry_in_the_past_is_clamped_with_a_warning(app, add, expires, caplog):
    before = time.time()

    with caplog.at_level(logging.WARNING):
        add.apply_async((1,), expires=expires)

    assert before <= app.last.options["expires"] <= time.time()
    assert [record.action for record in caplog.records] == ["expires_clamped"]


# --- refusals at the call ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({"countdown": 1, "eta": datetime(2040, 1, 1)}, ex.InvalidCall, "not both", id="countdown and eta"),
        pytest.param({"countdown": "1"}, ex.InvalidCall, "seconds", id="a text for seconds"),
        pytest.param({"countdown": float("nan")}, ex.InvalidCall, "seconds", id="no number"),
        pytest.param({"eta": 5}, ex.InvalidCall, "a datetime or", id="a number for a time"),
        pytest.param({"eta": "tomorrow"}, ex.InvalidCall, "ISO 8601", id="a text that is no time"),
        pytest.param({"expires": True}, ex.InvalidCall, "seconds from now", id="a switch for a time"),
        pytest.param({"priority": -1}, ex.InvalidCall, "0 to 9", id="a priority below 0"),
        pytest.param({"priority": True}, ex.InvalidCall, "0 to 9", id="a switch for a priority"),
        pytest.param({"queue": ""}, ex.InvalidCall, "queue name", id="an empty queue"),
        pytest.param({"queue": "a b"}, ex.InvalidCall, "queue name", id="a queue with a space"),
        pytest.param({"queue": "\ud800"}, ex.InvalidCall, "queue name", id="a queue that is no text"),
        pytest.param({"queue": "-Q"}, ex.InvalidCall, "queue name", id="a queue like an option"),
        pytest.param({"task_id": 7}, ex.InvalidCall, "printable", id="a number for an id"),
        pytest.param({"headers": {1: 2}}, ex.InvalidCall, "texts as keys", id="a header without a name"),
        pytest.param({"headers": {"x": object()}}, ex.UnserialisableArgument, "headers", id="a header that is nothing"),
        pytest.param({"acks_late": 0}, ex.InvalidCall, "True or False", id="a number for a switch"),
        pytest.param({"durability": True}, ex.InvalidCall, "'synced'", id="a switch for a durability"),
        pytest.param({"delivery_mode": "disk"}, ex.InvalidCall, "'transient'", id="a delivery mode that is none"),
        pytest.param({"delivery_mode": True}, ex.InvalidCall, "'transient'", id="a switch for a delivery mode"),
        pytest.param({"delivery_mode": [1]}, ex.InvalidCall, "'transient'", id="a list for a delivery mode"),
        pytest.param({"durability": "none", "delivery_mode": 1}, ex.InvalidCall, "not both", id="two durabilities"),
        pytest.param({"countdwon": 1}, ex.UnknownOption, "'countdown'", id="misspelt"),
        pytest.param({"link": None}, ex.OptionNotAvailable, "yet", id="Celery's, not yet"),
        pytest.param({"routing_key": "x"}, ex.OptionNotAvailable, "queue=", id="Celery's, with another name here"),
        pytest.param({"retry": True}, ex.OptionNotAvailable, "no broker", id="Celery's, without meaning here"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_the_call(app, add, options, error, words):
    with pytest.raises(error, match=words):
        add.apply_async((1,), **options)
    with pytest.raises(error, match=words):
        app.send_task("t", (1,), **options)

    assert not any(client.sent for client in vars(app).get("opened", []))


def test_an_id_of_meshs_own_cannot_be_given_to_another_task(app, add):
    result = add.delay(1)

    with pytest.raises(ex.InvalidCall, match="an id of your own"):
        add.apply_async((1,), task_id=result.id)
    assert add.apply_async((1,), task_id=str(uuid.uuid4())).id == app.last.options["id"]


@pytest.mark.parametrize("args", ["ab", b"ab", {"x": 1}, 5])
def test_arguments_that_are_no_sequence_are_refused(add, args):
    with pytest.raises(ex.InvalidCall, match=re.escape("such as (2, 2)")):
        add.apply_async(args)


def test_an_argument_that_cannot_be_sent_is_refused_at_the_call(app, add):
    with pytest.raises(ex.UnserialisableArgument, match=r"args\[1\]"):
        add.delay(1, object())

    assert app.opened[0].sent == []


# --- arity ---------------------------------------------------------------------------------------


def plain(x, y): ...
def optional(x, y=2): ...
def only_positional(x, /, y): ...
def all_positional(x, y=1, /): ...
def only_keyword(x, *, key): ...
def keyword_default(x, *, key=1): ...
def many(x, *rest): ...
def anything(*args, **kwargs): ...
def named_like_kwargs(x, /, **kwargs): ...
def nothing(): ...


class Adder:
    def __call__(self, x, y): ...

    def method(self, x, y=1): ...


SHAPES = [
    plain,
    optional,
    only_positional,
    all_positional,
    only_keyword,
    keyword_default,
    many,
    anything,
    named_like_kwargs,
    nothing,
    Adder(),
    Adder().method,
    functools.partial(plain, 1),
    functools.partial(optional, y=1),
]
CALLS = [
    ((), {}),
    ((1,), {}),
    ((1, 2), {}),
    ((1, 2, 3), {}),
    ((), {"x": 1}),
    ((), {"x": 1, "y": 2}),
    ((1,), {"y": 2}),
    ((1,), {"x": 2}),
    ((1,), {"key": 2}),
    ((), {"x": 1, "key": 2}),
    ((1,), {"z": 2}),
    ((1, 2), {"y": 2}),
]


@pytest.mark.parametrize(
    "function", SHAPES, ids=lambda function: getattr(function, "__name__", type(function).__name__)
)
@pytest.mark.parametrize(("args", "kwargs"), CALLS)
def test_what_python_would_refuse_is_refused_before_it_is_sent(app, function, args, kwargs):
    # Given what Python says of the call
    try:
        function(*args, **kwargs)
        refusal = None
    except TypeError as error:
        refusal = str(error)
    task = app.task(name="t")(function)

    # When the task is sent, then it says the same
    for send in (lambda: task.delay(*args, **kwargs), lambda: task.apply_async(args, kwargs)):
        if refusal is None:
            send()
            assert (app.last.args, app.last.kwargs) == (list(args), kwargs)
        else:
            with pytest.raises(ex.WrongArguments) as caught:
                send()
            assert isinstance(caught.value, TypeError)
            assert "'t'" in str(caught.value)
            assert "opened" not in vars(app) or not app.opened[0].sent


def test_the_refusal_is_in_pythons_own_words(app, add):
    with pytest.raises(TypeError) as caught:
        add.delay(1, 2, 3)

    with pytest.raises(TypeError) as pythons:
        add.run(1, 2, 3)
    assert str(caught.value) == f"{pythons.value} (task {add.name!r}; nothing was sent)"


def test_self_of_a_bound_task_is_not_counted(app):
    @app.task(bind=True)
    def bound(self, x):
        pass

    with pytest.raises(ex.WrongArguments, match="takes 1 positional argument but 2 were given"):
        bound.delay(1, 2)
    with pytest.raises(ex.WrongArguments, match="missing 1 required positional argument: 'x'"):
        bound.delay()


def test_a_task_without_typing_sends_any_arguments(app):
    app.task(name="t", typing=False)(plain).delay(1, 2, 3, z=4)

    assert app.last.args == [1, 2, 3]


def test_a_wrapper_that_adds_an_argument_is_asked_itself(app):
    def with_connection(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function("connection", *args, **kwargs)

        return wrapper

    class WithConnection:
        def __init__(self, function):
            functools.update_wrapper(self, function)

        def __call__(self, *args, **kwargs):
            return vars(self)["__wrapped__"]("connection", *args, **kwargs)

    for number, wrapper in enumerate((with_connection, WithConnection)):
        app.task(name=f"t{number}")(wrapper(plain)).delay(1)
        assert app.last.args == [1]


# --- the app -------------------------------------------------------------------------------------


def test_an_attribute_that_an_app_does_not_have_is_refused_with_what_to_do(app):
    with pytest.raises(ex.UnknownAttribute, match="did you mean 'send_task'"):
        app.send_tsk  # noqa: B018
    with pytest.raises(AttributeError, match="not offer it yet"):
        app.autodiscover_tasks  # noqa: B018
    assert not hasattr(app, "nothing_like_it")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({"borker": "x"}, ex.UnknownOption, "'broker'", id="misspelt"),
        pytest.param({"result_expires": 5}, ex.OptionNotAvailable, "app.conf.result_expires", id="a setting"),
        pytest.param({"loader": "x"}, ex.OptionNotAvailable, "yet", id="Celery's"),
        pytest.param({"broker": "amqp://guest:pw@host//"}, ex.UnsupportedURL, "mesh://default", id="another broker"),
        pytest.param({"backend": "redis://h"}, ex.UnsupportedURL, "rpc://", id="another backend"),
    ],
)
def test_an_app_refuses_what_it_does_not_know(options, error, words):
    with pytest.raises(error, match=words) as caught:
        RecordingMesh("proj", **options)

    assert "pw@" not in str(caught.value)


class _Announced:
    """A lock that says when somebody has to wait for it."""

    def __init__(self):
        self.waited_for = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self):
        if not self._lock.acquire(blocking=False):
            self.waited_for.set()
            self._lock.acquire()

    def __exit__(self, *exc_info):
        self._lock.release()


def test_one_client_is_made_on_first_use_whoever_comes_first(app, add, monkeypatch):
    # Given an app that is connecting, where a second thread comes meanwhile
    app._lock = lock = _Announced()
    second = threading.Thread(target=add.delay, args=(1,))
    open_client = app._open_client

    def slow_to_open(settings):
        if not second.is_alive():
            second.start()
            assert lock.waited_for.wait(10)
        return open_client(settings)

    monkeypatch.setattr(app, "_open_client", slow_to_open)

    # When both have called
    add.delay(2)
    second.join()

    # Then it was through one client
    assert len(app.opened) == 1
    assert sorted(sent.args for sent in app.opened[0].sent) == [[1], [2]]


def test_a_closed_app_connects_again(app, add):
    add.delay(1)
    app.close()
    app.close()
    add.delay(2)

    assert [client.closed for client in app.opened] == [True, False]
    assert app.last.args == [2]


def test_leaving_the_context_closes_the_app(add):
    with add.app as app:
        add.delay(1)

    assert app.opened[0].closed


def test_a_forked_child_gets_a_client_of_its_own(app, add):
    # Given an app that is connected, with its lock held by a thread that the child will not have
    result = add.delay(1)
    read_fd, write_fd = os.pipe()
    with app._lock:
        # When the process forks and the child calls, and reads a result of its parent
        pid = os.fork()
        if pid == 0:
            add.delay(2)
            parents, own = app.opened
            result._live()
            seen = f"{len(parents.sent)} {len(own.sent)} {parents.closed} {own.watched == [result._pending.task_id]}"
            os.write(write_fd, seen.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write_fd)
    with open(read_fd) as pipe:
        seen = pipe.read()

    # Then it did so through a client of its own, and left its parent's alone
    assert seen == "1 1 False True"
    add.delay(3)
    assert len(app.opened) == 1


def test_the_current_app_is_the_one_made_last(app):
    assert current_app.main == "proj"
    later = RecordingMesh("later")
    RecordingMesh("aside", set_as_current=False)

    assert current_app.main == "later"
    assert mesh.current_app.tasks is later.tasks


def test_a_task_can_be_pickled_and_comes_back_as_the_same_task(add):
    assert pickle.loads(pickle.dumps(add)) is add


def test_start_runs_the_command_line_with_the_app(app, monkeypatch):
    calls: list[object] = []
    monkeypatch.setitem(sys.modules, "mesh_cli", _CommandLine(calls))

    app.start(["worker", "-c", "2"])
    app.worker_main(["-c", "2"])
    monkeypatch.setattr(sys, "argv", ["tasks.py", "status"])
    app.start()

    assert calls == [(["worker", "-c", "2"], app), (["worker", "-c", "2"], app), (["status"], app)]


class _CommandLine:
    def __init__(self, calls):
        self.main = lambda argv, app: calls.append((argv, app))


# --- the request ---------------------------------------------------------------------------------


def test_a_task_run_by_a_slot_sees_its_request(app, add):
    # Given what a slot puts down before it runs a task
    stamp = ids.stamp(ids.prefix(b"owner!", 5), 7)
    options = {"headers": {"a": 1}, "id": "mine", "eta": 5.0, "parent": stamp}
    enter_request(stamp, add.name, 2, Flag.REDELIVERED | Flag.IGNORE_RESULT, options, "w1@host", [1], {"y": 2})

    # When the task looks
    try:
        request = add.request
        current = app.current_task
    finally:
        leave_request()

    # Then it sees its run
    assert (request.id, request.task, request.args, request.kwargs) == ("mine", add.name, (1,), {"y": 2})
    assert (request.attempt, request.retries, request.hostname) == (2, 0, "w1@host")
    assert (request.delivery_info, request.headers) == ({"redelivered": True}, {"a": 1})
    assert (request.called_directly, request.is_eager, request.ignore_result) == (False, False, True)
    assert (request.eta, request.expires, request.parent_id) == (5.0, None, ids.to_text(stamp))
    assert request.get("nothing", "else") == "else"
    assert current is add
    assert app.current_task is None


def test_a_task_that_calls_another_like_a_function_keeps_its_own_request(app, add):
    # Given a task that runs in a slot and calls another
    @app.task(bind=True)
    def inner(self):
        return self.request.called_directly, self.request.id, add.request.id

    enter_request(ids.stamp(ids.prefix(b"owner!", 5), 7), add.name)
    try:
        inside = inner()
        own = add.request.id
    finally:
        leave_request()

    # Then each sees its own run
    assert inside == (True, None, own)
    assert own is not None
    assert add.request.called_directly


# --- types and imports ---------------------------------------------------------------------------


def _python(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    return (done.stdout + done.stderr).strip()


def test_the_package_alone_imports_nothing_that_a_router_does_not_need():
    loaded = _python("-c", "import mesh, sys; print(sorted(name for name in sys.modules if name.startswith('mesh')))")

    assert loaded == "['mesh']"


SNIPPET = """
from mesh import Mesh

app = Mesh("proj")

@app.task
def add(x: int, y: int) -> int:
    return x + y

@app.task(bind=True, queue="q")
def bound(self: object, x: int) -> str:
    return str(x)

@app.task(name="n")
def named(x: int) -> None: ...

@app.task
async def later(x: int) -> float:
    return x / 2

@app.task(bind=True)
async def bound_later(self: object, x: int) -> bytes:
    return bytes(x)

@app.task(name="l")
async def named_later(x: int) -> bool:
    return bool(x)

reveal_type(add.delay(1, 2).get())
reveal_type(bound.delay(1).get())
reveal_type(add(1, 2))
reveal_type(add.AsyncResult("x").get())
reveal_type(later.delay(1).get())
reveal_type(bound_later.delay(1).get())
reveal_type(named_later.delay(1).get())
add.delay(1, "x")  # wrong
add.delay(1)  # wrong
bound.delay("x")  # wrong
named.delay(x="x")  # wrong
add(1, "x")  # wrong
later.delay("x")  # wrong
bound_later.delay("x")  # wrong
"""


@pytest.mark.slow
def test_a_wrong_argument_is_a_type_error(tmp_path):
    # Given code that calls tasks rightly and wrongly
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)

    # When it is checked
    said = _python("-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), str(snippet))

    # Then the right ones have their types and the wrong ones are errors, each of them
    lines = [line for line in said.splitlines() if "snippet.py" in line]
    revealed = re.findall(r'Revealed type is "(?:builtins\.)?(\w+)"', said)
    wrong = {number for number, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# wrong")}
    assert revealed == ["int", "str", "int", "int", "float", "bytes", "bool"], said
    assert {int(line.split(":")[1]) for line in lines if " error: " in line} == wrong, said
