"""What the router answers on the control link."""

import pytest

from mesh import messages as m
from mesh.messages import Flag
from tests.core.builders import BOOT, MESH, Peer


def ask(peer, command="ping", number=5, destination=None, timeout_s=1.0, **arguments):
    peer.says(m.Request(number, command, arguments, destination, timeout_s))


def test_a_request_is_answered_when_all_nodes_have_answered(router):
    # Given two nodes, of which one does not answer
    nodes, asker = [router.node("n1"), router.node("n2")], router.asker()
    ask(asker, destination=["n1", "n2", "n3"])

    # When one answers and time is up
    (request,) = nodes[0].take(m.Request)
    nodes[0].says(m.Reply(request.number, True, "pong"))
    assert asker.told == []
    assert router.owner.next_deadline_mono_s() == router.mono_s + 1.0
    router.passes(1.0)

    # Then every name stands in the answer
    errors = {"n3": "no node of this name is known", "n2": "no answer in 1 s"}
    assert asker.told == [m.Replies(5, {"n1": "pong"}, errors)]


@pytest.mark.parametrize("end", ["dies", "says bye", "can't be reached", "takes another name"])
def test_a_node_that_goes_is_named_in_the_answer(router, end):
    node, asker = router.node("n1", pid=7), router.asker()
    ask(asker)
    match end:
        case "dies":
            router.process_ended(7)
        case "says bye":
            node.says(m.Bye("it ends"))
        case "can't be reached":
            router._do(router.owner.unreachable(node.address, router.now))
        case _:
            node.name = "n2"
            node.joins()
    ((_, values, errors),) = asker.told
    assert (values, list(errors)) == ({}, ["n1"])


def test_who_has_not_said_hello_is_told_to(router):
    router.node()
    stranger = Peer(router, b"stranger", control=True)
    ask(stranger)
    assert stranger.told == [m.NeedHello(BOOT)]


def test_status_says_what_the_router_holds(router):
    # Given two slots of a node, a task that runs, one that waits for its time, one that nobody takes, and an outcome
    client, node = router.client(), router.node("n", queues=["q"], concurrency=2, template_pid=9)
    slots = [node.slot(0), node.slot(1)]
    slots[0].ends(client.call())
    client.call()
    client.call(options={"eta": router.now.wall_s + 60})
    client.call(queue="elsewhere")
    router.passes(30.0)

    # When somebody asks
    asker = router.asker()
    ask(asker, "status")

    # Then all of it is told
    (replies,) = asker.take(m.Replies)
    told = replies.values
    assert (replies.number, replies.errors) == (5, {})
    assert told["router"]["tasks"] == {"ready": 1, "waiting": 1, "leased": 1}
    assert (told["router"]["uptime_s"], told["router"]["mesh"], told["router"]["clients"]) == (30.0, MESH, 1)
    assert told["router"]["outcomes"]["count"] == 1
    assert (told["router"]["pid"], told["router"]["directory"], told["router"]["boot"]) == (1, "/mesh", BOOT.hex())
    (shown,) = told["nodes"]
    assert (shown["name"], shown["pid"], shown["concurrency"], shown["template_pid"]) == ("n", node.pid, 2, 9)
    assert shown["queues"] == ["q"]
    assert [(slot["index"], slot["pid"], slot["state"]) for slot in shown["slots"]] == [
        (0, slots[0].pid, "busy"),
        (1, slots[1].pid, "idle"),
    ]
    assert told["queues"] == [
        {"name": "elsewhere", "depth": 1, "waiting": 0, "consumers": 0},
        {"name": "q", "depth": 0, "waiting": 1, "consumers": 2},
    ]


def test_what_a_node_says_of_running_tasks_is_completed_by_the_owner(router):
    # Given a slot that runs a task
    client, node, asker = router.client(), router.node("n"), router.asker()
    slot = node.slot()
    task_id = client.call(priority=3, flags=Flag.TRACK_STARTED, body=b"args", options={"id": "order-17"})
    slot.looks()

    # When its node says so, and runs another one that nobody knows
    ask(asker, "active")
    (request,) = node.take(m.Request)
    node.says(m.Reply(request.number, True, [{"id": task_id, "pid": slot.pid}, {"id": b"?" * 16}, "nonsense"]))

    # Then what only the owner knows stands beside it
    ((_, values, _),) = asker.told
    known, unknown, nonsense = values["n"]
    assert known == {
        **{"id": task_id, "pid": slot.pid, "custom_id": "order-17", "name": "t", "queue": "q"},
        **{"priority": 3, "flags": Flag.TRACK_STARTED, "body": b"args", "redelivered": False},
    }
    assert (unknown, nonsense) == ({"id": b"?" * 16}, "nonsense")


def test_a_task_that_had_begun_before_is_told_as_redelivered(router):
    # Given a task that runs for the second time
    client, node, asker = router.client(), router.node("n"), router.asker()
    first = node.slot(0)
    task_id = client.call()
    first.looks()
    first.dies(begun=1)
    node.slot(1).looks()

    # When its node says so
    ask(asker, "active")
    (request,) = node.take(m.Request)
    node.says(m.Reply(request.number, True, [{"id": task_id}]))

    # Then the owner adds it
    ((_, values, _),) = asker.told
    assert values["n"][0]["redelivered"] is True


@pytest.mark.parametrize(
    ("body", "frames"),
    [
        pytest.param(b"x" * 4097, (), id="a large body"),
        pytest.param(b"x", (b"frame",), id="a body with frames"),
    ],
)
def test_large_arguments_are_not_shown(router, body, frames):
    client, node, asker = router.client(), router.node("n"), router.asker()
    slot = node.slot()
    client.publishes(client.record(body=body, n_frames=len(frames)), frames=frames)
    ask(asker, "active")
    (request,) = node.take(m.Request)
    node.says(m.Reply(request.number, True, [{"id": slot.holds()[0]}]))
    assert asker.take(m.Replies)[0].values["n"][0]["body"] is None


@pytest.mark.parametrize(
    ("ok", "value"),
    [
        pytest.param(False, "no such command", id="a failure"),
        pytest.param(True, {"ok": "pong"}, id="another command"),
        pytest.param(True, 5, id="a number"),
    ],
)
def test_other_answers_are_passed_on_as_they_are(router, ok, value):
    node, asker = router.node("n"), router.asker()
    ask(asker)
    (request,) = node.take(m.Request)
    node.says(m.Reply(request.number, ok, value))
    ((_, values, errors),) = asker.told
    assert (values, errors) == (({"n": value}, {}) if ok else ({}, {"n": value}))


def test_a_task_that_is_not_leased_is_not_completed(router):
    client, node, asker = router.client(), router.node("n"), router.asker()
    task_id = client.call()
    ask(asker, "active")
    (request,) = node.take(m.Request)
    node.says(m.Reply(request.number, True, [{"id": task_id}]))
    assert asker.take(m.Replies)[0].values["n"] == [{"id": task_id}]
