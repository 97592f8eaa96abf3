"""Links and doors: the options that answer ZeroMQ's pitfalls are set, and do what they are set for."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils import garbage

from mesh import locate, transport
from mesh.codec import encode
from mesh.exceptions import MalformedMessage
from mesh.messages import FRAMES_MAX, Bye, Hello, Message, NeedHello, Receipt, Reply, Results, Role, Started
from mesh.transport import ZERO_COPY_BYTES, Door, Link, Poller
from tests.edges.fake_node import DEADLINE_S, wait_for

Context = zmq.Context[zmq.Socket[bytes]]
HELLO = Hello(1, 0, Role.CLIENT, "m", 1, 1, {})
ID = b"i" * 16


class Workshop:
    """Makes links, doors and raw sockets, and closes them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.context: Context = transport.context()
        self._made: list[zmq.Socket[bytes]] = []

    def link(self, url: str | None = None, **options: Any) -> Link:
        link = Link(self.context, url or self.url, **options)
        self._made.append(link.socket)
        return link

    def door(self, url: str | None = None, **options: Any) -> Door:
        door = Door(self.context, url or self.url, **options)
        self._made.append(door.socket)
        return door

    def raw(self, routing_id: bytes) -> zmq.Socket[bytes]:
        raw = self.context.socket(zmq.DEALER)
        self._made.append(raw)
        raw.set(zmq.ROUTING_ID, routing_id)
        raw.set(zmq.RECONNECT_IVL, -1)
        raw.connect(self.url)
        return raw

    def close(self) -> None:
        for socket in self._made:
            socket.close(linger=0)
        self.context.term()


@pytest.fixture(autouse=True, scope="module")
def _pyzmq_collector() -> Iterator[None]:
    """The thread that pyzmq starts with the first frame sent by reference, and keeps."""
    zmq.Frame(bytes(ZERO_COPY_BYTES), copy=False)
    yield
    garbage.gc.stop()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Workshop]:
    workshop = Workshop(f"ipc://{tmp_path}/door.sock")
    yield workshop
    workshop.close()


@pytest.fixture
def door(make: Workshop) -> Door:
    return make.door()


@pytest.fixture
def link(make: Workshop, door: Door) -> Link:
    return make.link()


def at_door(door: Door) -> tuple[bytes, Message, tuple[Any, ...]]:
    """The next message at a door."""
    return at_door_with_header(door)[:3]


def at_door_with_header(door: Door) -> tuple[bytes, Message, tuple[Any, ...], Any]:
    """The same, and its header as it came."""
    poller = Poller()
    poller.add(door)
    assert poller.wait(DEADLINE_S), "nothing came"
    return next(iter(door.receive()))


def at_link(link: Link) -> tuple[Message, tuple[Any, ...]]:
    poller = Poller()
    poller.add(link)
    assert poller.wait(DEADLINE_S), "nothing came"
    return next(iter(link.receive()))


def met(link: Link, door: Door) -> bytes:
    """Says hello; returns the link's routing id as the door has it."""
    assert link.send(HELLO)
    peer, message, _ = at_door(door)
    assert message == HELLO
    return peer


# --- options -------------------------------------------------------------------------------------


def test_both_kinds_of_sockets_are_bounded_and_do_not_linger(door, link):
    for one in (door, link):
        assert one.socket.getsockopt(zmq.LINGER) == 0
        assert one.socket.getsockopt(zmq.SNDHWM) == transport.HIGH_WATER_MARK
        assert one.socket.getsockopt(zmq.RCVHWM) == transport.HIGH_WATER_MARK
        assert one.socket.getsockopt(zmq.MAXMSGSIZE) == transport.MAX_FRAME_BYTES
    assert (door.socket.type, link.socket.type) == (zmq.ROUTER, zmq.DEALER)


def test_every_link_has_a_routing_id_of_its_own_that_nobody_can_guess(make, door):
    links = [make.link() for _ in range(20)]
    found = {bytes(one.socket.getsockopt(zmq.ROUTING_ID)) for one in links}
    assert len(found) == 20
    assert all(len(one) == 9 and one[0] == 1 for one in found)


def test_links_reconnect_at_moments_of_their_own_and_some_not_at_all(make, door):
    waits = {int(make.link().socket.getsockopt(zmq.RECONNECT_IVL)) for _ in range(20)}
    assert len(waits) > 1
    assert min(waits) > 0
    assert make.link(reconnect=False).socket.getsockopt(zmq.RECONNECT_IVL) == -1


def test_a_context_ends_with_messages_that_nobody_took(make):
    # Given messages for a door that never was
    link = make.link()
    for _ in range(100):
        assert link.send(HELLO)

    # When all is closed, then nothing waits for them
    link.close()
    make.context.term()


# --- sending -------------------------------------------------------------------------------------


def test_a_message_to_an_unknown_peer_is_told_and_not_dropped(door):
    assert not door.send(b"\x01nobody", Bye(""))
    assert not door.send(b"\x01nobody", Results([[ID, 0, b"", 2]]), (b"a", b"b" * ZERO_COPY_BYTES))


def test_after_a_message_that_could_not_be_sent_the_next_arrives_whole(door, link):
    # Given a peer, and messages that can't be sent: to nobody, and with what no wire can carry
    peer = met(link, door)
    assert not door.send(b"\x01nobody", Bye(""), (b"left behind",))
    for one in (door, link):
        with pytest.raises((TypeError, OverflowError)):
            door.send(peer, Reply(1, True, object())) if one is door else link.send(Receipt(1 << 70))

    # When good ones follow, then they arrive, and nothing else
    assert door.send(peer, Bye("whole"))
    assert at_link(link) == (Bye("whole"), ())
    assert link.send(Bye("too"))
    assert at_door(door)[1:] == (Bye("too"), ())


def test_a_peer_that_is_gone_is_told_and_does_not_block(make, door):
    # Given a peer that was there
    link = make.link()
    peer = met(link, door)
    assert door.send(peer, Bye(""))

    # When it has gone
    link.close()

    # Then the door says so, soon
    wait_for(lambda: not door.send(peer, Bye("")), "the news that the peer is gone")


def test_a_link_without_a_door_takes_what_fits_and_never_blocks(make):
    # Given a link to nowhere
    link = make.link()

    # When far more is sent than a pipe holds, then the rest is refused
    sent = sum(link.send(Receipt(number)) for number in range(transport.HIGH_WATER_MARK + 1000))
    assert transport.HIGH_WATER_MARK <= sent < transport.HIGH_WATER_MARK + 1000


def test_a_peer_that_does_not_read_is_full_at_some_point_and_the_others_are_not(make, door):
    # Given two peers of which one never reads
    deaf, other = make.link(), make.link()
    deaf_peer, other_peer = met(deaf, door), met(other, door)

    # When the door sends to it until it is refused
    limit = 10 * transport.HIGH_WATER_MARK
    sent = 0
    while sent < limit and door.send(deaf_peer, Bye("x" * 100)):
        sent += 1

    # Then there was an end to it, and the other one is served
    assert transport.HIGH_WATER_MARK <= sent < limit
    assert door.send(other_peer, Bye("other"))
    assert at_link(other) == (Bye("other"), ())


def test_the_same_routing_id_that_comes_back_takes_its_place_over(make, door):
    # Given a peer whose connection the door still has
    sockets = []
    for word in ("first", "second"):
        socket = make.raw(b"\x01same")
        sockets.append(socket)
        socket.send(encode(Bye(word)))
        assert at_door(door) == (b"\x01same", Bye(word), ())

    # When the same id has come over another connection, then answers go there
    assert door.send(b"\x01same", Bye("answer"))
    assert sockets[1].poll(DEADLINE_S * 1000)
    assert not sockets[0].poll(0)


# --- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, ZERO_COPY_BYTES - 1, ZERO_COPY_BYTES, 10 * ZERO_COPY_BYTES])
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, zmq.Frame])
def test_frames_of_any_size_and_kind_arrive_as_they_were_sent(door, link, size, form):
    # Given frames between other frames
    content = os.urandom(size)
    frames = (b"before", form(content), b"after")
    message = Results([[ID, 0, b"", 3]])

    # When they go to the door, and from there on as they came
    peer = met(link, door)
    assert link.send(message, frames)
    _, came, received = at_door(door)
    assert door.send(peer, came, received)

    # Then they are the same at the end
    back, returned = at_link(link)
    assert back == came == message
    assert [bytes(one.buffer) for one in returned] == [b"before", content, b"after"]


def test_large_frames_are_handed_over_and_on_without_a_copy(door, link):
    # Given a large frame
    peer = met(link, door)
    content = bytes(32 << 20)
    message = Results([[ID, 0, b"", 1]])

    # When it is sent, received and sent on
    tracemalloc.start()
    try:
        assert link.send(message, (content,))
        _, _, frames = at_door(door)
        assert door.send(peer, message, frames)
        _, returned = at_link(link)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Then Python has made none of its own
    assert len(returned[0]) == len(content)
    assert peak < len(content) // 4


def test_more_frames_than_any_message_has_are_not_kept(door, link):
    # When somebody sends far more frames than may follow a message
    link.socket.send_multipart([encode(Bye("x")), *[b"y"] * (3 * FRAMES_MAX)])
    assert link.send(Bye("next"))

    # Then that message is dropped as a whole
    assert at_door_after_malformed(door) == Bye("next")


def at_door_after_malformed(door: Door) -> Message:
    came: list[Message] = []
    poller = Poller()
    poller.add(door)
    give_up = time.monotonic() + DEADLINE_S
    while not came and time.monotonic() < give_up:
        poller.wait(1.0)
        came += [message for _, message, *_ in door.receive()]
    return came[0]


def test_malformed_messages_are_reported_with_their_sender_and_left_out(make):
    # Given a door that is told of them
    reported: list[tuple[bytes, MalformedMessage]] = []
    door = make.door(on_malformed=lambda peer, error: reported.append((peer, error)))
    link = make.link()
    peer = met(link, door)

    # When some come among others
    for frames in ([b""], [b"\xc1"], [b"", b""], [encode(Bye("x")), b"too much"]):
        link.socket.send_multipart(frames)
    assert link.send(Bye("good"))

    # Then only the good one is passed on
    assert at_door_after_malformed(door) == Bye("good")
    assert [one for one, _ in reported] == [peer] * 4


def test_no_more_is_taken_at_once_than_others_can_wait_for(door, link):
    for number in range(transport.DRAIN + 50):
        assert link.send(Receipt(number))
    taken: list[int] = []
    poller = Poller()
    poller.add(door)
    while sum(taken) < transport.DRAIN + 50:
        assert poller.wait(DEADLINE_S)
        taken.append(len(list(door.receive())))
    assert max(taken) <= transport.DRAIN


# --- the door's path -----------------------------------------------------------------------------


def test_binding_steals_a_path_in_silence_and_the_routers_lock_is_what_prevents_it(make, mesh_dir):
    # Given a place with a router
    place = locate.locate(f"mesh://{mesh_dir}")
    lock = locate.acquire_router_lock(place)
    assert lock is not None
    first = make.door(locate.inbox_url(place))

    # When another would bind there, then the lock says that it may not
    assert locate.acquire_router_lock(place) is None

    # And one that did not ask would have stolen the path: newcomers reach it and not the first
    thief = make.door(locate.inbox_url(place))
    met(make.link(locate.inbox_url(place)), thief)
    assert not list(first.receive())
    locate.release_router_lock(lock)


def test_an_unbound_door_gives_what_came_before_and_lets_newcomers_in_when_it_is_bound_again(make, door, link):
    # Given a peer whose message has come
    met(link, door)
    assert link.send(NeedHello(b"x"))
    poller = Poller()
    poller.add(door)
    assert poller.wait(DEADLINE_S)

    # When the door is unbound
    door.unbind()
    late = make.link()
    assert late.send(Bye("late"))

    # Then that message is still there
    assert at_door(door)[1] == NeedHello(b"x")

    # And who came too late gets in when it is bound again
    door.socket.bind(door.url)
    assert at_door(door)[1] == Bye("late")


# --- waiting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [1e-9, 1e-4, 0.0009])
def test_waiting_for_less_than_a_millisecond_is_no_busy_loop(door, timeout_s):
    # Given a deadline that is renewed as long as it lies ahead
    poller = Poller()
    poller.add(door)
    until = time.monotonic() + 0.1
    rounds = 0

    # When one waits for the tiny rest again and again
    while time.monotonic() < until:
        assert not poller.wait(timeout_s)
        rounds += 1

    # Then each wait took about a millisecond
    assert rounds <= 110


def test_no_time_at_all_does_not_wait(door):
    poller = Poller()
    poller.add(door)
    begun = time.thread_time()
    for _ in range(100):
        assert not poller.wait(0)
        assert not poller.wait(-5.0)
    assert time.thread_time() >= begun


@pytest.mark.parametrize("timeout_s", [1e7, 1e12, 1e300, float("inf"), None])
def test_a_wait_may_be_without_end_and_input_ends_it(door, link, timeout_s):
    poller = Poller()
    poller.add(door)
    timer = threading.Timer(0.01, link.send, (Started(1, 1.0),))
    timer.start()
    assert door.socket in poller.wait(timeout_s)
    timer.join()


def test_what_is_removed_is_waited_for_no_longer(door, link):
    poller = Poller()
    poller.add(door)
    met(link, door)
    assert link.send(Bye(""))
    assert poller.wait(DEADLINE_S)
    poller.remove(door)
    poller.remove(door)
    assert not poller.wait(0.01)
