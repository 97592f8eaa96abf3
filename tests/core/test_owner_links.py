"""Who may join the router, who is gone, and when it is idle."""

import pytest

from mesh import messages as m
from mesh.core.effects import RemovePage, RemoveReplySocket
from mesh.messages import Durability, Flag
from tests.core.builders import BOOT, OWNER_TAG, Peer

CLIENT_INFO = {"ended_upto": 0}
SLOT_INFO = {"node": "n", "index": 0, "queues": ["q"], "last_lease": 0}
NODE_INFO = {"name": "n", "page": "n.page"}

#: Everybody who may say HELLO, as (control link, role, info).
ROLES = [
    pytest.param(False, m.Role.CLIENT, CLIENT_INFO, id="a client"),
    pytest.param(False, m.Role.SLOT, SLOT_INFO, id="a slot"),
    pytest.param(True, m.Role.NODE, NODE_INFO, id="a node"),
    pytest.param(True, m.Role.CLIENT, {}, id="a client that asks"),
]


def joined(router):
    """How many have joined, in whatever role."""
    owner = router.owner
    return owner.connected_clients + len(owner.dispatch.consumers) + len(owner.membership.nodes)


# --- HELLO ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("control", "role", "info"), ROLES)
def test_hello_is_answered_with_who_the_router_is(router, control, role, info):
    # Given somebody
    peer = Peer(router, b"peer", control=control)

    # When it says HELLO
    peer.says(peer.hello(role, 77, **info))

    # Then it knows the router, and its process is watched
    assert peer.told == [m.HelloOk(m.PROTOCOL_MINOR, BOOT, OWNER_TAG, 1, {"version": "0.1", "directory": "/mesh"})]
    assert router.watched == [77]


@pytest.mark.parametrize(("control", "role", "info"), ROLES)
@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        pytest.param({"major": 2}, "version", "speaks protocol 1, not 2; install one mesh-tasks release", id="major"),
        pytest.param({"mesh": "other"}, "mesh", "of mesh 'default', not of 'other'", id="mesh"),
    ],
)
def test_strangers_are_refused_with_a_reason(router, control, role, info, change, code, reason):
    # Given somebody of another version or mesh
    peer = Peer(router, b"peer", control=control)

    # When it says HELLO
    peer.says(peer.hello(role, 77, **info)._replace(**change))

    # Then it is told why it can't join, by a code and in words, and has not
    ((major, told, words),) = peer.told
    assert (major, told) == (m.PROTOCOL_MAJOR, code)
    assert reason in words
    assert (joined(router), router.watched) == (0, [])


def test_a_later_minor_version_is_welcome(router):
    peer = Peer(router, b"peer")
    peer.says(peer.hello(m.Role.CLIENT, 77)._replace(minor=99, info={"new": "field"}))
    assert [type(message) for message in peer.told] == [m.HelloOk]


@pytest.mark.parametrize(("control", "role", "info"), ROLES)
def test_a_router_that_drains_takes_nobody_new_and_serves_who_is_there(router, control, role, info):
    # Given a client and a slot, and a router that is about to exit
    client, slot = router.client(), router.slot()
    router.owner.draining = True

    # When somebody new comes
    peer = Peer(router, b"peer", control=control)
    peer.says(peer.hello(role, 77, **info))

    # Then that one is sent away, and the others are served
    ((_, code, reason),) = peer.told
    assert (code, reason) == ("draining", "this router is about to exit; try again")
    slot.ends(client.call())
    assert len(client.results()) == 1


def test_a_node_name_that_is_taken_is_refused(router):
    # Given a node
    node = router.node("n", pid=7)

    # When another process comes under its name
    other = router.node("n", pid=8)

    # Then it is told who bears it and what to do, and the first stays
    (refused,) = other.told
    assert (type(refused), refused.code) == (m.HelloRefused, "duplicate")
    assert refused.reason == "node 'n' is running already, with pid 7; give this one another name with -n"
    assert router.owner.membership.by_peer(node.address).pid == 7
    assert router.owner.membership.by_peer(other.address) is None
    assert set(router.watched) == {7, 8}


def test_a_hello_of_a_node_over_an_earlier_link_that_arrives_late_changes_nothing(router):
    node = router.node("n", pid=7, link=2)
    late = router.node("n", pid=7, link=1)
    assert late.told == []
    assert router.owner.membership.by_peer(node.address).pid == 7


def test_another_process_with_fewer_links_is_told_that_the_name_is_taken(router):
    router.node("n", pid=7, link=2)
    other = router.node("n", pid=8, link=1)
    assert [message.code for message in other.told] == ["duplicate"]


def test_a_node_that_says_hello_twice_over_one_link_keeps_its_slots(router):
    node, client = router.node("n"), router.client()
    slot = node.slot()
    node.joins()
    assert [type(message) for message in node.told] == [m.HelloOk, m.HelloOk]
    client.call()
    assert len(slot.holds()) == 1


def test_a_node_without_a_name_is_not_joined(router):
    peer = Peer(router, b"peer", control=True)
    peer.says(peer.hello(m.Role.NODE, 77, name=5))
    assert (peer.told, router.owner.membership.nodes) == ([], {})


def test_a_node_name_is_free_when_its_process_has_ended(router):
    router.node("n", pid=7)
    router.process_ended(7)
    assert type(router.node("n", pid=8).told[0]) is m.HelloOk


def test_a_second_client_under_one_incarnation_is_refused(router):
    client = router.client(incarnation=5, pid=7)
    other = router.client(incarnation=5, pid=8)
    ((_, code, _),) = other.told
    assert code == "duplicate"
    assert client.call() in router.owner.dispatch.open


@pytest.mark.parametrize(
    "who",
    [
        pytest.param({"pid": 7, "link": 1}, id="the same process, which counts its links anew"),
        pytest.param({"pid": 8}, id="another process"),
    ],
)
def test_an_incarnation_is_free_when_its_client_has_gone(router, who):
    router.client(incarnation=5, pid=7, link=2).says(m.Bye("done"))
    client = router.client(incarnation=5, **who)
    assert [type(message) for message in client.told] == [m.HelloOk]


def test_a_client_that_dials_again_is_reached_over_its_new_link(router):
    # Given a client with a call under way
    client, slot = router.client(pid=7), router.slot()
    task_id = client.call()

    # When it comes over another link, and the call ends
    again = router.client(pid=7, link=2)
    slot.ends(task_id)

    # Then the result goes there
    assert list(again.results()) == [task_id]
    assert (client.results(), router.owner.connected_clients) == ({}, 1)


def test_a_hello_over_an_earlier_link_that_arrives_late_moves_no_client(router):
    client = router.client(pid=7, link=2)
    late = router.client(pid=7, link=1)
    assert late.told == []
    router.slot().ends(client.call())
    assert len(client.results()) == 1


def test_a_link_that_takes_another_incarnation_leaves_the_first(router):
    client = router.client(incarnation=1, pid=7)
    client.says(client.hello(m.Role.CLIENT, 7, 2))
    assert router.owner.connected_clients == 1


def test_what_a_client_says_has_ended_is_not_taken_again(router):
    # Given a client that an earlier router knew
    client = router.client(ended_upto=10)

    # When calls of before arrive late
    client.calls(10)

    # Then they are confirmed and not run, and not journaled
    assert client.take(m.Confirm) == [m.Confirm(Durability.NONE, [[1, 10]], [])]
    assert router.journal.commits == []
    assert router.owner.dispatch.open == {}


@pytest.mark.parametrize("floor", [-1, 0, 1 << 40, "10", None])
def test_a_floor_that_can_not_be_is_no_floor(router, floor):
    client = router.client(ended_upto=floor)
    client.call()
    assert len(router.owner.dispatch.open) == 1


# --- who is gone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["says bye", "dies"])
def test_a_client_that_is_gone_leaves_its_calls(router, end):
    # Given a client with a call
    client = router.client(pid=7)
    task_id = client.call()

    # When it goes
    if end == "dies":
        router.process_ended(7)
    else:
        client.says(m.Bye("done"))

    # Then the call runs on, and its outcome is kept
    assert router.owner.connected_clients == 0
    router.slot().ends(task_id, body=b"value")
    assert router.owner.outcomes.get(task_id).body == b"value"


def test_nothing_is_remembered_of_control_links_whose_client_is_gone(router):
    # Given askers, one of which asks over two links in turn
    first, second = router.asker(), router.asker()
    pid, incarnation = router.owner._control_clients[second.address]
    again = Peer(router, b"again", control=True)
    again.says(again.hello(m.Role.CLIENT, pid, incarnation))
    assert set(router.owner._control_clients) == {first.address, again.address}

    # When one says bye and the other dies
    first.says(m.Bye("done"))
    router.process_ended(pid)

    # Then nothing is left of them
    assert router.owner._control_clients == {}


def test_nothing_is_remembered_of_nodes_and_slots_that_are_gone(router):
    for number in range(5):
        node = router.node(f"n{number}")
        slots = [node.slot(index) for index in range(2)]
        slots[0].dies()
        router.process_ended(node.pid)
        router.process_ended(slots[1].pid)
    owner, crew = router.owner, router.owner.crew
    assert (crew.pages, crew.forsaken, crew.dead_slots, owner.dispatch.consumers) == ({}, {}, {}, {})


def test_the_reply_socket_of_a_client_that_dies_is_removed(router):
    # Given two clients, of which one leaves in order
    router.client(incarnation=5, pid=7)
    router.client(incarnation=6, pid=8).says(m.Bye("done"))

    # When both processes end
    router.process_ended(7)
    router.process_ended(8)

    # Then only the other one's is left to be removed
    assert router.removed == [RemoveReplySocket(5)]


def test_the_page_of_a_node_that_dies_is_removed_when_its_last_slot_has_died(router):
    # Given a node with two slots, of which one dies before it
    node = router.node("n1")
    slots = [node.slot(0), node.slot(1)]
    slots[0].dies()

    # When the node dies, and then the other slot
    router.process_ended(node.pid)
    assert router.removed == []
    router.process_ended(slots[1].pid)

    # Then nobody needs the page any more
    assert router.removed == [RemovePage("n1.page")]


def test_the_page_of_a_node_without_slots_is_removed_when_it_dies(router):
    router.process_ended(router.node("n1").pid)
    assert router.removed == [RemovePage("n1.page")]


def test_the_page_of_a_node_that_leaves_in_order_is_removed(router):
    node = router.node("n1")
    node.says(m.Bye("the node ends"))
    assert router.removed == [RemovePage("n1.page")]
    router.process_ended(node.pid)
    assert router.removed == [RemovePage("n1.page")]


def test_the_death_of_a_stranger_changes_nothing(router):
    router.slot()
    router.process_ended(424242)
    assert router.removed == []
    assert len(router.owner.dispatch.consumers) == 1
    assert router.owner.slots_of_pid(424242) == []


# --- idleness ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "somebody",
    [
        pytest.param(lambda router: router.client(), id="a client"),
        pytest.param(lambda router: router.node(), id="a node"),
        pytest.param(lambda router: router.absent_node().slot(), id="a slot"),
    ],
)
def test_a_router_is_idle_while_nobody_is_there(router, somebody):
    assert router.owner.is_idle()
    somebody(router)
    assert not router.owner.is_idle()


def test_a_router_with_tasks_or_outcomes_that_somebody_may_come_for_is_not_idle(router):
    # Given a client that left a task behind, and nobody else
    client = router.client(pid=7)
    task_id = client.call()
    client.says(m.Bye("done"))
    assert task_id in router.owner.dispatch.open
    assert not router.owner.is_idle()

    # When it has run, and its slot is gone
    node = router.node()
    slot = node.slot()
    slot.ends(task_id)
    slot.dies(charged=False)
    node.says(m.Bye("the node ends"))
    assert not router.owner.is_idle()

    # Then the router is idle once the client has come for the outcome, and the journal knows
    again = router.client(pid=7)
    again.says(m.Received([[1, 1]]), m.Bye("done"))
    assert not router.owner.is_idle()
    router.settles()
    assert router.owner.is_idle()


def test_nobody_will_come_for_the_failure_of_a_task_whose_result_is_ignored(router):
    client = router.client()
    client.call(flags=Flag.IGNORE_RESULT, options={"expires": router.now.wall_s + 1})
    router.passes(1.0)
    client.says(m.Bye("done"))
    router.settles()
    assert router.owner.is_idle()


# --- anything ------------------------------------------------------------------------------------


def test_messages_on_the_wrong_link_or_of_the_wrong_kind_change_nothing(router):
    # Given a client, a slot with a task, and a node
    client, node = router.client(), router.node()
    slot = node.slot()
    client.call()
    slot.looks()
    peers = (client, slot, node)

    # When each says what only another may say
    for peer in peers:
        peer.told.clear()
        peer.says(
            m.HelloOk(0, b"", b"", 1, {}), m.Confirm(0, [[1, 9]], []), m.Tasks(1, 0, []), m.Receipt(9),
            m.Recall(0, 9), m.NeedHello(b""), m.Malformed("?"), m.States(1, []), m.Replies(1, {}, {}),
        )  # fmt: skip
    client.says(m.Recalled(0, slot.pid, 0, 9), m.SlotLost(0, slot.pid, 1, "lies", True), m.Quiet("n"))
    client.says(m.Request(1, "status", {}, None, 1.0), m.Started(1, 5.0))
    node.says(m.Publish(True, []), m.Returned([1]))

    # Then nobody is told anything, and nothing has moved
    assert [peer.told for peer in peers] == [[], [], []]
    assert router.owner.dispatch.consumers[slot.address].held.keys() == {1}


def test_the_check_finds_a_caller_that_is_not_where_it_should_be(router):
    client = router.client()
    (caller,) = router.owner.intake.callers.values()
    caller.peer = b"elsewhere"
    with pytest.raises(AssertionError):
        router.owner.check()
    caller.peer = client.address
