"""Outcomes the owner keeps, by age and by bytes."""

import random

import pytest

from mesh.core.outcomes import ENTRY_BYTES, EVICT_SHARE, OutcomeStore, Stored
from mesh.states import Status


@pytest.fixture
def make(checked):
    """A store with room for so many outcomes of a kibibyte. It notes in `gone` what it keeps no longer, in order."""

    def store(room=None, expires_s=None):
        gone = []
        max_bytes = 1 << 30 if room is None else room * (1024 + ENTRY_BYTES)
        made = checked(OutcomeStore(expires_s, max_bytes, lambda task_id: gone.append(int.from_bytes(task_id, "big"))))
        made.gone = gone
        return made

    return store


def outcome(stored_mono_s=0.0, body=b"x" * 1024, frames=()):
    return Stored(Status.SUCCESS, body, frames, stored_mono_s)


def key(number):
    return number.to_bytes(16, "big")


def put(store, *numbers, stored_mono_s=0.0):
    for number in numbers:
        store.put(key(number), outcome(stored_mono_s))


def kept(store):
    return [number for number in range(100) if key(number) in store]


def test_an_outcome_can_be_read_any_number_of_times(make):
    store = make()
    store.put(key(1), outcome(body=b"value"))
    store.received(key(1))
    assert [store.get(key(1)).body for _ in range(3)] == [b"value"] * 3
    assert (store.get(key(2)), len(store), list(store)) == (None, 1, [key(1)])
    put(store, 3)
    assert sorted(store) == [key(1), key(3)]


def test_the_first_outcome_of_a_task_stays(make):
    # Given an outcome, received by its caller or not
    store = make()
    for number in (1, 2):
        store.put(key(number), outcome(body=b"first"))
    store.received(key(1))

    # When another one comes
    for number in (1, 2):
        store.put(key(number), outcome(body=b"second"))

    # Then it changes nothing
    assert [store.get(key(number)).body for number in (1, 2)] == [b"first", b"first"]
    assert len(store) == 2


def test_what_the_caller_has_goes_first_when_room_is_needed(make):
    # Given a full store, of which the callers have received some of the later ones
    store = make(room=16)
    put(store, *range(16))
    for number in (12, 9, 14, 2):
        store.received(key(number))

    # When one more comes
    put(store, 20)

    # Then those received longest ago made room for it
    assert kept(store) == [*range(9), 10, 11, 13, 15, 20]


def test_the_oldest_go_where_no_caller_has_received_enough(make):
    # Given a full store of which one is received
    store = make(room=16)
    put(store, *range(16))
    store.received(key(5))

    # When one more comes
    put(store, 20)

    # Then the received one went, and then the oldest
    assert kept(store) == [2, 3, 4, *range(6, 16), 20]


def test_room_is_made_in_steps_so_that_its_cost_is_shared(make):
    store = make(room=80)
    put(store, *range(81))
    assert len(store) == 80 - 80 // EVICT_SHARE


def test_an_outcome_larger_than_the_room_is_not_kept(make):
    # Given a store with room for one
    store = make(room=1)

    # When a larger one comes
    store.put(key(1), outcome(body=b"", frames=(b"x" * 2048,)))

    # Then it is not kept, and the next one is
    assert (len(store), store.stored_bytes) == (0, 0)
    store.put(key(2), outcome(body=b"small"))
    assert kept(store) == [2]


def test_outcomes_expire_whether_received_or_not(make):
    # Given outcomes of two ages, some received
    store = make(expires_s=10.0)
    assert store.next_expiry_mono_s() is None
    put(store, 1, 2, stored_mono_s=100.0)
    put(store, 3, 4, stored_mono_s=105.0)
    store.received(key(2))
    store.received(key(4))

    # When the first are old enough
    assert store.next_expiry_mono_s() == 110.0
    store.expire(109.9)
    assert kept(store) == [1, 2, 3, 4]
    store.expire(110.0)

    # Then they are gone, and the next look is at the others
    assert kept(store) == [3, 4]
    assert store.next_expiry_mono_s() == 115.0
    store.expire(115.0)
    assert (kept(store), store.stored_bytes, store.next_expiry_mono_s()) == ([], 0, None)


def test_outcomes_that_never_expire_have_no_deadline(make):
    store = make(expires_s=None)
    put(store, 1)
    store.expire(1e12)
    assert (kept(store), store.next_expiry_mono_s()) == ([1], None)


def test_looks_for_the_expired_are_not_closer_than_a_sixteenth_of_the_age(make):
    store = make(expires_s=16.0)
    for number in range(50):
        put(store, number, stored_mono_s=number / 100)
    store.expire(16.0)
    assert (store.next_expiry_mono_s(), kept(store)) == (17.0, list(range(1, 50)))
    store.expire(16.9)
    assert kept(store) == list(range(1, 50))
    store.expire(17.0)
    assert kept(store) == []


def test_what_is_forgotten_gives_its_room_back(make):
    store = make()
    put(store, 1, 2)
    store.received(key(2))
    for number in (1, 2, 2, 3):
        store.forget(key(number))
    assert (len(store), store.stored_bytes) == (0, 0)


# --- what must outlive the router ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "received", "needed"),
    [
        pytest.param(False, False, True, id="its caller has not got it"),
        pytest.param(False, True, False, id="its caller has it"),
        pytest.param(True, True, True, id="its caller has it, and it is to be kept"),
        pytest.param(True, False, True, id="it is to be kept"),
    ],
)
def test_an_outcome_is_needed_until_its_caller_has_it_or_where_it_is_to_be_kept(make, kept, received, needed):
    store = make()
    stored = outcome()._replace(kept=kept)
    store.put(key(1), stored)
    if received:
        assert store.received(key(1)) == stored
    assert store.needed(key(1)) == (stored if needed else None)
    assert store.needed(key(2)) is None


def test_it_is_told_once_that_an_outcome_was_received(make):
    store = make()
    put(store, 1)
    assert store.has_unreceived
    assert store.received(key(1)) == outcome()
    assert (store.received(key(1)), store.received(key(2)), store.has_unreceived) == (None, None, False)
    assert store.gone == []


def test_what_is_kept_no_longer_is_told_whatever_the_reason(make):
    # Given room for two outcomes, which expire after ten seconds
    store = make(room=2, expires_s=10.0)
    put(store, 1, 2, stored_mono_s=0.0)
    store.received(key(2))

    # When there is no room, one is forgotten, and one expires
    put(store, 3, stored_mono_s=1.0)
    assert store.gone == [2, 1]
    store.forget(key(3))
    store.forget(key(3))
    put(store, 4, stored_mono_s=2.0)
    store.expire(100.0)

    # Then each is told once
    assert store.gone == [2, 1, 3, 4]


def test_the_frames_of_an_outcome_take_room_too(make):
    store = make()
    store.put(key(1), outcome(body=b"123", frames=(b"4567", b"8")))
    assert store.stored_bytes == 8 + ENTRY_BYTES
    assert outcome(body=b"", frames=()).size == ENTRY_BYTES


@pytest.mark.parametrize("seed", range(6))
def test_a_store_stays_within_its_bounds_and_drops_in_order(checked, seed):
    rng = random.Random(seed)
    store = checked(OutcomeStore(50.0, 20_000, lambda task_id: None))
    unreceived, received, mono_s = [], [], 0.0
    for number in range(1500):
        # Given whatever came before, when an outcome comes, is received, or time passes
        mono_s += rng.random()
        match rng.choices(("put", "received", "expire"), (6, 3, 1))[0]:
            case "put":
                store.put(key(number), outcome(mono_s, b"x" * rng.randrange(900)))
                unreceived.append((key(number), mono_s))
            case "received" if unreceived:
                chosen = rng.choice(unreceived)
                store.received(chosen[0])
                unreceived.remove(chosen)
                received.append(chosen)
            case _:
                store.expire(mono_s)
                assert all(stored_s > mono_s - 50 * 17 / 16 for one, stored_s in unreceived if one in store)

        # Then it is within bounds; and what went is the oldest of the received, or of the others once those are gone
        store.check()
        for line in (received, unreceived):
            here = [one in store for one, _ in line]
            dropped = here.index(True) if True in here else len(here)
            if line is unreceived and not all(here) and mono_s - line[0][1] < 50:
                assert not received
            expired = [stored_s <= mono_s - 50 for _, stored_s in line]
            assert all(here[at] or expired[at] for at in range(dropped, len(line)))
            line[:] = [one for one, is_here in zip(line, here, strict=True) if is_here]
        assert len(store) == len(received) + len(unreceived)


def test_the_check_finds_a_wrong_sum():
    store = OutcomeStore(None, 1 << 20, lambda task_id: None)
    put(store, 1)
    store.stored_bytes += 1
    with pytest.raises(AssertionError):
        store.check()
