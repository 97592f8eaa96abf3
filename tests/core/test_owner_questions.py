"""Where the router says a task is, and whom it tells of its end."""

import pytest

from mesh import messages as m
from mesh.core import intake as intake_module
from mesh.core.owner import SWEEP_S
from mesh.messages import Flag
from mesh.states import Status
from tests.core.builders import wall

# --- questions -----------------------------------------------------------------------------------


def test_a_task_is_told_to_be_where_it_is(router):
    # Given a task that a slot begins, one that is due later, and one that is ready
    client, slot = router.client(), router.slot()
    running = client.call(flags=Flag.TRACK_STARTED)
    ready = client.call(queue="elsewhere")
    waiting = client.call(options={"eta": wall(router.mono_s + 60)})

    # When its slot says that it begins
    assert router.state(client, running)[2:] == ["PENDING", {"known": True, "queue": "q", "phase": "LEASED"}]
    slot.says(m.Started(slot.lease_of(running), 5.0))

    # Then each is told apart
    state, info = router.state(client, running)[2:]
    assert (state, info["started"], info["pid"], info["hostname"]) == ("STARTED", 5.0, slot.pid, slot.node.name)
    assert router.state(client, ready)[2:] == ["PENDING", {"known": True, "queue": "elsewhere", "phase": "READY"}]
    assert router.state(client, waiting)[2:] == ["PENDING", {"known": True, "queue": "q", "phase": "WAITING"}]


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILURE, Status.REVOKED])
def test_a_task_that_has_ended_is_told_by_its_outcome(router, status):
    client, slot = router.client(), router.slot()
    task_id = client.call()
    slot.says(m.Outcomes([[slot.lease_of(task_id), task_id, status, 1, b"", 0, True]]))
    assert router.state(client, task_id) == [task_id, task_id, status.name, {"known": True}]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(lambda client: client.id(99), lambda client: [client.id(99), "PENDING", None], id="an unknown id"),
        pytest.param(lambda client: "order-17", lambda client: [None, "PENDING", None], id="an unknown custom id"),
        pytest.param(
            lambda client: client.id(1),
            lambda client: [client.id(1), "PENDING", {"known": True, "gone": True}],
            id="one whose outcome is gone",
        ),
    ],
)
def test_what_is_unknown_is_told_from_what_is_gone(make_router, asked, expected):
    # Given a call whose outcome has expired
    router = make_router(result_expires_s=1.0)
    client, slot = router.client(), router.slot()
    slot.ends(client.call())
    router.passes(1.0)

    # When somebody asks
    record = router.state(client, asked(client))

    # Then it is told what is known of the id
    assert record[1:] == expected(client)


def test_who_watches_is_told_when_the_task_ends(router):
    # Given a client that asks about another's call, by its id or by a custom one
    client, other, slot = router.client(1), router.client(2), router.slot()
    task_id = client.call(options={"id": "order-17"})
    other.says(m.Ask(5, True, ["order-17", client.id(1)]))
    (states,) = other.take(m.States)
    assert [(asked, known) for asked, known, _, _ in states.states] == [("order-17", task_id), (task_id, task_id)]

    # When the task ends
    slot.ends(task_id, body=b"value")

    # Then both have it, and nobody is remembered
    assert other.results() == client.results() == {task_id: (Status.SUCCESS, b"value")}
    assert router.owner.answers.watchers == {}


def test_who_only_asks_is_not_told_later(router):
    client, other, slot = router.client(1), router.client(2), router.slot()
    task_id = client.call()
    other.says(m.Ask(5, False, [task_id]))
    slot.ends(task_id)
    assert other.results() == {}


def test_who_watches_what_has_ended_is_told_at_once(router):
    client, other, slot = router.client(1), router.client(2), router.slot()
    slot.ends(client.call(), body=b"value")
    other.says(m.Ask(5, True, [client.id(1)]))
    assert other.results() == {client.id(1): (Status.SUCCESS, b"value")}
    assert router.owner.answers.watchers == {}


def test_who_watches_what_is_gone_is_told_so(make_router):
    router = make_router(result_expires_s=1.0)
    client, other, slot = router.client(1), router.client(2), router.slot()
    task_id = client.call()
    slot.ends(task_id)
    router.passes(1.0)
    other.says(m.Ask(5, True, [task_id]))
    assert other.failures()[task_id].error.startswith("ResultExpired")
    assert router.owner.answers.watchers == {}


def test_watchers_beyond_the_bound_are_not_remembered(router, monkeypatch):
    monkeypatch.setattr("mesh.core.answers.MAX_WATCHED", 2)
    client = router.client()
    client.says(m.Ask(5, True, ["a", "b", "c"]))
    assert set(router.owner.answers.watchers) == {"a", "b"}


def test_who_watches_a_custom_id_before_there_is_a_call_is_told_of_both(router):
    # Given a client that watches a custom id that nobody has used
    other = router.client(2)
    other.says(m.Ask(5, True, ["order-17"]))
    other.told.clear()

    # When a call takes that id, and ends
    client, slot = router.client(1), router.slot()
    task_id = client.call(options={"id": "order-17"})
    slot.ends(task_id, body=b"value")

    # Then the watcher learns which task it is, then its outcome
    assert [type(message) for message in other.told] == [m.States, m.Results]
    assert other.take(m.States)[0].states == [["order-17", task_id, "PENDING", {"known": True}]]
    assert other.results() == {task_id: (Status.SUCCESS, b"value")}
    assert router.owner.answers.watchers == {}


@pytest.mark.parametrize("leave", ["says bye", "dies", "comes back over another link"])
def test_who_leaves_watches_no_more(router, leave):
    client, other, slot = router.client(1), router.client(2, pid=7), router.slot()
    task_id = client.call()
    other.says(m.Ask(5, True, [task_id]))
    match leave:
        case "says bye":
            other.says(m.Bye("done"))
        case "dies":
            router.process_ended(7)
        case _:
            router.client(2, pid=7)
    assert router.owner.answers.watchers == {}
    slot.ends(task_id)
    assert other.results() == {}


def test_who_watches_an_ignored_result_is_told_that_there_is_none(router):
    client, slot = router.client(), router.slot()
    task_id = client.call(flags=Flag.IGNORE_RESULT)
    client.says(m.Ask(5, True, [task_id]))
    slot.ends(task_id)
    assert client.failures()[task_id].error.startswith("ResultExpired")


# --- bounds --------------------------------------------------------------------------------------


def test_clients_longest_gone_are_forgotten_first_and_connected_ones_never(router, monkeypatch):
    # Given room for twenty clients, of which most have come and gone
    monkeypatch.setattr(intake_module, "MAX_CALLERS", 20)
    stays = router.client(1_000)
    for incarnation in range(19):
        client = router.client(incarnation)
        router.passes(1.0)
        client.says(m.Bye("done"))

    # When another one comes
    last = router.client(2_000)

    # Then the first that went are forgotten, and who is here is known
    known = router.owner.intake.callers
    assert len(known) <= 20
    assert last.prefix in known
    assert stays.prefix in known
    slot = router.slot()
    slot.ends(last.call())
    assert len(last.results()) == 1


def test_names_and_ids_of_what_is_past_are_forgotten_now_and_then(make_router):
    # Given a custom id, a queue and an early outcome, all of them past
    router = make_router(result_expires_s=1.0)
    client, slot = router.client(), router.slot()
    kept = client.call(queue="kept", options={"id": "kept"})
    slot.ends(client.call(options={"id": "past"}))
    slot.says(m.Outcomes([[9, client.id(50), Status.SUCCESS, 5, b"", 0, True]]))
    past = router.slot(queues=("past",))
    past.dies()
    assert set(router.owner.intake.custom) == {"kept", "past"}
    router.passes(SWEEP_S - 0.1)
    assert set(router.owner.intake.custom) == {"kept", "past"}

    # When it is time to look for them
    router.passes(0.1)

    # Then only what is in use is known
    assert router.owner.intake.custom == {"kept": kept}
    assert router.owner.answers.orphans == set()
    assert set(router.owner.dispatch.queues) == {"kept", "q"}
