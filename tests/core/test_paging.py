"""Long queues: which calls leave memory, and how they come back when they are needed."""

import pytest

from mesh import messages as m
from mesh.core import dispatch as dispatch_module
from mesh.core import ready as ready_module
from mesh.core.crew import LivingSlot
from mesh.core.dispatch import PAGED_FROM
from mesh.core.effects import Fetch
from mesh.core.paging import FETCH_AGAIN_S, block_of
from mesh.core.ready import HUNGRY, Block, ReadyQueue
from mesh.core.records import RowKind
from mesh.core.recovery import Pages
from mesh.ids import stamp
from mesh.messages import Durability, Flag
from mesh.states import Phase, Status
from tests.core.bench import START
from tests.core.builders import PREFIX, make_task, sequences

# --- blocks --------------------------------------------------------------------------------------


def call(sequence, **fields):
    return list(m.Call(sequence, "t", "q", 3, Flag.NONE, b"body", 0, None)._replace(**fields))


def block(first, last, **fields):
    return Block(PREFIX, [call(one, **fields) for one in range(first, last + 1)], 4 * (last - first + 1))


def tasks_of(one, priority=3):
    return [make_task(sequence, priority=priority) for sequence in range(one.first, one.last + 1)]


def test_like_calls_without_a_gap_are_a_block():
    calls = [call(sequence, body=b"x" * sequence) for sequence in (3, 4, 5)]
    found = block_of(PREFIX, calls, ())
    assert found is not None
    assert (found.prefix, found.first, found.last, found.queue, found.priority) == (PREFIX, 3, 5, "q", 3)
    assert (found.body_bytes, len(found), found.calls, found.row, found.tasks) == (12, 3, calls, 0, None)
    assert found.wanted is False
    assert block_of(PREFIX, calls, []) is not None


@pytest.mark.parametrize(
    ("desc", "change", "frames"),
    [
        ("a gap", {"sequence": 9}, ()),
        ("options", {"options": {}}, ()),
        ("another queue", {"queue": "other"}, ()),
        ("another priority", {"priority": 4}, ()),
        ("other flags", {"flags": Flag.IGNORE_RESULT}, ()),
        ("frames", {}, (b"frame",)),
    ],
)
def test_calls_of_which_one_is_special_are_no_block(desc, change, frames):
    calls = [call(3), call(4), call(5)]
    names = list(m.Call._fields)
    for name, value in change.items():
        calls[-1][names.index(name)] = value
    assert block_of(PREFIX, calls, frames) is None


@pytest.mark.parametrize(
    ("flags", "is_block"),
    [
        (Flag.TRANSIENT, False),
        (Flag.EARLY_ACK, False),
        (Flag.SYNCED, True),
        (Flag.IGNORE_RESULT | Flag.TRACK_STARTED | Flag.KEEP_RESULT, True),
    ],
)
def test_what_is_not_journaled_or_is_to_be_marked_stays_in_memory(flags, is_block):
    assert (block_of(PREFIX, [call(1, flags=flags), call(2, flags=flags)], ()) is not None) is is_block


# --- the order of a queue with blocks --------------------------------------------------------------


@pytest.fixture
def queue(checked):
    return checked(ReadyQueue("q"))


def drain(queue):
    came = []
    while queue.top() is not None:
        task = queue.pop()
        task.phase = Phase.LEASED
        came.append(task)
    return came


def test_a_block_stands_where_it_came_in(queue):
    # Given tasks, a block, and a task after it
    for one in (make_task(1, priority=3), make_task(2, priority=3)):
        queue.push(one)
    paged = block(3, 5)
    queue.push_block(paged)
    queue.push(make_task(6, priority=3))
    assert (queue.depth, queue.paged, len(queue), sequences(queue)) == (3, 3, 6, [1, 2, 6])
    assert list(queue.blocks()) == [paged]

    # When what is before it was taken, then there is nothing until it is unfolded
    assert sequences(drain(queue)) == [1, 2]
    assert (queue.top(), queue.depth) == (None, 1)
    queue.unfold(paged, tasks_of(paged))
    assert (queue.depth, queue.paged, list(queue.blocks())) == (4, 0, [])

    # Then it is in its place
    assert sequences(drain(queue)) == [3, 4, 5, 6]


def test_blocks_are_unfolded_one_after_the_other(queue):
    # Given two blocks with a task between them, and one right behind
    first, second, third = block(1, 2), block(4, 5), block(6, 7)
    queue.push_block(first)
    queue.push(make_task(3, priority=3))
    queue.push_block(second)
    queue.push_block(third)
    assert queue.next_blocks() == queue.first_blocks() == [first]
    assert queue.block_behind(first) is first

    # When each is unfolded, then the next is named
    queue.unfold(first, tasks_of(first))
    assert (queue.next_blocks(), queue.block_behind(first)) == ([second], second)
    queue.unfold(second, tasks_of(second))
    assert (queue.next_blocks(), queue.block_behind(second)) == ([third], third)
    queue.unfold(third, tasks_of(third))
    assert (queue.next_blocks(), queue.first_blocks(), queue.block_behind(third)) == ([], [], None)
    assert sequences(drain(queue)) == [1, 2, 3, 4, 5, 6, 7]


def test_what_comes_back_goes_before_a_block(queue):
    paged = block(2, 3)
    queue.push_block(paged)
    queue.push_front(make_task(1, priority=3))
    queue.unfold(paged, tasks_of(paged))
    assert sequences(drain(queue)) == [1, 2, 3]


def test_each_priority_has_its_own_line(queue):
    # Given a block of a high priority, one of a low one, and a task of a low one
    high, low = block(1, 2, priority=9), block(4, 5, priority=1)
    queue.push(make_task(3, priority=1))
    queue.push_block(low)
    queue.push_block(high)
    assert {one.priority for one in queue.next_blocks()} == {9, 1}

    # When the high one is unfolded, then it goes first
    queue.unfold(high, tasks_of(high, 9))
    assert queue.next_blocks() == [low]
    assert sequences(queue) == [1, 2, 3]
    queue.unfold(low, tasks_of(low, 1))
    assert sequences(drain(queue)) == [1, 2, 3, 4, 5]


def test_a_block_is_named_when_the_tasks_before_it_become_few(queue, monkeypatch):
    # Given three tasks before a block, and a bound of three
    assert HUNGRY == 8192
    monkeypatch.setattr(ready_module, "HUNGRY", 3)
    for number in (1, 2, 3):
        queue.push(make_task(number, priority=3))
    paged = block(4, 5)
    queue.push_block(paged)
    assert (queue.next_blocks(), queue.first_blocks()) == ([], [paged])

    # When one of them has gone
    queue.top()
    queue.pop()

    # Then it is
    assert queue.next_blocks() == [paged]


def test_a_queue_of_blocks_alone_keeps_them_when_its_last_task_ends(queue):
    # Given a task before a block and one behind it
    first, paged, last = make_task(1, priority=3), block(2, 3), make_task(4, priority=3)
    queue.push(first)
    queue.push_block(paged)
    queue.push(last)

    # When both tasks end where they are
    for task in (last, first):
        task.phase = Phase.DONE
        queue.ended()
    queue.check()

    # Then the block is there, and what comes next comes after it
    assert (queue.depth, len(queue), queue.top()) == (0, 2, None)
    queue.push(make_task(5, priority=3))
    queue.unfold(paged, tasks_of(paged))
    assert sequences(drain(queue)) == [2, 3, 5]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda queue: setattr(queue, "paged", 5), id="the count"),
        pytest.param(lambda queue: setattr(next(queue.blocks()), "queue", "other"), id="a block of another queue"),
        pytest.param(lambda queue: setattr(next(queue.blocks()), "priority", 1), id="a block of another priority"),
        pytest.param(lambda queue: queue._by_priority[3].tail.appendleft(make_task(9, priority=3)), id="a task first"),
    ],
)
def test_the_check_finds_damage(damage):
    queue = ReadyQueue("q")
    queue.push_block(block(1, 2))
    queue.check()
    damage(queue)
    with pytest.raises(AssertionError):
        queue.check()


# --- a router with a long queue ------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Lines are long from four tasks on, and are to have two in memory."""
    monkeypatch.setattr(dispatch_module, "PAGED_FROM", 4)
    monkeypatch.setattr(ready_module, "HUNGRY", 2)


@pytest.fixture
def router(make_router, small):
    """A router with room for four tasks in memory."""
    router = make_router(resident_max=4)
    router.learns("t")
    return router


@pytest.fixture
def client(router):
    return router.client()


def paged(router):
    """(first, last) of each block, in order."""
    return [(one.first, one.last) for queue in router.owner.dispatch.queues.values() for one in queue.blocks()]


def test_a_batch_leaves_memory_where_enough_is_there_and_its_line_is_long(router, client):
    # Given as many tasks as are to be in memory
    client.calls(4)
    assert paged(router) == []

    # When more come
    client.calls(3)

    # Then they are confirmed at their level, counted, and are on disk alone
    assert client.take(m.Confirm)[-1] == m.Confirm(Durability.JOURNALED, [[5, 7]], [])
    assert paged(router) == [(5, 7)]
    (one,) = router.owner.dispatch.queues["q"].blocks()
    assert (one.calls, one.row, router.owner.ledger.rows.by_number[2].paged) == (None, 2, 3)
    assert router.journal.are_as_they_came() == {1: [True], 2: [True]}
    assert (len(router.owner.dispatch), len(router.owner.dispatch.open)) == (7, 4)
    assert router.owner.dispatch.body_bytes == 7 * 4
    assert client.id(7) in router.owner.dispatch
    assert client.id(8) not in router.owner.dispatch
    assert router.journal.fetched == []


@pytest.mark.parametrize(
    ("before", "is_paged"),
    [
        pytest.param([("q", 4)], True, id="enough in memory, and in its line"),
        pytest.param([("q", 3)], False, id="room in memory"),
        pytest.param([("other", 4)], False, id="another line is long"),
        pytest.param([("other", 4), ("q", 3)], False, id="its line is short"),
    ],
)
def test_a_short_line_stays_in_memory_however_full_that_is(router, client, before, is_paged):
    assert PAGED_FROM == 1024
    for queue, count in before:
        client.calls(count, queue=queue)
    client.calls(2)
    assert bool(paged(router)) is is_paged


def test_what_was_called_before_is_no_block(router, client):
    # Given calls in a block, and one in memory
    client.calls(4)
    records = [client.record() for _ in range(3)]
    client.publishes(*records)
    assert paged(router) == [(5, 7)]

    # When some come again with others
    new = [client.record() for _ in range(2)]
    client.publishes(*records, *new)

    # Then only the others are new
    assert paged(router) == [(5, 7)]
    assert [sequences([one])[0] for one in router.owner.dispatch.open.values()] == [1, 2, 3, 4, 8, 9]
    assert len(router.owner.dispatch) == 9


def test_a_block_is_refused_where_there_is_no_room(make_router, small):
    router = make_router(resident_max=4, tasks_max=6)
    client = router.client()
    client.calls(4)
    client.calls(3)
    assert paged(router) == []
    assert len(router.owner.dispatch) == 6
    assert [one[0] for confirm in client.take(m.Confirm) for one in confirm.refused] == [7]


def test_a_router_without_a_journal_keeps_all_in_memory(make_router, small):
    router = make_router(resident_max=4, journaled=False)
    client = router.client()
    client.calls(4)
    client.calls(3)
    assert (paged(router), len(router.owner.dispatch.open)) == ([], 7)


def test_blocks_are_read_again_when_the_tasks_before_them_become_few_and_run_in_order(router, client):
    # Given tasks in memory, two blocks in rows of their own, and a task of another kind behind them
    client.calls(4)
    client.calls(2)
    client.calls(2)
    client.call(options={"headers": {}})
    assert (paged(router), router.journal.fetched) == ([(5, 6), (7, 8)], [])

    # When a slot runs all of them, one by one
    slot = router.slot()
    ran = []
    while held := slot.holds():
        ran.append(held[0])
        slot.ends(held[0])

    # Then they ran in the order of their calls, and each row was read once
    assert ran == [client.id(number) for number in range(1, 10)]
    assert router.journal.fetched == [2, 3]
    assert set(client.results()) == set(ran)
    assert router.owner.dispatch.body_bytes == 0


def test_blocks_of_one_row_come_back_together(router, client):
    # Given two blocks that were written by one commit
    client.calls(4)
    client.publishes(client.record(), client.record(), now=False)
    client.publishes(client.record(), client.record(), now=False)
    router.passes(1.0)
    assert paged(router) == [(5, 6), (7, 8)]
    assert {one.row for one in router.owner.dispatch.queues["q"].blocks()} == {2}

    # When the first is needed
    slot = router.slot()
    slot.ends(*slot.holds()[:3])

    # Then both are there, at the price of one
    assert (paged(router), router.journal.fetched) == ([], [2])


def test_a_block_that_the_journal_does_not_hold_yet_needs_not_be_read(router, client):
    # Given a block whose commit is under way
    client.calls(4)
    router.journal.waits = True
    client.calls(3)
    assert paged(router) == [(5, 7)]

    # When it is needed
    slot = router.slot()
    slot.holds()
    router.passes(0.0)
    assert (paged(router), router.journal.fetched) == ([], [])
    slot.ends(*slot.holds())

    # Then it has its tasks, and the commit is as it was
    router.journal.waits = False
    router.commit()
    assert client.confirmed() == [[1, 4], [5, 7]]
    assert set(slot.holds()) | set(client.results()) == {client.id(number) for number in range(1, 8)}
    router.settles()


def test_all_flags_of_a_call_outlive_its_time_in_a_block(router, client):
    client.calls(4)
    (task_id,) = client.calls(1, flags=Flag.TRACK_STARTED | Flag.KEEP_RESULT, name="u", body=b"other")
    assert paged(router) == [(5, 5)]
    slot = router.slot()
    slot.ends(*slot.holds())
    (assignment,) = slot.held.values()
    assert assignment == m.Assignment(task_id, "u", 0, Flag.TRACK_STARTED | Flag.KEEP_RESULT, b"other", 0, None)


def test_a_block_that_is_to_be_synced_is(router, client):
    client.calls(4)
    client.take(m.Confirm)
    client.calls(2, flags=Flag.SYNCED)
    assert paged(router) == [(5, 6)]
    assert client.take(m.Confirm) == [m.Confirm(Durability.SYNCED, [[5, 6]], [])]
    assert router.journal.commits[-1].synced


# --- rows that can't be read ---------------------------------------------------------------------


def test_a_row_that_is_damaged_fails_its_tasks_and_says_so(router, client):
    # Given a block whose row is damaged, and one behind it
    client.calls(4)
    client.calls(2)
    client.calls(2)
    router.journal.damaged.add(2)

    # When it is needed
    slot = router.slot()
    slot.ends(*slot.holds())

    # Then its callers learn it, and the next goes on
    failures = client.take(m.Results)
    told = {record[0]: (record[1], record[2].decode()) for one in failures for record in one.results}
    for number in (5, 6):
        status, error = told[client.id(number)]
        assert status == Status.FAILURE
        assert "its row of the journal is damaged" in error
    assert slot.holds() == [client.id(7), client.id(8)]
    assert router.owner.dispatch.body_bytes == 8
    assert len(router.owner.graveyard.letters) == 2


def test_a_row_that_can_not_be_read_now_is_tried_again_in_a_while(router, client):
    # Given a block whose row can't be read for the moment
    client.calls(4)
    client.calls(2)
    router.journal.unreadable.add(2)
    slot = router.slot()
    slot.ends(*slot.holds())
    assert (router.journal.fetched, paged(router)) == ([2], [(5, 6)])

    # When nothing has passed, then it is not tried again; and after a while it is
    client.call(queue="other")
    assert router.journal.fetched == [2]
    assert router.owner.next_deadline_mono_s() <= router.mono_s + FETCH_AGAIN_S
    router.passes(FETCH_AGAIN_S * 0.9)
    assert router.journal.fetched == [2]
    router.passes(FETCH_AGAIN_S * 0.2)
    assert router.journal.fetched == [2, 2]

    # And when it can be read, all goes on
    router.journal.unreadable.clear()
    router.passes(FETCH_AGAIN_S)
    assert router.journal.fetched == [2, 2, 2]
    assert slot.holds() == [client.id(5), client.id(6)]


def test_what_was_asked_for_becomes_tasks_though_more_has_come_back_meanwhile(router, client):
    # Given a block that is being read, since there is little before it
    client.calls(4)
    client.calls(2)
    slot = router.slot()
    (one,) = router.owner.dispatch.queues["q"].blocks()
    assert router.owner.paging.unfold_needed() == [Fetch(2)]
    assert (one.wanted, router.owner.paging.unfold_needed()) == (True, [])

    # When what had been leased comes back before the answer
    router.owner.dispatch.returned(router.owner.dispatch.consumers[slot.address], [1, 2, 3, 4])
    assert router.owner.dispatch.queues["q"].next_blocks() == []
    router.owner.paging.fetched(2, router.journal.read(2))

    # Then it is all there, in order
    assert paged(router) == []
    assert [sequences([task])[0] for task in router.owner.dispatch.queues["q"]] == [1, 2, 3, 4, 5, 6]


def test_a_row_that_nobody_asked_for_changes_nothing(router, client):
    client.calls(4)
    client.calls(2)
    router.owner.paging.fetched(2, router.journal.read(2))
    router.owner.paging.fetched(99, None)
    assert paged(router) == [(5, 6)]
    assert router.owner.dispatch.paged_count == 2


# --- what is said of tasks in blocks -------------------------------------------------------------


def test_a_task_in_a_block_is_known_and_waits(router, client):
    # Given tasks in a block, and somebody else who asks for one
    client.calls(4)
    client.calls(2)
    other = router.client(3)
    other.says(m.Ask(5, True, [client.id(5)]))

    # Then it waits, and is not gone
    assert other.take(m.States)[0].states == [
        [client.id(5), client.id(5), "PENDING", {"known": True, "phase": "READY"}]
    ]
    assert other.results() == {}

    # And when it has run, who watched is told
    slot = router.slot()
    while slot.holds():
        slot.ends(*slot.holds())
    assert list(other.results()) == [client.id(5)]


def test_a_caller_that_asks_for_what_is_in_a_block_is_told_its_level_and_nothing_else(router, client):
    client.calls(4)
    client.calls(3)
    client.told.clear()
    client.says(m.Reconcile([[5, 8]]))
    assert client.take(m.Missing) == [m.Missing([[8, 8]])]
    assert client.take(m.Confirm) == [m.Confirm(Durability.JOURNALED, [[5, 7]], [])]
    assert client.results() == {}


def test_status_counts_what_is_in_blocks(router, client):
    client.calls(4)
    client.calls(3)
    asker = router.asker()
    asker.says(m.Request(1, "status", {}, None, 1.0))
    (replies,) = asker.take(m.Replies)
    tasks = replies.values["router"]["tasks"]
    assert tasks == {"ready": 7, "waiting": 0, "leased": 0}
    (queue,) = [one for one in replies.values["queues"] if one["name"] == "q"]
    assert queue["depth"] == 7


def test_a_block_is_needed_at_once_where_nothing_is_before_it(bench):
    one = block(1, 2)
    bench.dispatch.accept_block(one, START)
    assert bench.dispatch.needed_blocks() == [one]
    one.wanted = True
    assert bench.dispatch.needed_blocks() == []
    bench.dispatch.unfold(one, tasks_of(one))
    assert (bench.dispatch.needed_blocks(), bench.waiting()) == ([], [1, 2])
    assert one.wanted is False


def test_a_queue_of_blocks_is_not_forgotten(router, client):
    client.calls(4, queue="q", options=None)
    client.calls(2)
    for task in list(router.owner.dispatch.open.values()):
        router.owner.dispatch.finish(task)
        router.owner.ledger.news([task], router.now)
    router.owner.dispatch.forget_empty_queues()
    assert len(router.owner.dispatch.queues["q"]) == 2


# --- blocks and restarts -------------------------------------------------------------------------


def test_a_long_queue_is_a_long_queue_again_after_a_restart(router, client, restart):
    # Given four tasks, and two blocks of which one is half run
    client.calls(4)
    client.calls(4)
    client.calls(3)
    client.calls(2)
    slot = router.slot()
    slot.ends(*slot.holds())
    (fifth, *_) = slot.holds()
    slot.ends(fifth)
    router.settles()

    # When the next router starts, with room for as few
    later = restart(router, resident_max=4)

    # Then what was in memory is, the rest is in blocks, and all of it runs in order
    assert later.recovered.tasks == len(router.owner.dispatch)
    assert len(later.owner.dispatch.open) <= 8
    assert paged(later) != []
    slot, ran = later.slot(), []
    while held := slot.holds():
        ran += held[:1]
        slot.ends(held[0])
    expected = [client.id(number) for number in range(1, 14) if client.id(number) not in later_known(router)]
    assert ran == expected


def later_known(router):
    return set(router.owner.outcomes)


@pytest.mark.parametrize("commits", range(2, 9))
def test_from_every_prefix_of_its_commits_a_long_queue_is_whole(router, client, restart, commits):
    # Given a long queue of which some have ended, in several commits
    client.calls(4)
    for _ in range(3):
        client.calls(3)
    slot = router.slot()
    for _ in range(6):
        slot.ends(slot.holds()[0])
        router.settles()
    assert len(router.journal.commits) >= 8

    # When a router starts after so many commits
    later = restart(router, commits, resident_max=4)

    # Then each call of these is there once: as a task, in a block, or as an outcome
    published = {
        prefix + call[0].to_bytes(5, "big")
        for commit in router.journal.commits[:commits]
        for row in router.journal.upto(commits).rows(RowKind.TASKS)
        for prefix, calls, _ in row.records
        for call in calls
    }
    here = set(later.owner.dispatch.open) | set(later.owner.outcomes)
    here |= {stamp(client.prefix, number) for first, last in paged(later) for number in range(first, last + 1)}
    assert published <= here
    assert len(later.owner.dispatch) + len(later.owner.outcomes) == len(here)


def test_a_task_of_a_block_that_has_changed_is_in_no_block_after_a_restart(router, client, restart):
    # Given a block whose second task was begun in vain
    client.calls(4)
    client.calls(3)
    node = router.node()
    slot = node.slot()
    slot.ends(*slot.holds())
    held = slot.holds()
    assert held[:2] == [client.id(5), client.id(6)]
    slot.ends(held[0])
    slot.dies(begun=slot.lease_of(held[1]))
    router.settles()

    # When the next router starts with room for nothing in memory
    later = restart(router, resident_max=0)

    # Then its tasks are where they belong
    assert paged(later) == []
    assert later.owner.dispatch.open[client.id(6)].crashes == 1
    assert client.id(5) not in later.owner.dispatch
    assert [sequences([one])[0] for one in later.owner.dispatch.queues["q"]] == [6, 7]


def test_a_task_of_a_block_that_a_living_slot_runs_is_in_no_block(router, client, restart):
    client.calls(6)
    client.calls(2)
    living = LivingSlot("n", 0, 7, "n.page", 4096, {client.id(8): 1})
    later = restart(router, pages=Pages([living], set(), True), resident_max=4)
    assert paged(later) == []
    assert later.recovered.running == 1
    assert later.owner.dispatch.open[client.id(8)].phase is Phase.LEASED


def test_calls_with_frames_are_in_no_block_after_a_restart_either(router, client, restart):
    client.calls(6)
    client.publishes(client.record(n_frames=1), client.record(n_frames=1), frames=(b"a", b"b"))
    later = restart(router, resident_max=4)
    assert paged(later) == []
    assert later.owner.dispatch.open[client.id(8)].frames == (b"b",)


def test_a_task_of_a_block_that_is_gone_is_in_no_block(router, client, restart):
    # Given a block of which one task has ended, as a note says alone
    client.calls(6, flags=Flag.IGNORE_RESULT)
    client.calls(3, flags=Flag.IGNORE_RESULT)
    slot = router.slot()
    for _ in range(8):
        slot.ends(slot.holds()[0])
    router.settles()
    later = restart(router, resident_max=0)
    assert (paged(later), list(later.owner.dispatch.open)) == ([], [client.id(9)])
