"""What tasks print and log on a real node: with their ids, whole, and where it was wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from tests.mesh.proj import printing
from tests.mesh.running import DEADLINE_S, PROJECT, ROOT, Host, Node, eventually

PRINTING = ("-I", printing.__name__, "--log-format", "json")


def records(node: Node) -> list[dict[str, Any]]:
    """What the node has logged so far. Its banner and what is printed past the log is no JSON."""
    return [json.loads(line) for line in node.said.splitlines() if line.startswith("{")]


def test_what_a_task_prints_is_logged_with_its_id_before_its_result_is_there(host: Host, app: Mesh) -> None:
    # Given a node
    node = host.start_node(slots=2, options=PRINTING)

    # When tasks print lines, a line without an end, and to stderr; and when one logs
    lines = printing.say.delay("one\ntwo")
    begun = printing.say.delay("begun", end="")
    wrong = printing.say.delay("wrong", to_stderr=True)
    logged = printing.log.delay("noted")
    pids = [result.get(DEADLINE_S) for result in (lines, begun, wrong, logged)]

    # Then each line is a record that names its task, and the process that ran it
    seen = {
        record["msg"]: (record["logger"], record["level"], record["pid"], record["task"], record["task_name"])
        for record in records(node)
        if record["msg"] in ("one", "two", "begun", "wrong", "noted")
    }
    say, log = printing.say.name, printing.log.name
    assert seen["one"] == seen["two"] == ("mesh.task.stdout", "warning", pids[0], lines.id, say)
    assert seen["begun"] == ("mesh.task.stdout", "warning", pids[1], begun.id, say)
    assert seen["wrong"] == ("mesh.task.stderr", "warning", pids[2], wrong.id, say)
    assert (seen["noted"][0], seen["noted"][3:]) == (printing.__name__, (logged.id, log))


def test_the_level_of_what_is_printed_can_be_set_where_the_node_is_started(host: Host, app: Mesh) -> None:
    # Given a node with the setting behind its options
    node = host.start_node(slots=1, options=[*PRINTING, "worker_redirect_stdouts_level=error"])

    # When a task prints
    printing.say.delay("loud").get(DEADLINE_S)

    # Then it is logged at that level
    assert [record["level"] for record in records(node) if record["msg"] == "loud"] == ["error"]


def test_what_is_printed_stays_as_it_is_where_that_is_wanted(host: Host, app: Mesh) -> None:
    node = host.start_node(slots=1, options=[*PRINTING, "--", "worker_redirect_stdouts=False"])
    pid = printing.say.delay("plain").get(DEADLINE_S)
    node.stop()  # stdout is a file: Python keeps what is printed until the process ends
    assert pid
    assert "\nplain\n" in node.said


def test_what_goes_to_the_descriptors_directly_is_not_logged(host: Host, app: Mesh) -> None:
    node = host.start_node(slots=1, options=PRINTING)
    printing.write_directly.delay("raw").get(DEADLINE_S)
    assert node.said.count("raw\n") == 2
    assert not [record for record in records(node) if record["msg"] == "raw"]


def test_lines_of_different_slots_are_never_interleaved(host: Host, app: Mesh) -> None:
    # Given a node of four slots whose log is a pipe
    argv = ["-A", PROJECT, "-b", host.url, "worker", "-n", "n1@here", "-c", "4", *PRINTING]
    node = subprocess.Popen(
        [sys.executable, "-m", "mesh", *argv], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert node.stderr is not None
    pieces: list[bytes] = []
    reader = threading.Thread(
        target=lambda fd: pieces.extend(iter(lambda: os.read(fd, 3_000), b"")), args=[node.stderr.fileno()]
    )
    reader.start()

    # When all slots print, log and fail at length
    results = [printing.shout.delay(letter, 20_000) for letter in "abcdefgh" * 10]
    for result in results:
        result.get(DEADLINE_S, propagate=False)
    node.terminate()
    node.wait(DEADLINE_S)
    reader.join()
    node.stderr.close()

    # Then every record is whole: of one task and one letter
    said = [json.loads(line) for line in b"".join(pieces).decode().splitlines()]
    by_task = {result.id: letter * 20_000 for result, letter in zip(results, "abcdefgh" * 10, strict=True)}
    printed = [record for record in said if record["logger"] in ("mesh.task.stdout", printing.__name__)]
    assert len(printed) == 2 * len(results)
    assert all(record["msg"] == by_task[record["task"]] for record in printed)
    failed = [record for record in said if record.get("action") == "task_failed"]
    assert len(failed) == len(results)
    assert all(record["trace"].endswith(f"ValueError: {by_task[record['task']]}") for record in failed)


@pytest.mark.parametrize(("form", "first"), [("human", "["), ("logfmt", "time="), (None, "time=")])
def test_the_form_of_the_log_is_chosen(host: Host, tmp_path: Path, form: str | None, first: str) -> None:
    # Given a node with a log file, whose output is no terminal
    options = ["-f", str(tmp_path / "%n.log"), *(["--log-format", form] if form else [])]

    # When it is ready
    node = host.start_node("n1", slots=1, options=options)

    # Then the file has that, and stderr does not
    eventually(lambda: (tmp_path / "n1.log").read_text().startswith(first))
    assert "ready" not in node.said


def test_each_slot_has_a_file_of_its_own_where_that_is_wanted(host: Host, app: Mesh, tmp_path: Path) -> None:
    # Given a node whose log path has an index in it
    host.start_node("n1", slots=1, options=[*PRINTING, "-f", str(tmp_path / "%n%I.log")])

    # When a task prints
    printing.say.delay("hello").get(DEADLINE_S)

    # Then that is in the slot's file, and that the node is ready in the node's
    assert "hello" in (tmp_path / "n1-1.log").read_text()
    eventually(lambda: "ready" in (tmp_path / "n1.log").read_text())
    assert "hello" not in (tmp_path / "n1.log").read_text()


def test_a_slot_without_a_file_of_its_own_logs_with_the_node(host: Host, app: Mesh, tmp_path: Path) -> None:
    # Given a node whose slot can't open its file
    (tmp_path / "n1-1.log").mkdir()
    host.start_node("n1", slots=1, options=[*PRINTING, "-f", str(tmp_path / "%n%I.log")])

    # When a task prints, then that is in the node's file, with the reason
    printing.say.delay("hello").get(DEADLINE_S)
    assert "hello" in (tmp_path / "n1.log").read_text()
    assert "slot 0 has no log of its own" in (tmp_path / "n1.log").read_text()


def test_a_node_goes_on_in_a_new_file_after_a_rotation(host: Host, app: Mesh, tmp_path: Path) -> None:
    # Given a node whose log has something in it
    log, old = tmp_path / "n1.log", tmp_path / "n1.log.1"
    host.start_node("n1", slots=1, options=[*PRINTING, "-f", str(log)])
    printing.say.delay("before").get(DEADLINE_S)

    # When it is moved away
    log.rename(old)
    printing.say.delay("after").get(DEADLINE_S)

    # Then what comes is in a new one
    assert "before" in old.read_text()
    assert "after" not in old.read_text()
    assert "after" in log.read_text()


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_what_tasks_print_in_other_pools_is_logged_with_their_ids_too(host: Host, app: Mesh, pool: str) -> None:
    # Given a node whose slots are no processes
    node = host.start_node(slots=1 if pool == "solo" else 2, options=[*PRINTING, "-P", pool])

    # When tasks print lines and a line without an end
    results = [printing.say.delay(f"line\nend {number}", end="") for number in range(20)]
    for result in results:
        result.get(DEADLINE_S)

    # Then each is logged under its own id
    ends = {record["msg"]: record["task"] for record in records(node) if record["msg"].startswith("end ")}
    assert ends == {f"end {number}": result.id for number, result in enumerate(results)}
