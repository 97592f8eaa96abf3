"""A client goes on to another router while its own is away: who runs its calls when that one is back."""

from __future__ import annotations

import pytest

from mesh import ids
from mesh import messages as m
from mesh.clock import Now
from mesh.core.admission import Bounds
from mesh.core.adoption import PATIENCE_S
from mesh.core.dispatch import Budgets
from mesh.core.effects import Commit, Effect, Send
from mesh.core.identity import Identity
from mesh.core.owner import Arrival, Limits, Owner
from mesh.core.records import Row, RowKind
from mesh.core.recovery import Pages
from mesh.messages import Durability, Role

HOME, OTHER = b"owner!", b"other!"
CLIENT = ids.prefix(HOME, 7)
PEER = b"\x01peer"


class Host:
    """A router with its disk, which does what its owner wants; what it sends is kept."""

    def __init__(self, tag: bytes) -> None:
        self.tag = tag
        self.rows: dict[int, Row] = {}
        self.mono_s = 100.0
        self.start()

    def start(self) -> None:
        """A router starts, and recovers what is on the disk."""
        identity = Identity("m", "/d", self.tag, b"boot", 1, "0")
        limits = Limits(Bounds(1000, 1 << 20), None, 1 << 20, Budgets(3, 20))
        self.owner = Owner(identity, limits, lambda error: str(error).encode())
        self.sent: list[Send] = []
        rows = [self.rows[number] for number in sorted(self.rows)]
        others = [row for row in rows if row.kind != RowKind.TASKS]
        tasks = [row for row in rows if row.kind == RowKind.TASKS]
        self.do(self.owner.recover(others, tasks, Pages([], set(), True), self.now)[1])

    @property
    def now(self) -> Now:
        return Now(1e9 + self.mono_s, self.mono_s)

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.sent.append(effect)
            elif isinstance(effect, Commit):
                self.rows.update({row.number: row for row in effect.rows})
                for first, last in effect.removed:
                    for number in range(first, last + 1):
                        self.rows.pop(number, None)
                self.do(self.owner.committed(effect.number, self.now))

    def hears(self, peer: bytes, message: m.Message) -> None:
        self.do(self.owner.handle([Arrival(False, peer, message)], self.now))

    def passes(self, seconds: float) -> None:
        self.mono_s += seconds
        self.do(self.owner.handle([], self.now))

    def client(self, **info: object) -> None:
        self.hears(b"\x01c", m.Hello(1, 0, Role.CLIENT, "m", 7, 70, dict(info)))

    def calls(self, *sequences: int) -> None:
        records = [[one, "t", "q", 0, 0, b"args", 0, None] for one in sequences]
        self.hears(b"\x01c", m.Publish(True, records))

    def slot(self) -> None:
        node = m.Hello(1, 0, Role.NODE, "m", 8, 80, {"name": "n", "page": "p"})
        self.do(self.owner.handle([Arrival(True, b"\x01n", node)], self.now))
        info = {"node": "n", "index": 0, "queues": ["q"], "last_lease": 0}
        self.hears(b"\x01s", m.Hello(1, 0, Role.SLOT, "m", 9, 90, info))

    def leased(self) -> list[int]:
        """The sequences of the calls that were sent to slots."""
        tasks = [one.message for one in self.sent if isinstance(one.message, m.Tasks)]
        return [ids.sequence_of(record[0]) for one in tasks for record in one.tasks]

    def to_peer(self) -> list[m.Message]:
        return [one.message for one in self.sent if one.peer == PEER]


@pytest.fixture
def home() -> Host:
    """A router that has journaled five calls, and is away since."""
    host = Host(HOME)
    host.client()
    host.calls(1, 2, 3, 4, 5)
    return host


@pytest.fixture
def other() -> Host:
    """Another router, to which the client has failed over, and which took calls 2, 3 and 5."""
    host = Host(OTHER)
    host.do(host.owner.link_peers([PEER], host.now))
    host.client(owner=HOME)
    host.calls(2, 3, 5)
    return host


def test_calls_of_a_client_that_failed_over_keep_their_ids(other: Host):
    # When the other router runs what it has adopted
    other.slot()
    records = [record for one in other.sent if isinstance(one.message, m.Tasks) for record in one.message.tasks]

    # Then it is under the ids that the client's own router has given
    assert [record[0][: ids.PREFIX_BYTES] for record in records] == [CLIENT] * len(records)
    confirms = [one.message for one in other.sent if isinstance(one.message, m.Confirm)]
    assert confirms == [m.Confirm(Durability.JOURNALED, [[2, 3], [5, 5]], [])]


def test_a_router_tells_what_it_has_adopted_from_whom(other: Host):
    # When the client's own router asks, and another one
    other.sent.clear()
    other.hears(PEER, m.AskAdoptions(HOME))
    other.hears(PEER, m.AskAdoptions(b"third!"))

    # Then each hears of its own calls
    assert other.to_peer() == [m.Adoptions([[CLIENT, [[2, 3], [5, 5]]]]), m.Adoptions([])]


def test_what_was_adopted_is_still_told_after_a_restart(other: Host):
    # Given the adopting router was started anew
    other.start()
    other.do(other.owner.link_peers([PEER], other.now))
    other.sent.clear()

    # When it is asked
    other.hears(PEER, m.AskAdoptions(HOME))

    # Then its journal knows
    assert other.to_peer() == [m.Adoptions([[CLIENT, [[2, 3], [5, 5]]]])]


def test_a_router_that_is_back_runs_only_what_nobody_has_adopted(home: Host):
    # Given it is back, with a slot, and asks its peer
    home.start()
    home.do(home.owner.link_peers([PEER], home.now))
    home.slot()
    assert home.to_peer() == [m.AskAdoptions(HOME)]
    assert home.leased() == []

    # When the peer tells
    home.hears(PEER, m.Adoptions([[CLIENT, [[2, 3], [5, 5]]]]))

    # Then the rest is run, and the adopted are forgotten on its disk too
    assert home.leased()[:1] == [1]
    assert [ids.sequence_of(one) for one in home.owner.dispatch.open] == [1, 4]
    home.passes(1.0)
    home.owner.check()
    home.start()
    assert [ids.sequence_of(one) for one in home.owner.dispatch.open] == [1, 4]


def test_a_peer_that_does_not_answer_is_waited_for_a_while_only(home: Host):
    # Given it is back, and its peer is silent
    home.start()
    home.do(home.owner.link_peers([PEER], home.now))
    home.slot()

    # When its patience is just not at its end, nothing is leased; then it goes on
    home.passes(PATIENCE_S - 0.001)
    assert home.leased() == []
    home.passes(0.001)
    assert home.leased() == [1]


def test_a_stranger_can_neither_ask_nor_tell(home: Host):
    # When somebody who is no peer asks, and claims calls
    home.hears(b"\x01stranger", m.AskAdoptions(HOME))
    home.hears(b"\x01stranger", m.Adoptions([[CLIENT, [[1, 5]]]]))

    # Then it hears nothing and gets nothing
    assert [one for one in home.sent if one.peer == b"\x01stranger"] == []
    assert len(home.owner.dispatch) == 5


def test_a_peer_can_only_adopt_calls_of_the_router_it_tells(home: Host):
    # When a peer claims calls of a third router, known here as adopted
    home.client(owner=b"third!")
    home.calls(1)
    home.do(home.owner.link_peers([PEER], home.now))
    home.hears(PEER, m.Adoptions([[ids.prefix(b"third!", 7), [[1, 1]]]]))

    # Then they stay
    assert len(home.owner.dispatch) == 6
