"""Nodes, and requests to them: each is answered exactly once, and every answer accounts for every node."""

import random

import pytest

from mesh.core import membership as membership_module
from mesh.core.effects import SendControl
from mesh.core.membership import Membership, Node
from mesh.messages import Replies, Reply, Request

ASKER = b"asker"


@pytest.fixture
def membership(checked):
    return checked(Membership())


def node(name, pid=None, peer=None):
    return Node(name, peer or name.encode(), pid if pid is not None else sum(name.encode()), {})


def join(membership, *names):
    for name in names:
        assert membership.join(node(name)) is None


def request(number=1, destination=None, timeout_s=1.0, command="ping"):
    return Request(number, command, {"x": 1}, destination, timeout_s)


def sent(effects):
    """{node: its number for the request} of what goes out to nodes."""
    return {effect.peer.decode(): effect.message.number for effect in effects if isinstance(effect.message, Request)}


def answers(effects):
    return [effect.message for effect in effects if isinstance(effect.message, Replies)]


def test_a_request_is_answered_when_the_last_node_has_answered(membership):
    # Given two nodes, of which one fails
    join(membership, "a", "b")
    numbers = sent(membership.request(ASKER, request(number=7), 0.0))
    assert numbers.keys() == {"a", "b"}

    # When both answer
    early = membership.reply(b"a", Reply(numbers["a"], True, "pong"))
    late = membership.reply(b"b", Reply(numbers["b"], False, "no such command"))

    # Then the asker is told once, under its own number
    assert early == []
    assert late == [SendControl(ASKER, Replies(7, {"a": "pong"}, {"b": "no such command"}))]


def test_what_goes_to_a_node_is_the_command_without_the_other_destinations(membership):
    join(membership, "a", "b")
    effects = membership.request(ASKER, request(number=7, destination=["b"]), 0.0)
    assert [(effect.peer, effect.message._replace(number=0)) for effect in effects] == [
        (b"b", Request(0, "ping", {"x": 1}, None, 1.0))
    ]


@pytest.mark.parametrize(
    ("destination", "values", "errors"),
    [
        pytest.param(None, {"a", "b"}, set(), id="everybody"),
        pytest.param(["b"], {"b"}, set(), id="one"),
        pytest.param(["b", "b"], {"b"}, set(), id="one, named twice"),
        pytest.param(["a", "gone"], {"a"}, {"gone"}, id="one that is there and one that is not"),
        pytest.param(["gone", "lost"], set(), {"gone", "lost"}, id="none that is there"),
        pytest.param([], set(), set(), id="nobody"),
    ],
)
def test_every_name_that_was_asked_for_is_accounted_for(membership, destination, values, errors):
    # Given two nodes
    join(membership, "a", "b")

    # When some are asked, and answer
    effects = membership.request(ASKER, request(destination=destination), 0.0)
    assert len(sent(effects)) == len([one for one in effects if isinstance(one.message, Request)])
    said = answers(effects)
    for name, number in sent(effects).items():
        said += answers(membership.reply(name.encode(), Reply(number, True, "pong")))

    # Then each stands in the one answer
    assert [(set(one.values), set(one.errors)) for one in said] == [(values, errors)]


def test_without_nodes_a_request_is_answered_at_once(membership):
    assert membership.request(ASKER, request(number=3), 0.0) == [SendControl(ASKER, Replies(3, {}, {}))]


@pytest.mark.parametrize(
    ("silence", "reason"),
    [
        pytest.param(lambda membership: membership.leave("b", "its process died"), "its process died", id="it leaves"),
        pytest.param(lambda membership: membership.unreachable(b"b"), "its link is down", id="its link is down"),
        pytest.param(lambda membership: membership.tick(1.0), "no answer in 1 s", id="time is up"),
    ],
)
def test_a_node_that_does_not_answer_is_named_with_the_reason(membership, silence, reason):
    # Given two nodes of which one has answered
    join(membership, "a", "b")
    numbers = sent(membership.request(ASKER, request(timeout_s=1.0), 0.0))
    membership.reply(b"a", Reply(numbers["a"], True, "pong"))

    # When there will be no answer from the other
    said = answers(silence(membership))

    # Then the asker is told why, and nothing comes of a late answer
    assert said == [Replies(1, {"a": "pong"}, {"b": reason})]
    assert membership.reply(b"b", Reply(numbers["b"], True, "pong")) == []


def test_the_next_deadline_is_the_earliest(membership):
    assert membership.next_deadline_mono_s() is None
    join(membership, "a")
    membership.request(ASKER, request(timeout_s=5.0), 10.0)
    membership.request(ASKER, request(timeout_s=2.0), 10.0)
    assert membership.next_deadline_mono_s() == 12.0
    assert membership.tick(11.9) == []
    assert len(membership.tick(12.0)) == 1
    assert membership.next_deadline_mono_s() == 15.0


def test_answers_of_strangers_and_to_nothing_are_ignored(membership):
    join(membership, "a", "b")
    numbers = sent(membership.request(ASKER, request(destination=["a"]), 0.0))
    assert membership.reply(b"stranger", Reply(numbers["a"], True, "pong")) == []
    assert membership.reply(b"b", Reply(numbers["a"], True, "pong")) == []
    assert membership.reply(b"a", Reply(99, True, "pong")) == []
    assert membership.unreachable(b"stranger") == []
    assert membership.leave("stranger", "gone") == []


def test_a_name_belongs_to_one_living_process(membership):
    # Given a node
    join(membership, "a")

    # When another process comes under its name, and then the same over a new link
    other = membership.join(node("a", pid=99, peer=b"other"))
    same = membership.join(node("a", peer=b"again"))

    # Then the other is told who bears it, and the same one is known by its new link
    assert (other, same) == (node("a"), None)
    assert membership.by_peer(b"again") == node("a", peer=b"again")
    assert membership.all_by_pid(node("a").pid) == [node("a", peer=b"again")]
    assert (membership.by_peer(b"a"), membership.by_peer(b"other"), membership.all_by_pid(99)) == (None, None, [])


def test_requests_beyond_the_bound_are_answered_with_what_has_come(membership, monkeypatch):
    # Given room for two requests, both taken
    monkeypatch.setattr(membership_module, "MAX_REQUESTS", 2)
    join(membership, "a", "b")
    numbers = sent(membership.request(ASKER, request(number=1), 0.0))
    membership.request(ASKER, request(number=2), 0.0)
    membership.reply(b"a", Reply(numbers["a"], True, "pong"))

    # When a third comes
    effects = membership.request(ASKER, request(number=3), 0.0)

    # Then the first is answered as it stands
    assert answers(effects) == [Replies(1, {"a": "pong"}, {"b": "too many requests are under way"})]
    assert len(sent(effects)) == 2


@pytest.mark.parametrize("seed", range(8))
def test_every_request_is_answered_exactly_once_and_accounts_for_every_node(checked, seed, monkeypatch):
    monkeypatch.setattr(membership_module, "MAX_REQUESTS", 20)
    rng = random.Random(seed)
    membership = checked(Membership())
    names = [f"n{number}" for number in range(6)]
    asked, replies, pending, mono_s, generation = {}, [], [], 0.0, 0

    def note(effects):
        for effect in effects:
            if isinstance(effect.message, Request):
                pending.append((effect.peer, effect.message.number))
            else:
                replies.append(effect.message)

    for number in range(500):
        # Given whatever came before, when a node comes or goes, is asked, answers, or stays silent
        name = rng.choice(names)
        match rng.choices(("join", "leave", "request", "reply", "unreachable", "tick"), (3, 1, 4, 8, 1, 2))[0]:
            case "join":
                generation += 1
                membership.join(node(name, pid=hash(name) & 0xFFFF, peer=f"{name} {generation}".encode()))
            case "leave":
                note(membership.leave(name, "it left"))
            case "request":
                destination = rng.choice((None, rng.sample([*names, "never there"], 2)))
                asked[number] = set(membership.nodes) if destination is None else set(destination)
                note(membership.request(ASKER, request(number, destination, rng.uniform(0, 3)), mono_s))
            case "reply" if pending:
                peer, inner = rng.choice(pending)
                note(membership.reply(peer, Reply(inner, rng.random() < 0.8, "said")))
            case "unreachable" if membership.nodes:
                note(membership.unreachable(rng.choice(list(membership.nodes.values())).peer))
            case _:
                mono_s += rng.random()
                note(membership.tick(mono_s))
        membership.check()

    # When all time is up
    note(membership.tick(1e9))

    # Then each request has one answer, in which each node that was asked stands once
    assert sorted(one.number for one in replies) == sorted(asked)
    for one in replies:
        assert not one.values.keys() & one.errors.keys()
        assert one.values.keys() | one.errors.keys() == asked[one.number]
    assert membership.next_deadline_mono_s() is None


def test_the_check_finds_indexes_that_differ():
    membership = Membership()
    join(membership, "a")
    membership._name_of.clear()
    with pytest.raises(AssertionError):
        membership.check()
