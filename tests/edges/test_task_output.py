"""What tasks print becomes log records, from any thread, and never again what logging itself prints."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import request
from mesh.task_output import LINE_CHARS_MAX, LoggedStream

ONE, OTHER = bytes(16), bytes(15) + b"\x01"
ONE_TEXT = "00000000-0000-0000-0000-000000000000"


class Seen(logging.Handler):
    """Keeps (message, task, task's name) of each record."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def said(self) -> list[tuple[str, str | None]]:
        return [(record.getMessage(), record.__dict__.get("task_name")) for record in self.records]

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.task_output")
    logger.propagate = False
    yield logger
    logger.handlers.clear()


@pytest.fixture
def seen(logger: logging.Logger) -> Seen:
    seen = Seen()
    logger.addHandler(seen)
    return seen


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[io.TextIOWrapper]:
    """What the stream stands for."""
    with (tmp_path / "behind").open("w+") as file:
        yield file


@pytest.fixture
def stream(logger: logging.Logger, behind: io.TextIOWrapper) -> LoggedStream:
    return LoggedStream(behind, logger, logging.WARNING)


def test_each_line_that_a_task_prints_is_a_record_with_the_task(stream: LoggedStream, seen: Seen) -> None:
    # Given a task
    request.enter_request(ONE, "proj.add")

    # When it prints lines, in pieces and at once, and blank ones
    print("a", 1, file=stream)
    print("b", end="", file=stream)
    print("c\nd\n\n  \ne", file=stream)
    request.leave_request()

    # Then each is a record at the level of the stream
    assert seen.said == [(line, "proj.add") for line in ("a 1", "bc", "d", "e")]
    assert {record.__dict__["task"] for record in seen.records} == {ONE_TEXT}
    assert {record.levelno for record in seen.records} == {logging.WARNING}


def test_a_line_without_an_end_ends_with_its_task_and_not_before(stream: LoggedStream, seen: Seen) -> None:
    # Given a task that prints a line without an end, flushes, and calls another like a function
    request.enter_request(ONE, "proj.add")
    print("begun", end="", file=stream, flush=True)
    request.enter_request(None, "proj.helper")
    print(", gone on", end="", file=stream)
    request.leave_request()
    assert seen.said == []

    # When it ends, and the next one prints
    request.leave_request()
    assert seen.said == [("begun, gone on", "proj.add")]
    request.enter_request(OTHER, "proj.other")
    print("next", end="", file=stream)
    request.leave_request()

    # Then each has its own
    assert seen.said[1:] == [("next", "proj.other")]


def test_the_end_of_a_run_waits_for_one_thing_however_much_is_printed(stream: LoggedStream, seen: Seen) -> None:
    request.enter_request(ONE, "proj.add")
    for _ in range(100):
        print("x", end="", file=stream)
        print(file=stream)
    assert [len(calls) for calls in request._at_end.values()] == [1]
    request.leave_request()
    assert len(seen.said) == 100
    assert request._at_end == {}


def test_tasks_in_several_threads_do_not_share_lines(stream: LoggedStream, seen: Seen) -> None:
    # Given two tasks in two threads, which take turns
    turns = threading.Barrier(2, timeout=10)

    def run(task_id: bytes, name: str) -> None:
        request.enter_request(task_id, name)
        for part in ("one ", "two ", "three"):
            turns.wait()
            print(f"{name} {part}", end="", file=stream)
        request.leave_request()

    # When they print pieces of lines
    threads = [threading.Thread(target=run, args=args) for args in ((ONE, "a"), (OTHER, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then each line is of one of them
    assert sorted(seen.said) == [("a one a two a three", "a"), ("b one b two b three", "b")]


def test_tasks_that_are_coroutines_of_one_thread_do_not_share_lines(stream: LoggedStream, seen: Seen) -> None:
    # Given two tasks that are coroutines, begun where a line was begun already
    async def run(task_id: bytes, name: str) -> None:
        request.enter_request(task_id, name)
        for part in ("one", "two", "three"):
            await asyncio.sleep(0)
            await asyncio.to_thread(print, f"{name} in a thread {part}", file=stream)
            print(f"{name} {part} ", end="", file=stream)
        request.leave_request()

    async def run_both() -> None:
        await asyncio.gather(run(ONE, "a"), run(OTHER, "b"))

    print("outside", end="", file=stream)

    # When they print pieces of lines in turn, and whole lines from threads
    asyncio.run(run_both())
    stream.flush()

    # Then each line is of one of them
    assert {("a one a two a three", "a"), ("b one b two b three", "b"), ("outside", None)} < set(seen.said)
    assert {(f"{name} in a thread {part}", name) for name in "ab" for part in ("one", "two", "three")} < set(seen.said)
    assert len(seen.said) == 9


def test_outside_of_a_task_a_flush_ends_the_line(stream: LoggedStream, seen: Seen) -> None:
    print("hello", end="", file=stream)
    assert seen.said == []
    stream.flush()
    assert seen.said == [("hello", None)]


@pytest.mark.parametrize("bar", ["\r{} %", "{} %\r"])
def test_a_progress_bar_is_logged_as_a_terminal_would_show_it(stream: LoggedStream, seen: Seen, bar: str) -> None:
    request.enter_request(ONE, "proj.add")
    for done in range(0, 101, 10):
        stream.write(bar.format(done))
    stream.write("\r\nover\r\n")
    request.leave_request()
    assert seen.lines == ["100 %", "over"]


def test_text_without_any_line_end_is_cut(stream: LoggedStream, seen: Seen) -> None:
    request.enter_request(ONE, "proj.add")
    for _ in range(5):
        stream.write("x" * LINE_CHARS_MAX)
    request.leave_request()
    assert sum(map(len, seen.lines)) == 5 * LINE_CHARS_MAX
    assert max(map(len, seen.lines)) <= 2 * LINE_CHARS_MAX


def test_what_logging_prints_while_it_logs_a_line_goes_to_the_stream_behind(
    stream: LoggedStream, logger: logging.Logger, behind: io.TextIOWrapper
) -> None:
    # Given a handler that prints to the very stream, as one made within a task does
    logger.addHandler(logging.StreamHandler(stream))

    # When a task prints
    print("hello", file=stream)

    # Then it is printed once
    behind.seek(0)
    assert behind.read() == "hello\n"


def test_a_stream_behind_that_is_closed_is_no_error(
    stream: LoggedStream, logger: logging.Logger, behind: io.TextIOWrapper
) -> None:
    logger.addHandler(logging.StreamHandler(stream))
    behind.close()
    assert print("hello", file=stream) is None


def test_it_is_enough_of_a_stream_for_libraries(stream: LoggedStream, seen: Seen, behind: io.TextIOWrapper) -> None:
    # Given what libraries ask of a stream
    assert (stream.isatty(), stream.writable(), stream.readable()) == (False, True, False)
    assert (stream.encoding, stream.name, stream.fileno()) == ("utf-8", behind.name, behind.fileno())
    stream.reconfigure(line_buffering=True)

    # When they write in all the ways there are, and close it
    stream.writelines(["a\n", "b\n"])
    stream.buffer.write(b"c\xff\n")
    stream.buffer.write(memoryview(b"d\n"))
    stream.buffer.flush()
    stream.close()
    io.TextIOWrapper(io.BufferedWriter(stream.buffer), line_buffering=True).write("e\n")
    subprocess.run([sys.executable, "-c", "print('f')"], stdout=stream.fileno(), check=True, timeout=20)
    with pytest.raises(TypeError, match="must be str, not bytes"):
        stream.write(b"g")  # type: ignore[arg-type]

    # Then all is logged, but for what a subprocess writes to the descriptor
    assert seen.lines == ["a", "b", r"c\xff", "d", "e"]
    assert os.pread(behind.fileno(), 10, 0) == b"f\n"
