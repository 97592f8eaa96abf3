"""Whatever strangers and broken members say to a real router or client: honest work goes on, and nothing grows."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from mesh import ids, locate, messages
from mesh.client import Client
from mesh.codec import decode, encode
from mesh.core.intake import RECONCILED_MAX
from mesh.exceptions import MalformedMessage, VersionRefused
from mesh.interfaces import PendingCall
from mesh.messages import Role
from mesh.settings import Settings
from mesh.states import Status
from tests.edges.fake_node import DEADLINE_S, FakeNode, hello, wait_for
from tests.wire.test_codec import EXAMPLES, ZOO, mutated, packed

#: Growth of a router that has met a storm, beyond which something was kept.
BOUND_BYTES = 64 << 20
#: What the clock of a process's CPU time may be out by.
TICKS_S = 2 / os.sysconf("SC_CLK_TCK")


class Village:
    """A mesh with a real router, an honest client and an honest slot."""

    def __init__(self, place: locate.Place, client: Client, node: FakeNode) -> None:
        self.place, self.client, self.node = place, client, node
        self.router_pid = locate.router_pid(place)
        assert self.router_pid
        self.works()
        self.rss_before = self.rss()

    def rss(self) -> int:
        return int(psutil.Process(self.router_pid).memory_info().rss)

    def submit(self, body: bytes, queue: str = "work") -> PendingCall:
        return self.client.submit("honest", queue, 0, 0, body, None, None)

    def works(self, calls: int = 20) -> None:
        """The honest get their work done, by the same router, and nothing else."""
        bodies = [b"%d" % number for number in range(calls)]
        pending = [self.submit(body) for body in bodies]
        for one in pending:
            assert self.client.wait(one, DEADLINE_S), f"no result; the router says: {self.log()[-2000:]}"
        assert [one.ending.body for one in pending if one.ending] == bodies
        assert locate.router_pid(self.place) == self.router_pid, self.log()[-4000:]

    def grew(self) -> int:
        return self.rss() - self.rss_before

    def log(self) -> str:
        return Path(locate.log_path(self.place)).read_text()


class Stranger:
    """A raw DEALER that says what it likes."""

    def __init__(self, url: str, *, routing_id: bytes | None = None, receives: int = 0) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, 0)
        self.socket.set(zmq.RCVHWM, receives)
        if routing_id is not None:
            self.socket.set(zmq.ROUTING_ID, routing_id)
        self.socket.connect(url)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()
        self._context.term()

    def say(self, message: messages.Message, *frames: bytes) -> None:
        self.raw(encode(message), *frames)

    def raw(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def hears(self, kind: type[Any]) -> Any:
        """The next message of this kind; others are passed over."""
        give_up = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up:
            if self.socket.poll(1000):
                header, *frames = self.socket.recv_multipart()
                message = decode(header, len(frames))
                if type(message) is kind:
                    return message
        raise AssertionError(f"no {kind.__name__} came")

    def joins(self, role: int, mesh: str, info: dict[str, Any], **more: int) -> messages.HelloOk:
        self.say(hello(role, mesh, info, **more))
        answer: messages.HelloOk = self.hears(messages.HelloOk)
        return answer

    def heard_out(self) -> None:
        """Everything said so far has been dealt with: a hello of another mesh is refused after it."""
        self.say(hello(Role.CLIENT, "another", {}))
        self.hears(messages.HelloRefused)


@pytest.fixture
def place(mesh_dir: Path) -> locate.Place:
    return locate.locate(f"mesh://{mesh_dir}")


@pytest.fixture
def village(place: locate.Place) -> Iterator[Village]:
    client = Client(place, Settings())
    client.submit("first", "nobody", 0, 0, b"", None, None)
    try:
        with FakeNode(place) as node:
            yield Village(place, client, node)
    finally:
        client.close()


DOORS = {"inbox": locate.inbox_url, "control": locate.control_url}

doors = pytest.mark.parametrize("door", DOORS)

#: {role: what it tells of itself}; the last two take no part in the honest ones' work.
MEMBERS: dict[str, tuple[int, dict[str, Any]] | None] = {
    "stranger": None,
    "client": (Role.CLIENT, {"ended_upto": 3}),
    "slot": (Role.SLOT, {"node": "bad@host", "index": 7, "queues": ["celery", "slow"], "last_lease": 30}),
    "node": (Role.NODE, {"name": "bad@host", "page": "/nowhere", "queues": ["celery"], "concurrency": 8}),
}


def storm(seed: int, mesh: str) -> Iterator[tuple[bytes, ...]]:
    """All messages as they should be; then damaged ones that are still messages, so that they go past the codec."""
    chance = random.Random(seed)
    goldens = [(encode(message), n_frames) for message, n_frames in EXAMPLES.values()]
    goldens += [
        (encode(hello(role, mesh, dict(info), incarnation=incarnation)), 0)
        for member in MEMBERS.values()
        if member
        for role, info in (member,)
        for incarnation in (5, 6)
    ]
    others = [header for header, _ in goldens]
    for header, n_frames in goldens * 2:
        yield (header, *[b"frame"] * n_frames)
    count = 0
    while count < 400:
        whole, n_frames = chance.choice(goldens)
        header = mutated(chance, bytearray(whole), others)
        with contextlib.suppress(MalformedMessage):
            decode(header, n_frames)
            count += 1
            yield (header, *[b"frame"] * n_frames)


@doors
@pytest.mark.parametrize("member", MEMBERS)
def test_every_message_to_every_door_from_anybody_leaves_the_honest_at_work(village, door, member):
    # Given somebody who is known as what it says, or not known at all
    with Stranger(DOORS[door](village.place)) as stranger:
        known_as = MEMBERS[member]
        if known_as is not None and (door == "control") == (member == "node"):
            stranger.joins(known_as[0], village.place.mesh, known_as[1])

        # When it says everything there is to say, whole and damaged
        for frames in storm(sorted(MEMBERS).index(member), village.place.mesh):
            stranger.raw(*frames)
        stranger.heard_out()

        # Then the honest get their work done, while it is there
        village.works()

    # And when it has gone
    village.works()
    assert village.grew() < BOUND_BYTES


# --- what must be refused by name ----------------------------------------------------------------


@doors
def test_another_major_version_is_refused_by_name_and_the_router_says_so(village, door):
    with Stranger(DOORS[door](village.place)) as stranger:
        # When somebody says hello in a protocol to come, again and again
        for _ in range(20):
            stranger.say(hello(Role.CLIENT, village.place.mesh, {})._replace(major=9))
        refused = [stranger.hears(messages.HelloRefused) for _ in range(20)]

        # Then it is told why, in words that help
        assert {one.code for one in refused} == {"version"}
        assert refused[0].major == messages.PROTOCOL_MAJOR
        assert "9" in refused[0].reason

    # And the router's log says it, once
    assert village.log().count(refused[0].reason) == 1
    village.works()


@doors
def test_another_mesh_is_refused_by_name(village, door):
    with Stranger(DOORS[door](village.place)) as stranger:
        stranger.say(hello(Role.SLOT, "another", {"node": "x", "index": 0, "queues": ["work"], "last_lease": 0}))
        assert stranger.hears(messages.HelloRefused).code == "mesh"
    village.works()


def test_a_client_that_is_refused_says_why_and_logs_it_once(place, monkeypatch, caplog):
    # Given a router, and a client of another major version
    locate.ensure_router(place)
    monkeypatch.setattr(messages, "PROTOCOL_MAJOR", 2)
    client = Client(place, Settings(broker_connection_timeout=1.5))

    # When it connects
    with pytest.raises(VersionRefused) as refused:
        client.submit("f", "q", 0, 0, b"", None, None)

    # Then the error has both versions, and the log says so once, however often it asked
    assert (refused.value.theirs, refused.value.ours) == (1, 2)
    assert len([one for one in caplog.records if "protocol 1" in one.getMessage()]) == 1
    client.close()


def test_the_reply_door_refuses_another_major_version(village):
    with Stranger(reply_url(village)) as stranger:
        stranger.say(hello(Role.SLOT, village.place.mesh, {})._replace(major=9))
        assert stranger.hears(messages.HelloRefused).code == "version"
    village.works()


def reply_url(village: Village) -> str:
    (path,) = Path(village.place.directory).glob("c-*.sock")
    return f"ipc://{path}"


# --- before hello --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        messages.Publish(True, [[1, "f", "work", 9, 0, b"x", 0, None]]),
        messages.Received([[1, 5]]),
        messages.Reconcile([[1, 5]]),
        messages.Ask(1, True, [b"x" * 16]),
        messages.Outcomes([[1, b"x" * 16, 0, 1, b"", 0, False]]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_who_speaks_before_hello_is_asked_for_it_and_not_heard(village, message):
    with Stranger(locate.inbox_url(village.place)) as stranger:
        # When a stranger begins with something else
        stranger.say(message)

        # Then it is asked to say hello, by this router
        assert len(stranger.hears(messages.NeedHello).boot) == 8

    # And what it said changed nothing
    village.works()
    assert b"x" not in [one[-1:] for one in village.node.ran]
    assert len(village.node.ran) == 40


def test_a_client_takes_no_results_from_who_has_not_said_hello(village):
    # Given a call that waits for a slot of a queue that nobody serves
    pending = village.submit(b"x", queue="nobody")
    with Stranger(reply_url(village)) as stranger:
        # When a stranger claims to have its result
        stranger.say(messages.Results([[pending.task_id, 0, b"forged", 0]]))
        stranger.say(hello(Role.SLOT, village.place.mesh, {}))
        stranger.hears(messages.HelloOk)

        # Then the client does not believe it
        assert pending.ending is None

        # And what says hello first is heard
        stranger.say(messages.Results([[pending.task_id, 0, b"true", 0]]))
        assert village.client.wait(pending, DEADLINE_S)
        assert pending.ending is not None
        assert pending.ending.body == b"true"


# --- forgery -------------------------------------------------------------------------------------


#: What only a slot may say of its own leases, or a router.
FORGED_AT_THE_INBOX = (
    messages.Returned([1, 2, 3]),
    messages.Started(1, 5.0),
    messages.Blocked(True),
    messages.Receipt(5),
    messages.Recalled(0, os.getpid(), 0, 1 << 40),
    messages.SlotLost(0, os.getpid(), 0, "forged", True),
    messages.Quiet("fake@host"),
    messages.Confirm(0, [[1, 9]], [[10, "forged"]]),
)
#: What only a slot's own node may say of it.
FORGED_AT_CONTROL = (
    messages.Recalled(0, os.getpid(), 0, 1 << 40),
    messages.SlotLost(0, os.getpid(), 0, "forged", True),
    messages.Quiet("fake@host"),
)


def forge(place: locate.Place, task_id: bytes) -> None:
    """A stranger, another slot and another node say that it has ended, came back, or that its slot is dead."""
    slot_info = {"node": "bad@host", "index": 0, "queues": ["other"], "last_lease": 0}
    node_info = {"name": "bad@host", "page": "", "queues": ["other"], "concurrency": 1}
    inbox, control = locate.inbox_url(place), locate.control_url(place)
    with Stranger(inbox) as stranger, Stranger(inbox) as slot:
        slot.joins(Role.SLOT, place.mesh, slot_info)
        stranger.say(messages.Outcomes([[1, task_id, 0, 1, b"forged", 0, False]]))
        for one in (stranger, slot):
            one.say(messages.Tasks(1, 1, [[task_id, "f", 0, 0, b"", 0, None]]))
            for said in FORGED_AT_THE_INBOX:
                one.say(said)
            one.heard_out()
    with Stranger(control) as stranger, Stranger(control) as node:
        node.joins(Role.NODE, place.mesh, node_info)
        for one in (stranger, node):
            for said in FORGED_AT_CONTROL:
                one.say(said)
            one.heard_out()


def test_nobody_ends_or_gives_back_what_another_slot_holds(place):
    # Given a slot that runs one task until it may go on
    gate, running = threading.Event(), threading.Event()

    def answer(record: list[Any]) -> bytes:
        running.set()
        assert gate.wait(DEADLINE_S)
        return bytes(record[4])

    client = Client(place, Settings())
    pending = client.submit("honest", "work", 0, 0, b"mine", None, None)
    with FakeNode(place, answer=answer) as node:
        try:
            assert running.wait(DEADLINE_S)

            # When others speak for it
            forge(place, pending.task_id)

            # Then it is still held, and its own slot's word is what counts
            assert len(node.ran) == 1
            gate.set()
            assert client.wait(pending, DEADLINE_S)
            assert pending.ending is not None
            assert pending.ending.body == b"mine"
            again = client.submit("honest", "work", 0, 0, b"more", None, None)
            assert client.wait(again, DEADLINE_S)
            assert len(node.ran) == 2
        finally:
            gate.set()
            client.close()


def test_a_node_whose_name_is_taken_is_refused_and_speaks_for_nobody(village):
    info = {"name": "fake@host", "page": "", "queues": ["work"], "concurrency": 1}
    with Stranger(locate.control_url(village.place)) as stranger:
        # When another process says that it is the honest node, and that its slot is dead
        stranger.say(hello(Role.NODE, village.place.mesh, info, pid=os.getppid()))
        refused = stranger.hears(messages.HelloRefused)
        stranger.say(messages.SlotLost(0, os.getpid(), 0, "forged", True))
        stranger.say(messages.Quiet("fake@host"))

        # Then it is told that the name is taken
        assert refused.code == "duplicate"
        assert "fake@host" in refused.reason
    village.works()


# --- more than anybody needs ---------------------------------------------------------------------


def test_one_link_that_says_hello_under_thousands_of_names_is_one_member(village):
    # Given one link each that says hello as ever new clients, slots and nodes
    with (
        Stranger(locate.inbox_url(village.place)) as clients,
        Stranger(locate.control_url(village.place)) as nodes,
    ):
        before = status(village)
        for number in range(3_000):
            clients.say(hello(Role.CLIENT, village.place.mesh, {}, incarnation=1000 + number))
            info = {"name": f"n{number}@host", "page": "", "queues": [], "concurrency": 1}
            nodes.say(hello(Role.NODE, village.place.mesh, info))
        clients.heard_out()
        nodes.heard_out()

        # Then the router knows of one client and one node more
        after = status(village)
        assert after["router"]["clients"] == before["router"]["clients"] + 1
        assert len(after["nodes"]) == len(before["nodes"]) + 1
        village.works()
    assert village.grew() < BOUND_BYTES


def status(village: Village) -> dict[str, Any]:
    return village.client.request("status", {}, None, DEADLINE_S).values


def test_every_node_of_a_process_that_died_is_gone(village):
    # Given a process that has joined as several nodes, each over a link of its own
    with contextlib.ExitStack() as stack:
        child = psutil.Popen(["sleep", "1000"])
        try:
            for number in range(3):
                stranger = stack.enter_context(Stranger(locate.control_url(village.place)))
                info = {"name": f"n{number}@host", "page": "", "queues": [], "concurrency": 1}
                stranger.joins(Role.NODE, village.place.mesh, info, pid=child.pid)
            assert len(status(village)["nodes"]) == 4
        finally:
            # When it dies
            child.kill()
            child.wait()

        # Then all of them are gone
        wait_for(lambda: len(status(village)["nodes"]) == 1, "the end of the nodes of a dead process")


@pytest.mark.parametrize(
    "wide", [[[1, (1 << 40) - 1]], [[1, 1 << 39], [(1 << 39) + 2, (1 << 40) - 1]]], ids=["one", "two"]
)
@pytest.mark.parametrize("kind", [messages.Received, messages.Reconcile])
def test_a_range_as_wide_as_all_sequences_costs_no_more_than_one_that_is_used(village, kind, wide):
    # Given a client that claims to have made all calls there can be
    with Stranger(locate.inbox_url(village.place)) as stranger:
        stranger.joins(Role.CLIENT, village.place.mesh, {"ended_upto": (1 << 40) - 1}, incarnation=99)
        router = psutil.Process(village.router_pid)

        def spent_s(ranges: messages.Ranges) -> float:
            before_s = router.cpu_times().user
            for _ in range(3):
                stranger.say(kind(ranges))
            stranger.heard_out()
            return router.cpu_times().user - before_s

        # When it speaks of all of them, and of as many as one message is looked at for, in turn
        used, all_of_them = [], []
        for _ in range(3):
            used.append(spent_s([[1, RECONCILED_MAX]]))
            all_of_them.append(spent_s(wide))

        # Then the router has looked at no more of all
        assert min(all_of_them) <= 1.25 * min(used) + TICKS_S
    village.works()


@pytest.mark.parametrize("kind", [messages.Confirm, messages.Missing])
def test_a_client_does_not_count_through_a_range_that_its_router_makes_up(village, kind):
    # Given a client, and its router's word about all sequences there can be
    all_of_them = [[1, (1 << 40) - 1]]
    word = kind(0, all_of_them, []) if kind is messages.Confirm else kind(all_of_them)

    # When somebody says that at its reply door, and its calls are told of it
    with Stranger(reply_url(village)) as stranger:
        stranger.say(word)

    # Then it goes on
    village.works()


def test_questions_about_a_million_ids_are_answered_and_forgotten_with_their_askers(village):
    # Given clients that ask where very many tasks are and want to be told of their end
    grown = []
    for number in range(4):
        asked = [(number << 20 | one).to_bytes(16, "big") for one in range(250_000)]
        with Stranger(locate.inbox_url(village.place)) as stranger:
            stranger.joins(Role.CLIENT, village.place.mesh, {}, incarnation=99 + number)
            stranger.say(messages.Ask(7, True, asked))

            # Then each gets its answer, and the honest theirs
            village.works()
            assert len(stranger.hears(messages.States).states) == len(asked)
            grown.append(village.grew())
            stranger.say(messages.Bye("enough"))
            stranger.heard_out()

    # And the last takes no more than the first did
    assert grown[-1] < 2 * grown[0] + BOUND_BYTES


def test_a_client_that_never_reads_does_not_hold_up_the_others(village):
    # Given a client whose pipe holds one message, and that asks and never reads the answers
    with Stranger(locate.inbox_url(village.place), receives=1) as deaf:
        deaf.joins(Role.CLIENT, village.place.mesh, {}, incarnation=99)
        for number in range(4_000):
            for _ in range(15):
                deaf.say(messages.Ask(number, False, ["x"]))
            if number % 1_000 == 0:
                # Then the others are served on
                village.works(5)
        village.works()

        # And what is kept for it is bounded
        assert village.grew() < BOUND_BYTES


def test_large_and_many_frames_pass_and_leave_nothing(village):
    # Given frames without sense: huge ones, thousands of them, empty ones
    chance = random.Random(1)
    with Stranger(locate.inbox_url(village.place)) as stranger:
        for frames in (
            [b"\xdd" * (32 << 20)],
            [os.urandom(8 << 20)],
            [b"x"] * 5_000,
            [b""] * 5_000,
            [b""],
            [b"", b"", b""],
            [encode(messages.Bye("x")), *[b"y" * 100_000] * 300],
            *[[chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(1, 5))] for _ in range(3_000)],
        ):
            stranger.raw(*frames)
            stranger.raw(*frames)
        stranger.heard_out()
        village.works()
    assert village.grew() < BOUND_BYTES


def test_bytes_that_are_not_zeromq_are_left_alone(village):
    # Given connections that speak another language, or stop in the middle of a word
    chance = random.Random(1)
    path = locate.inbox_url(village.place).removeprefix("ipc://")
    for said in (
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00",
        b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00NULL" + b"\x00" * 48 + b"\x04\xff\xff\xff\xff\xff\xff\xff\xff",
        *[chance.randbytes(chance.randrange(1, 3_000)) for _ in range(50)],
    ):
        with socket.socket(socket.AF_UNIX) as raw, contextlib.suppress(OSError):
            raw.connect(path)
            raw.sendall(said)
    village.works()


@pytest.mark.parametrize(
    "kind", [zmq.REQ, zmq.ROUTER, zmq.PUB, zmq.PUSH, zmq.PAIR], ids=["REQ", "ROUTER", "PUB", "PUSH", "PAIR"]
)
def test_sockets_of_other_kinds_are_left_alone(village, kind):
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(kind) as other:
        other.set(zmq.LINGER, 0)
        other.connect(locate.inbox_url(village.place))
        for _ in range(10):
            with contextlib.suppress(zmq.ZMQError):
                other.send(b"anything", zmq.NOBLOCK)
        village.works()


# --- numbers at the edge -------------------------------------------------------------------------


def a_call(options: dict[str, Any], queue: str = "celery", **more: Any) -> messages.Publish:
    call = messages.Call(1, "f", queue, 0, 0, b"", 0, options)._replace(**more)
    return messages.Publish(True, [list(call)])


@pytest.mark.parametrize(
    ("desc", "said"),
    [
        ("an eta that never comes", a_call({"eta": float("inf")})),
        ("an eta in a thousand years", a_call({"eta": 1e11})),
        ("an eta of many digits", a_call({"eta": (1 << 64) - 1})),
        ("an eta before all time", a_call({"eta": float("-inf")})),
        ("expiry before all time", a_call({"expires": -(1 << 63)})),
        ("expiry that never comes", a_call({"expires": float("inf")})),
        ("all flags", a_call({}, flags=(1 << 64) - 1)),
        ("less than no flags", a_call({}, flags=-(1 << 63))),
        ("the last sequence", a_call({}, sequence=(1 << 40) - 1)),
        ("deep headers", a_call({"headers": {"a": [[[[[[[[[[1]]]]]]]]]]}})),
    ],
    ids=lambda one: one.replace(" ", "-") if isinstance(one, str) else "",
)
def test_calls_at_the_edge_of_what_is_allowed_do_no_harm(village, desc, said):
    with (
        Stranger(locate.inbox_url(village.place)) as stranger,
        Stranger(locate.inbox_url(village.place)) as slot,
    ):
        # Given a slot that takes what the others leave
        info = {"node": "bad@host", "index": 0, "queues": ["celery"], "last_lease": 0}
        slot.joins(Role.SLOT, village.place.mesh, info)
        stranger.joins(Role.CLIENT, village.place.mesh, {}, incarnation=99)

        # When such a call is made, then it is confirmed and the honest go on
        stranger.say(said)
        assert stranger.hears(messages.Confirm).confirmed
        village.works()


@pytest.mark.parametrize(
    ("desc", "info", "pid"),
    [
        ("a pid beyond all", {}, (1 << 31) - 1),
        ("pid 0", {}, 0),
        ("the pid of init", {}, 1),
        ("a last lease beyond all", {"last_lease": (1 << 64) - 1}, None),
        ("a last lease below all", {"last_lease": -(1 << 63)}, None),
        ("a place beyond the page", {"index": 1 << 60}, None),
        ("a place before the page", {"index": -1}, None),
        ("queues without end", {"queues": [f"q{number}" for number in range(50_000)]}, None),
        ("a queue twice", {"queues": ["celery", "celery"]}, None),
        ("no queues", {"queues": []}, None),
        ("queues that are numbers", {"queues": [1]}, None),
    ],
    ids=lambda one: one.replace(" ", "-") if isinstance(one, str) else "",
)
def test_slots_at_the_edge_of_what_is_allowed_do_no_harm(village, desc, info, pid):
    place = village.place
    with Stranger(locate.inbox_url(place)) as slot, Stranger(locate.inbox_url(place)) as client:
        # Given a slot that says strange things of itself, and a task for it
        sound = {"node": "bad@host", "index": 0, "queues": ["celery"], "last_lease": 0}
        slot.say(hello(Role.SLOT, place.mesh, {**sound, **info}, pid=pid))
        slot.heard_out()
        client.joins(Role.CLIENT, place.mesh, {}, incarnation=99)
        client.say(a_call({}))
        client.hears(messages.Confirm)
        village.works()

        # When it says that it leaves
        slot.say(messages.Bye("enough"))
        slot.heard_out()
    village.works()


@pytest.mark.parametrize("page", ["\0", "/dev/zero", "/", "fifo", "x" * 100_000, "/proc/self/mem"])
@pytest.mark.parametrize("index", [0, (1 << 16) - 1])
def test_a_dead_slot_whose_page_is_anything_does_not_stop_the_router(village, tmp_path, page, index):
    # Given a node whose page is no page, and a slot of it in another process
    if page == "fifo":
        page = str(tmp_path / "fifo")
        os.mkfifo(page)
    child = psutil.Popen(["sleep", "1000"])
    place = village.place
    node_info = {"name": "bad@host", "page": page, "queues": [], "concurrency": 1}
    slot_info = {"node": "bad@host", "index": index, "queues": ["celery"], "last_lease": 0}
    with Stranger(locate.control_url(place)) as node, Stranger(locate.inbox_url(place)) as slot:
        node.joins(Role.NODE, place.mesh, node_info)
        slot.say(hello(Role.SLOT, place.mesh, slot_info, pid=child.pid))
        slot.heard_out()

        # When the slot dies
        child.kill()
        child.wait()

        # Then the router reads what it can and goes on
        village.works()
    village.works()


@pytest.mark.parametrize("timeout_s", [float("inf"), float("-inf"), 1e300, (1 << 64) - 1, -5, 0])
def test_a_request_with_any_patience_is_answered_or_waits_and_does_no_harm(village, timeout_s):
    with Stranger(locate.control_url(village.place)) as stranger:
        stranger.joins(Role.CLIENT, village.place.mesh, {})
        stranger.say(messages.Request(3, "ping", {}, None, timeout_s))
        assert stranger.hears(messages.Replies).number == 3
    village.works()


def test_a_nodes_answer_of_any_form_reaches_its_asker_or_is_refused(village):
    place = village.place
    with Stranger(locate.control_url(place)) as node, Stranger(locate.control_url(place)) as asker:
        node.joins(Role.NODE, place.mesh, {"name": "bad@host", "page": "", "queues": [], "concurrency": 1})
        asker.joins(Role.CLIENT, place.mesh, {})
        for number, value in enumerate(ZOO):
            # Given a request to a node that answers with one strange thing after the other
            asker.say(messages.Request(number, "active", {}, ["bad@host"], DEADLINE_S))
            request = node.hears(messages.Request)
            node.raw(packed(41, request.number, True, [[[value]]]))

            # Then the asker gets what it said
            values = asker.hears(messages.Replies).values
            assert list(values) == ["bad@host"]
    village.works()


# --- who is who ----------------------------------------------------------------------------------


def test_links_that_fight_for_one_routing_id_trouble_nobody_else(village):
    # Given two that claim one routing id, again and again, as a slot and as a client
    inbox = locate.inbox_url(village.place)
    slot_info = {"node": "bad@host", "index": 0, "queues": ["other"], "last_lease": 0}
    for _ in range(20):
        with Stranger(inbox, routing_id=b"\x01same") as first, Stranger(inbox, routing_id=b"\x01same") as second:
            for one in (first, second):
                one.say(hello(Role.SLOT, village.place.mesh, slot_info))
                one.say(hello(Role.CLIENT, village.place.mesh, {}, incarnation=99))
                one.say(a_call({}, queue="other"))

            # Then the honest get their work done
            village.works(5)
    village.works()
    assert village.grew() < BOUND_BYTES


def test_a_second_client_of_the_same_incarnation_is_refused(village):
    # Given the honest client's incarnation, which is in the name of its socket
    incarnation = int(Path(reply_url(village)).stem.removeprefix("c-"), 16)

    # When another process says that it is that client
    with Stranger(locate.inbox_url(village.place)) as stranger:
        stranger.say(hello(Role.CLIENT, village.place.mesh, {}, incarnation=incarnation, pid=os.getppid()))

        # Then it is refused, and the honest one keeps its results
        assert stranger.hears(messages.HelloRefused).code == "duplicate"
        village.works()


# --- bodies --------------------------------------------------------------------------------------


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.path,)


def test_no_body_is_ever_unpickled_by_the_router(village, tmp_path):
    # Given bodies, options, values and errors that run code where they are unpickled
    trap = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(str(trap)))
    with Stranger(locate.inbox_url(village.place)) as stranger, Stranger(locate.control_url(village.place)) as node:
        stranger.joins(Role.CLIENT, village.place.mesh, {"bomb": bomb}, incarnation=99)
        node.joins(Role.NODE, village.place.mesh, {"name": "bad@host", "page": "", "bomb": bomb})
        call = messages.Call(1, "f", "work", 0, 0, bomb, 1, {"headers": {"bomb": bomb}, "root": bomb, "later": bomb})
        stranger.say(messages.Publish(True, [list(call)]), bomb)
        stranger.raw(bomb)
        stranger.raw(packed(5, "bye"), bomb)

        # When the router passes them on, keeps them and shows them
        stranger.hears(messages.Results)
        village.works()
        status(village)

    # Then no code has run, and the body came out as it went in
    assert not trap.exists()


# --- the client's reply door ---------------------------------------------------------------------


def test_a_clients_reply_door_takes_anything_and_keeps_nothing(village):
    # Given strangers at the reply door of a client
    process = psutil.Process()
    with Stranger(reply_url(village)) as stranger:
        for seed in range(3):
            for frames in storm(seed, village.place.mesh):
                stranger.raw(*frames)
        stranger.say(hello(Role.SLOT, village.place.mesh, {}))
        stranger.hears(messages.HelloOk)
        before = process.memory_info().rss

        # When they flood it
        forged = [
            [ids.stamp(b"x" * ids.PREFIX_BYTES, number), int(Status.FAILURE), b"forged", 0] for number in range(500)
        ]
        for _ in range(200):
            stranger.say(messages.Results(forged))
            stranger.raw(b"\xc1", b"", b"")
        stranger.raw(*[b"x"] * 5_000)

        # Then the client's calls end as before, and what nobody asked for is not kept
        village.works()
    village.works()
    assert process.memory_info().rss - before < BOUND_BYTES


def test_many_who_say_hello_at_a_reply_door_leave_nothing_there(village):
    for number in range(300):
        with Stranger(reply_url(village)) as stranger:
            stranger.say(hello(Role.SLOT, village.place.mesh, {"number": number}))
            stranger.hears(messages.HelloOk)
    village.works()
