"""What `app.control` and the commands make of the nodes' answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import click
import pytest

from mesh import bodies, ids
from mesh.control import Control
from mesh.messages import Flag, Replies
from mesh.settings import Settings
from mesh_cli import inspect as inspect_command
from mesh_cli import status as status_command
from mesh_cli import text

TASK = ids.stamp(ids.prefix(b"owner!", 7), 1)


class Link:
    """Stands for a client: answers every request alike, and remembers it."""

    def __init__(self, values: dict[str, Any], errors: dict[str, str] | None = None) -> None:
        self.replies = Replies(1, values, errors or {})
        self.asked: list[tuple[Any, ...]] = []

    def request(self, *asked: Any) -> Replies:
        self.asked.append(asked)
        return self.replies


class App(NamedTuple):
    client: Link
    settings: Settings = Settings()


def row(**changes: Any) -> dict[str, Any]:
    """A running task, as it comes from a node by way of the router."""
    return {
        "id": TASK,
        "custom_id": None,
        "name": "proj.tasks.add",
        "attempt": 0,
        "slot": 1,
        "pid": 4711,
        "started_wall_s": 1.5,
        "queue": "celery",
        "priority": 3,
        "flags": 0,
        "body": bodies.encode_call([2, (3,)], {"x": {4}})[0],
        "redelivered": False,
    } | changes


# --- app.control ---------------------------------------------------------------------------------


def test_a_running_task_has_the_keys_that_celery_gives_it() -> None:
    # Given a node that runs one task
    app = App(Link({"w1@a": [row()]}))

    # When it is asked what it runs
    found = Control(app).inspect(timeout=2.5).active()

    # Then the answer reads as Celery's, with arguments as they were passed
    assert found == {
        "w1@a": [
            {
                "id": ids.to_text(TASK),
                "name": "proj.tasks.add",
                "args": [2, (3,)],
                "kwargs": {"x": {4}},
                "type": "proj.tasks.add",
                "hostname": "w1@a",
                "time_start": 1.5,
                "acknowledged": False,
                "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 3, "redelivered": False},
                "worker_pid": 4711,
                "attempt": 0,
            }
        ]
    }
    assert app.client.asked == [("active", {}, None, 2.5)]


@pytest.mark.parametrize(
    ("desc", "changes", "field", "value"),
    [
        ("an id of the caller's own", {"custom_id": "mine"}, "id", "mine"),
        ("an early ack", {"flags": int(Flag.EARLY_ACK | Flag.TRACK_STARTED)}, "acknowledged", True),
        ("a body too large to be sent along", {"body": None}, "args", None),
        ("a body that is not to be decoded here", {"body": b"\xc1"}, "args", None),
        ("no arguments", {"body": bodies.encode_call([], {})[0]}, "args", []),
    ],
)
def test_what_a_row_can_hold_is_shown(desc: str, changes: dict[str, Any], field: str, value: Any) -> None:
    found = Control(App(Link({"w1@a": [row(**changes)]}))).inspect("w1@a").active()
    assert found[0][field] == value, desc


def test_a_task_that_ended_while_the_answer_was_on_its_way_is_shown_as_far_as_it_is_known() -> None:
    # Given a row that the router had nothing to add to
    bare = {key: row()[key] for key in ("id", "name", "attempt", "slot", "pid", "started_wall_s")}

    # When it is shown, then what is missing is None
    (found,) = Control(App(Link({"w1@a": [bare]}))).inspect("w1@a").active()
    assert found["id"] == ids.to_text(TASK)
    assert (found["args"], found["delivery_info"]["routing_key"]) == (None, None)


@pytest.mark.parametrize(
    ("destination", "values", "answer", "asked"),
    [
        (None, {"a@x": [], "b@x": []}, {"a@x": [], "b@x": []}, None),
        (["a@x"], {"a@x": []}, {"a@x": []}, ["a@x"]),
        ("a@x", {"a@x": ["t"]}, ["t"], ["a@x"]),
        ("a@x", {}, None, ["a@x"]),
        (None, {}, None, None),
    ],
)
def test_the_answer_has_the_form_that_the_destination_asks_for(
    destination: Any, values: dict[str, Any], answer: Any, asked: list[str] | None
) -> None:
    app = App(Link(values))
    assert Control(app).inspect(destination).registered() == answer
    assert app.client.asked[0][2] == asked


def test_who_did_not_answer_is_named_with_the_reason() -> None:
    inspect = Control(App(Link({"a@x": []}, {"b@x": "no answer in 1 s"}))).inspect()
    assert inspect.active() == {"a@x": []}
    assert inspect.missing == {"b@x": "no answer in 1 s"}


def test_a_ping_answers_as_celery_does_whatever_the_node_says() -> None:
    control = Control(App(Link({"a@x": True, "b@x": {"ok": "pong"}})))
    assert control.ping() == [{"a@x": {"ok": "pong"}}, {"b@x": {"ok": "pong"}}]
    assert control.inspect().ping() == {"a@x": {"ok": "pong"}, "b@x": {"ok": "pong"}}


# --- what is printed -----------------------------------------------------------------------------


def test_answers_stand_below_their_node_as_celery_prints_them() -> None:
    # Given answers of every kind
    values = {"a@x": [], "b@x": ["proj.add", "proj.mul"], "c@x": {"ok": "pong"}, "d@x": {"x": 1}}

    # When they are laid out, without colours
    shown = click.unstyle("\n".join(inspect_command.lines(values, quiet=False)))

    # Then each has its line and its indented body, and the count is last
    assert shown.splitlines() == [
        *("->  a@x: OK", "    - empty -"),
        *("->  b@x: OK", "    * proj.add", "    * proj.mul"),
        *("->  c@x: OK", "    pong"),
        *("->  d@x: OK", "    {", '        "x": 1', "    }"),
        "",
        "4 nodes online.",
    ]


def test_one_node_is_counted_in_the_singular_and_quiet_counts_none() -> None:
    assert inspect_command.lines({"a@x": []}, quiet=False)[-1] == "\n1 node online."
    assert inspect_command.lines({"a@x": []}, quiet=True)[-1] == "    - empty -"


def test_the_status_says_who_is_there_and_what_waits() -> None:
    # Given a router with two nodes, and a long queue
    slots = [{"index": 0, "pid": 1, "state": "busy", "leases": 2}, {"index": 1, "pid": 2, "state": "idle", "leases": 0}]
    values = {
        "router": {
            **{"pid": 12, "boot": "00", "mesh": "lab", "directory": "/tmp/lab", "version": "1.0", "clients": 3},
            **{"uptime_s": 7383.9, "tasks": {"ready": 100000, "waiting": 1, "leased": 2}},
        },
        "nodes": [
            {
                "name": "a@x",
                "pid": 5,
                "template_pid": 6,
                "queues": ["celery", "mail"],
                "concurrency": 2,
                "slots": slots,
            },
            {"name": "b@x", "pid": 7, "template_pid": 8, "queues": None, "concurrency": 0, "slots": []},
        ],
        "queues": [{"name": "celery", "depth": 100000, "waiting": 1, "consumers": 2}],
    }

    # When it is laid out
    shown = click.unstyle("\n".join(status_command._lines(values, quiet=False)))

    # Then it is told apart who asks and who else is connected, and the columns are aligned
    assert shown.splitlines() == [
        "mesh lab in /tmp/lab",
        "router 1.0, pid 12, up 2 h 3 min, 2 clients",
        "tasks: 100000 ready, 1 waiting, 2 leased",
        "",
        "->  a@x: OK",
        "    pid 5, 1 of 2 slots busy, queues: celery, mail",
        "->  b@x: OK",
        "    pid 7, 0 of 0 slots busy, queues: ",
        "",
        "queue    ready  waiting  slots",
        "celery  100000        1      2",
        "",
        "2 nodes online.",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3600, "1 h 0 min"),
        (90061, "1 d 1 h"),
        (8640000, "100 d 0 h"),
    ],
)
def test_a_time_is_shown_in_its_two_largest_units(seconds: float, shown: str) -> None:
    assert text.span(seconds) == shown


@pytest.mark.parametrize(
    ("desc", "value", "plain"),
    [
        ("what JSON knows", {"a": [1, 2.5, None, True, "ü\n"]}, {"a": [1, 2.5, None, True, "ü\n"]}),
        ("tuples", (1, (2,)), [1, [2]]),
        ("a set", {1}, [1]),
        ("bytes", b"abc\xff", "abc\\xff"),
        ("keys that are no text", {1: "x", (2, 3): "y"}, {"1": "x", "(2, 3)": "y"}),
        ("a time", datetime(2026, 8, 1, tzinfo=UTC), "2026-08-01T00:00:00+00:00"),
        ("numbers that JSON has not", [float("nan"), float("-inf")], ["nan", "-inf"]),
        ("whatever else", PurePosixPath("/a"), "/a"),
    ],
)
def test_any_value_becomes_one_line_of_pure_json(desc: str, value: Any, plain: Any) -> None:
    line = text.as_json(value)
    assert json.loads(line, parse_constant=pytest.fail) == plain, desc
    assert "\n" not in line
