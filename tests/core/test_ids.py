"""Ids are stamps: who owns a task, who called it, and which of the caller's calls it is."""

import random
import uuid

import pytest

from mesh import ids

TAG = b"\x00\x01\x02\xfd\xfe\xff"


@pytest.mark.parametrize(
    ("incarnation", "sequence"),
    [
        pytest.param(0, 0, id="all zero"),
        pytest.param(1, 1, id="the first call"),
        pytest.param((1 << 22) - 1, 5, id="the low part of the incarnation full"),
        pytest.param(1 << 22, 5, id="the high part of the incarnation begun"),
        pytest.param((1 << 34) - 1, ids.SEQUENCE_MAX, id="everything full"),
    ],
)
def test_an_id_says_who_made_it(incarnation, sequence):
    # Given the prefix of a client at an owner
    prefix = ids.prefix(TAG, incarnation)

    # When a call is stamped
    task_id = ids.stamp(prefix, sequence)

    # Then the id tells all three parts, and reads as a UUID of version 8
    assert ids.read(task_id) == ids.Stamp(TAG, incarnation, sequence)
    assert (ids.sequence_of(task_id), task_id[: ids.PREFIX_BYTES]) == (sequence, prefix)
    assert (uuid.UUID(bytes=task_id).version, uuid.UUID(bytes=task_id).variant) == (8, uuid.RFC_4122)
    assert ids.from_text(ids.to_text(task_id)) == ids.from_text(ids.to_text(task_id).upper()) == task_id
    assert uuid.UUID(ids.to_text(task_id)).bytes == task_id


def test_random_ids_keep_their_parts_and_their_order():
    rng = random.Random(7)
    for _ in range(500):
        # Given two calls of one client
        tag, incarnation = rng.randbytes(6), rng.getrandbits(34)
        first, second = sorted(rng.sample(range(1 << 40), 2))

        # When both are stamped
        stamps = [ids.stamp(ids.prefix(tag, incarnation), sequence) for sequence in (first, second)]

        # Then they read back, and sort as they were made
        assert [ids.read(one) for one in stamps] == [(tag, incarnation, first), (tag, incarnation, second)]
        assert sorted(stamps) == stamps


@pytest.mark.parametrize(
    ("tag", "incarnation"),
    [
        pytest.param(b"short", 1, id="a tag of five bytes"),
        pytest.param(b"toolong", 1, id="a tag of seven bytes"),
        pytest.param(TAG, -1, id="an incarnation below zero"),
        pytest.param(TAG, 1 << 34, id="an incarnation of 35 bits"),
    ],
)
def test_parts_that_do_not_fit_make_no_prefix(tag, incarnation):
    with pytest.raises(ValueError, match="no id can be made"):
        ids.prefix(tag, incarnation)


def test_a_sequence_that_does_not_fit_makes_no_id():
    with pytest.raises(OverflowError):
        ids.stamp(ids.prefix(TAG, 1), ids.SEQUENCE_MAX + 1)


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(ids.stamp(ids.prefix(TAG, 1), 1)[:-1], id="a byte short"),
        pytest.param(uuid.UUID("00010203-0405-4607-8809-0a0b0c0d0e0f").bytes, id="a UUID of version 4"),
        pytest.param(uuid.UUID("00010203-0405-8607-c809-0a0b0c0d0e0f").bytes, id="a UUID of another variant"),
    ],
)
def test_bytes_that_are_no_stamp_are_told(foreign):
    assert not ids.is_stamp(foreign)
    with pytest.raises(ValueError, match="is no task id"):
        ids.read(foreign)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("order-17", id="a custom id"),
        pytest.param("", id="nothing"),
        pytest.param("00010203-0405-4607-8809-0a0b0c0d0e0f", id="another system's UUID"),
        pytest.param(ids.stamp(ids.prefix(TAG, 1), 1).hex(), id="an id without its dashes"),
    ],
)
def test_text_that_is_no_stamp_reads_as_none(text):
    assert ids.from_text(text) is None
