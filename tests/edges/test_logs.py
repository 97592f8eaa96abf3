"""Logs: their forms, records that stay whole between processes, files that are rotated, and the task in a record."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mesh
from mesh import logs, request
from mesh.exceptions import InvalidCall, SoftTimeLimitExceeded
from mesh.expansion import expand
from mesh.log_writer import LogDescriptor, LogFile, Turns, WholeRecords

DEADLINE_S = 20.0
TASK_ID = bytes(range(16))
TASK_ID_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    logger = logging.getLogger()
    level = logger.level
    yield
    logs.unconfigure()
    logger.setLevel(level)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "node.log"


@pytest.fixture
def configure(log: Path) -> Callable[..., None]:
    """Sends logs to the file."""

    def configure(form: str, level: str = "INFO") -> None:
        logs.configure(level, destination=LogFile(lambda index: str(log)), form=form)

    return configure


# --- the three forms -----------------------------------------------------------------------------


def test_logs_are_key_and_value_where_programs_read_and_one_line_each(log: Path) -> None:
    # Given a file and no word about the form
    logs.configure("warning", destination=LogFile(lambda index: str(log)))

    # When something is logged, with fields, line ends, quotes and an exception
    logger = logging.getLogger("mesh.test")
    logger.info("not at this level")
    logger.warning("said %s", 'a "b"\nc=d', extra={"action": "expired", "task": "x y", "empty": "", "n": 3})
    try:
        raise ValueError("ü\u2028")
    except ValueError:
        logger.exception("failed")
    logs.announce("here I am", "ready")

    # Then each is one line whose values can be read back
    first, second, third = log.read_text().splitlines()
    head = r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=%s pid=\d+ logger=%s msg=%s"
    said = re.escape(r'"said a \"b\"\nc=d" action=expired task="x y" empty="" n=3')
    assert re.fullmatch(head % ("warning", r"mesh\.test", said), first)
    assert re.fullmatch(head % ("error", r"mesh\.test", r'failed trace="Traceback .*ValueError: .*"'), second)
    assert re.fullmatch(head % ("info", "mesh", '"here I am" action=ready'), third)


def test_logs_are_one_json_object_a_line_on_request(log: Path, configure: Callable[..., None]) -> None:
    # Given a file and the form 'json'
    configure("json")

    # When records with fields that JSON has a form for, and has none for, are logged
    logger = logging.getLogger("mesh.test")
    logger.warning("two\nlines", extra={"action": "expired", "n": 3, "path": Path("/x"), "level": "not the record's"})
    logger.warning("odd", extra={"far": float("inf")})
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("failed")

    # Then each line is an object with the same keys as in the other form
    first, second, third = (json.loads(line) for line in log.read_text().splitlines())
    assert list(first) == ["time", "level", "pid", "logger", "msg", "action", "n", "path"]
    assert (first["level"], first["msg"], first["pid"]) == ("warning", "two\nlines", os.getpid())
    assert (first["n"], first["path"], second["far"]) == (3, "/x", "inf")
    assert third["trace"].splitlines()[-1] == "ValueError: no"


def test_logs_are_lines_for_people_on_a_terminal_and_what_is_bad_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a terminal, configured twice
    monkeypatch.delenv("NO_COLOR", raising=False)
    leader, follower = pty.openpty()
    logs.configure("DEBUG", destination=LogDescriptor(follower))
    logs.configure("INFO", destination=LogDescriptor(follower))

    # When something is logged
    logging.getLogger("mesh.test").debug("not at this level")
    logging.getLogger("mesh.test").info("begun", extra={"action": "begin"})
    logging.getLogger("mesh.test").error("ended")

    # Then it is there once
    shown = b""
    while shown.count(b"\n") < 2:
        shown += os.read(leader, 4096)
    first, second = shown.decode().splitlines()
    os.close(follower)
    os.close(leader)
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO \d+\] begun \(action=begin\)", first)
    assert re.fullmatch(r"\x1b\[31m\[.* ERROR \d+\]\x1b\[0m ended", second)


def test_a_level_that_is_none_changes_nothing() -> None:
    before = list(logging.getLogger().handlers)
    with pytest.raises(InvalidCall, match="loglevel='loud' is not possible: give one of DEBUG"):
        logs.configure("loud")
    assert logging.getLogger().handlers == before


# --- what can't be logged ------------------------------------------------------------------------


def test_a_record_that_can_not_be_formatted_is_told_about_in_its_place(
    log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Given a handler alone, as pytest's own raises for such records
    handler = WholeRecords(LogFile(lambda index: str(log)))
    handler.setFormatter(logs.ForPeople(colour=False))

    # When arguments do not fit their message, and when text is none
    for text, args in (("%d", ("two",)), ("lone \ud800", ())):
        handler.handle(logging.LogRecord("proj", logging.INFO, "proj/tasks.py", 7, text, args, None))
    handler.close()

    # Then one line says where, the next is escaped, and stderr has nothing
    first, second = log.read_text().splitlines()
    assert first.endswith("] what proj/tasks.py:7 logs can't be formatted (TypeError): '%d'")
    assert second.endswith(r"lone \ud800")
    assert capfd.readouterr().err == ""


def test_a_full_disk_stops_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", destination=LogFile(lambda index: "/dev/full"))
    logging.getLogger("mesh.test").error("lost")
    assert capfd.readouterr() == ("", "")


def test_a_soft_time_limit_that_comes_while_something_is_logged_is_not_swallowed(
    configure: Callable[..., None],
) -> None:
    class Slow:
        def __str__(self) -> str:
            raise SoftTimeLimitExceeded("now")

    configure("human")
    with pytest.raises(SoftTimeLimitExceeded):
        logging.getLogger("mesh.test").info("%s", Slow())


# --- files ---------------------------------------------------------------------------------------


def test_after_a_rotation_records_go_to_the_new_file(log: Path, configure: Callable[..., None]) -> None:
    # Given a log with a record
    configure("human")
    logger = logging.getLogger("mesh.test")
    logger.info("one")

    # When it is moved away, and when the directory is for a moment not there at all
    log.rename(log.with_suffix(".1"))
    logger.info("two")
    log.parent.rename(log.parent.with_name("gone"))
    logger.info("three")
    log.parent.with_name("gone").rename(log.parent)

    # Then nothing is lost
    assert log.with_suffix(".1").read_text().endswith("one\n")
    assert [line.rpartition(" ")[2] for line in log.read_text().splitlines()] == ["two", "three"]


def test_stdout_and_stderr_move_along_where_they_are_the_log(log: Path) -> None:
    # Given a process whose stdout and stderr are its log file, and whose log is rotated
    code = """
import logging, os, sys
from mesh import logs
from mesh.log_writer import LogFile
file = LogFile(lambda index: sys.argv[1])
logs.configure("INFO", destination=file, form="human")
os.dup2(file.fileno(), 1)
os.rename(sys.argv[1], sys.argv[1] + ".1")
logging.info("logged")
print("printed")
"""

    # When it prints
    subprocess.run([sys.executable, "-c", code, str(log)], check=True, timeout=DEADLINE_S)

    # Then that is in the new file, too
    logged, printed = log.read_text().splitlines()
    assert (logged.endswith("logged"), printed) == (True, "printed")


def test_a_slot_has_a_file_of_its_own_where_the_path_says_so(tmp_path: Path) -> None:
    # Given a path with an index in it
    pattern = f"{tmp_path}/%n%I.log"
    logs.configure(
        "INFO",
        form="human",
        destination=LogFile(lambda index: expand(pattern, option="logfile", node="w1@here", index=index)),
    )

    # When the node logs, and then as its second slot
    logging.info("node")
    logs.enter_child(2)
    logging.info("slot")

    # Then each has its own
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w1-2.log", "w1.log"]
    assert (tmp_path / "w1-2.log").read_text().endswith("slot\n")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("%n.log", "w1.log"),
        ("%p", "w1@lab.example.org"),
        ("%h %d %%", "lab.example.org example.org %"),
        ("%i%I", "3-3"),
    ],
)
def test_paths_are_expanded_as_with_celery(text: str, path: str) -> None:
    assert expand(text, option="logfile", node="w1@lab.example.org", index=3) == path


def test_the_node_itself_has_the_index_zero_and_no_dash() -> None:
    assert expand("%i%I", option="logfile", node="w1@lab") == "0"


@pytest.mark.parametrize("text", ["%x.log", "100%"])
def test_an_unknown_letter_is_an_error(text: str) -> None:
    with pytest.raises(InvalidCall, match=f"logfile='{text}' is not possible: .* %p %n %h %d %i %I %%"):
        expand(text, option="logfile", node="w1@lab")


# --- several processes ---------------------------------------------------------------------------

WRITERS = """
import logging, os, sys
from mesh import logs
logs.configure("INFO", form=sys.argv[1])
for child in range(6):
    if os.fork() == 0:
        for number in range(40):
            try:
                raise ValueError(str(child) * 30_000)
            except ValueError:
                logging.exception("child %d record %d", child, number)
            logging.info("short")
        os._exit(0)
for _ in range(6):
    os.wait()
"""


@pytest.mark.parametrize("form", ["json", "human"])
def test_long_records_of_several_processes_are_never_torn_on_a_pipe(form: str) -> None:
    # Given six processes that log tracebacks of 30 kB to one pipe, with a reader that is slow
    writers = subprocess.Popen([sys.executable, "-c", WRITERS, form], stderr=subprocess.PIPE)
    assert writers.stderr is not None

    # When all is read
    read = b""
    with writers:
        while piece := os.read(writers.stderr.fileno(), 5_000):
            read += piece
            time.sleep(0)
    text = read.decode()

    # Then every record is whole
    if form == "json":
        records = [json.loads(line) for line in text.splitlines()]
        assert len(records) == 6 * 40 * 2
        assert {len(record["trace"].rpartition("ValueError: ")[2]) for record in records if "trace" in record} == {
            30_000
        }
    else:
        whole = re.findall(
            r"^\[.*\] child (\d) record \d+\nTraceback .*\n  File .*\nValueError: \1{30000}$",
            text,
            re.MULTILINE,
        )
        assert len(whole) == 6 * 40


def test_who_holds_the_turn_and_stands_still_holds_up_nobody_for_long() -> None:
    # Given a process that has taken its turn and does not end it
    (told, tell) = os.pipe()
    turns = Turns(tell)
    child = os.fork()
    if child == 0:
        turns.take()
        os.write(tell, b"x")
        select.select([], [], [], DEADLINE_S * 2)
        os._exit(0)
    os.read(told, 1)

    # When another wants to write
    began_mono_s = time.monotonic()
    turns.take()

    # Then it does after a while
    assert 0.5 < time.monotonic() - began_mono_s < DEADLINE_S

    # And at once when the holder has died
    os.kill(child, 9)
    os.waitpid(child, 0)
    began_mono_s = time.monotonic()
    turns.take()
    assert time.monotonic() - began_mono_s < 0.5
    os.close(told)
    os.close(tell)


# --- records in tasks ----------------------------------------------------------------------------


def test_what_is_logged_in_a_task_names_it(log: Path, configure: Callable[..., None]) -> None:
    # Given a log
    configure("json")

    # When a record comes from within a task, one from a task that this calls like a function, and one from outside
    request.enter_request(TASK_ID, "proj.add")
    logging.info("in it")
    request.enter_request(None, "proj.helper")
    logging.info("in the helper")
    request.leave_request()
    logging.info("says itself", extra={"task": "another"})
    request.leave_request()
    logging.info("outside")

    # Then those from within carry the task that was sent, unless they name one
    first, second, third, fourth = (json.loads(line) for line in log.read_text().splitlines())
    assert (first["task"], first["task_name"]) == (TASK_ID_TEXT, "proj.add")
    assert (second["task"], second["task_name"]) == (TASK_ID_TEXT, "proj.add")
    assert (third["task"], "task" in fourth) == ("another", False)


def test_a_task_logger_tells_the_task_to_handlers_of_ones_own() -> None:
    # Given a handler that knows nothing of mesh, on a task logger
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign,assignment]
    logger = mesh.get_task_logger("proj.tasks")
    assert mesh.get_task_logger("proj.tasks") is logger
    logger.addHandler(handler)

    # When a task logs
    request.enter_request(TASK_ID, "proj.add")
    logger.warning("hello")
    request.leave_request()
    logger.removeHandler(handler)

    # Then the record has it
    (record,) = seen
    assert (record.__dict__["task"], record.__dict__["task_name"]) == (TASK_ID_TEXT, "proj.add")
