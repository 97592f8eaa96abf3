"""What a slot page tells a router that starts: what its slots have begun lately, and that they begin nothing more."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.core.work import UNRECEIPTED_MAX
from mesh.slot_page import BEGINNINGS, RECORD_BYTES, SETTLE_S, Beginnings, SlotPage, beginnings_of, withdraw_all

DEADLINE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
#: What one slot takes of a page: its record, and its beginnings of 32 bytes each.
SLOT_BYTES = RECORD_BYTES + 32 * BEGINNINGS


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "n-1.page")


@pytest.fixture
def page(path: str) -> Iterator[SlotPage]:
    page = SlotPage(path, 2, create=True)
    yield page
    page.close()


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def begin(page: SlotPage, *leases: int, slot: int = 0) -> None:
    """Begins leases: of the task of the same number, at that second."""
    for lease in leases:
        page.begin(slot, lease, id_of(lease), b"t", 0, 0.0, lease * 1_000_000_000)


def told(path: str, slot: int = 0) -> list[tuple[int, int, float, bool]]:
    """What the page tells of a slot, by the numbers of the tasks, in the order of the leases."""
    begun = beginnings_of(path)[slot].begun
    numbers = [(int.from_bytes(one, "big"), lease, when, by_this) for one, lease, when, by_this in begun]
    return sorted(numbers, key=lambda one: one[1])


# --- what was begun ------------------------------------------------------------------------------


def test_a_page_tells_of_each_slot_which_process_has_begun_what_and_when(page, path):
    # Given two slots, of which one has begun two tasks and ended the first
    page.enter(0, 71)
    page.enter(1, 72)
    begin(page, 1)
    page.end(0)
    begin(page, 2)

    # When the page is read
    found = beginnings_of(path)

    # Then both are told, the first too: its outcome may not have been receipted
    assert sorted(found[0].begun) == [(id_of(1), 1, 1.0, True), (id_of(2), 2, 2.0, True)]
    assert found[0][:2] == (0, 71)
    assert found[1] == Beginnings(1, 72, [])


def test_what_a_predecessor_in_the_slot_has_begun_is_told_apart(page, path):
    # Given a slot whose process has begun two tasks, and a successor that has begun one
    page.enter(0, 71)
    begin(page, 1, 2)
    page.enter(0, 72)
    begin(page, 3)

    # Then all are told, and by which of them
    assert told(path) == [(1, 1, 1.0, False), (2, 2, 2.0, False), (3, 3, 3.0, True)]
    assert beginnings_of(path)[0].pid == 72


def test_a_lease_that_was_withdrawn_before_it_began_counts_for_a_predecessor(page, path):
    # Given leases up to 5 that were withdrawn from a slot that had begun 2, and a successor
    page.enter(0, 71)
    begin(page, 2)
    page.withdraw(0, 5)
    assert page.enter(0, 72) == 5

    # When the successor begins the next
    begin(page, 6)

    # Then only that is its own
    assert told(path) == [(2, 2, 2.0, False), (6, 6, 6.0, True)]


def test_a_page_remembers_the_last_beginnings_of_each_slot_and_more_than_a_slot_may_owe(page, path):
    # Given a slot that has begun more than its page remembers, and its neighbour
    page.enter(0, 71)
    page.enter(1, 72)
    begin(page, *range(1, BEGINNINGS + 4))
    begin(page, 7, slot=1)

    # Then the last are told, each once, and the neighbour's are its own
    assert [lease for _, lease, _, _ in told(path)] == list(range(4, BEGINNINGS + 4))
    assert told(path, 1) == [(7, 7, 7.0, True)]
    assert UNRECEIPTED_MAX < BEGINNINGS


def test_a_beginning_that_is_half_written_has_not_begun(page, path):
    # Given a slot that has written a beginning, and not yet that it has begun
    page.enter(0, 71)
    begin(page, 1)
    begin(page, 2)
    page._write(0, 1)

    # Then it is not told
    assert told(path) == [(1, 1, 1.0, True)]


def test_a_page_is_read_though_its_processes_are_gone(page, path):
    page.enter(0, 71)
    begin(page, 1)
    page.close()
    assert told(path) == [(1, 1, 1.0, True)]
    os.unlink(path)


# --- files that are no pages ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desc", "content"),
    [
        ("an empty file", b""),
        ("a byte", b"x"),
        ("half a record", b"\xff" * (RECORD_BYTES // 2)),
        ("a record without its beginnings", b"\xff" * RECORD_BYTES),
        ("a byte less than a slot takes", b"\xff" * (SLOT_BYTES - 1)),
    ],
)
def test_a_file_that_is_too_short_for_a_slot_tells_nothing(tmp_path, desc, content):
    file = tmp_path / "file"
    file.write_bytes(content)
    assert beginnings_of(str(file)) == []
    assert withdraw_all([str(file)], 10) == {}
    assert file.read_bytes() == content


def a_pipe(directory: Path) -> str:
    os.mkfifo(directory / "pipe")
    return str(directory / "pipe")


@pytest.mark.parametrize(
    ("desc", "make"),
    [
        ("nothing", lambda directory: str(directory / "missing")),
        ("no path at all", lambda directory: ""),
        ("a path with a zero", lambda directory: "a\0b"),
        ("a path that is too long", lambda directory: "x" * 100_000),
        ("a path that no file system has", lambda directory: "\udcff\ud800"),
        ("a directory", str),
        ("a pipe that nobody writes", a_pipe),
        ("an endless file", lambda directory: "/dev/zero"),
    ],
)
def test_what_is_no_file_tells_nothing_and_is_left_alone(tmp_path, desc, make):
    path = make(tmp_path)
    assert beginnings_of(path) == []
    assert withdraw_all([path], 10) == {}


def test_a_page_that_was_cut_off_tells_of_no_more_slots_than_are_there(page, path):
    # Given a page of two slots, of which both have begun something
    page.enter(0, 71)
    page.enter(1, 72)
    begin(page, 1)
    begin(page, 1, slot=1)
    page.close()

    # When its end is missing
    os.truncate(path, 2 * SLOT_BYTES - 1)

    # Then it is read as a page of one slot, and whatever that says, nothing breaks
    assert [one.slot for one in beginnings_of(path)] == [0]
    os.unlink(path)


@pytest.mark.parametrize("byte", [b"\x00", b"\xff", b"A"])
def test_a_foreign_file_of_any_content_is_read_without_an_error(tmp_path, byte):
    file = tmp_path / "file"
    file.write_bytes(byte * SLOT_BYTES)
    (found,) = beginnings_of(str(file))
    assert found.slot == 0
    assert len(found.begun) in (0, 1, BEGINNINGS)


# --- nothing more begins -------------------------------------------------------------------------


def test_what_is_withdrawn_at_the_start_does_not_begin_any_more(page, path):
    # Given two slots, of which one has begun lease 5
    page.enter(0, 71)
    page.enter(1, 72)
    begin(page, 5)

    # When a router that starts withdraws what they were granted
    started_s = time.monotonic()
    withdrawn = withdraw_all([path], 10)

    # Then it knows up to where, and nothing up to there begins; what it grants beyond does
    assert withdrawn == {path: [15, 10]}
    assert time.monotonic() - started_s >= 2 * SETTLE_S
    assert not page.begin(0, 15, id_of(15), b"t", 0, 0.0, 1)
    assert page.begin(0, 16, id_of(16), b"t", 0, 0.0, 1)
    assert not page.begin(1, 10, id_of(10), b"t", 0, 0.0, 1)
    assert page.begin(1, 11, id_of(11), b"t", 0, 0.0, 1)


def test_all_pages_are_withdrawn_and_what_is_none_is_left_out(page, path, tmp_path):
    other = SlotPage(str(tmp_path / "n-2.page"), 1, create=True)
    other.enter(0, 73)
    begin(other, 100)
    assert withdraw_all([path, str(tmp_path / "missing"), other.path], 1) == {path: [1, 1], other.path: [101]}
    assert withdraw_all([], 1) == {}
    other.close()


def test_a_withdrawal_that_a_supervisor_writes_over_is_written_again(page, path, monkeypatch):
    # Given a supervisor that has read what was withdrawn, and writes its own recall just after the router did
    page.enter(0, 71)
    settled: list[float] = []

    def settle(seconds: float) -> None:
        settled.append(seconds)
        if len(settled) == 1:
            page._write(8, 3)

    monkeypatch.setattr(time, "sleep", settle)

    # When a router starts
    withdrawn = withdraw_all([path], 10)

    # Then what it has withdrawn holds, up to the lease that it was told
    assert (withdrawn, page._read(8), settled) == ({path: [10, 10]}, 10, [SETTLE_S, SETTLE_S])


#: A slot that begins leases as fast as it can, until one is withdrawn. It says which it began last.
RUNNING = """
import sys, time
from mesh.slot_page import SlotPage

page = SlotPage(sys.argv[1], 1, create=False)
page.enter(0, 1)
lease = 1
print("ready", flush=True)
while page.begin(0, lease, lease.to_bytes(16, "big"), b"t", 0, 0.0, time.monotonic_ns()):
    page.end(0)
    lease += 1
print(lease - 1, flush=True)
"""


def test_what_was_withdrawn_takes_no_place_of_what_has_begun(page, path):
    # Given a slot that has begun one lease, and was told to give thousands back
    page.enter(0, 71)
    begin(page, 1)
    page.withdraw(0, BEGINNINGS)
    for lease in range(2, BEGINNINGS + 1):
        assert not page.begin(0, lease, id_of(lease), b"t", 0, 0.0, lease * 10**9)

    # When it begins the next
    begin(page, BEGINNINGS + 1)

    # Then both are told
    assert [lease for _, lease, _, _ in told(path)] == [1, BEGINNINGS + 1]


def test_what_a_running_slot_has_begun_is_told_whole_once_it_was_withdrawn(tmp_path: Path, make_process: Start) -> None:
    # Given a slot process that begins as fast as it can
    path = str(tmp_path / "n-1.page")
    page = SlotPage(path, 1, create=True)
    slot = make_process(RUNNING, path)
    give_up = time.monotonic() + DEADLINE_S
    while page.begun(0) < 2 * BEGINNINGS:
        assert time.monotonic() < give_up
    page.close()

    # When a router starts, and withdraws far ahead of it
    (upto,) = withdraw_all([path], 1 << 30)[path]
    assert slot.stdout is not None
    last = int(slot.stdout.readline())

    # Then its last beginnings are told without a gap; what it gave back stands where the oldest of them stood
    assert told_leases(path) == list(range(last - BEGINNINGS + 2, last + 1))
    assert last < upto


def told_leases(path: str) -> list[int]:
    return [lease for _, lease, _, by_this in told(path) if by_this]


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def make_process() -> Iterator[Start]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
