"""Dead letters as users meet them: `app.control.dead_letters` and `mesh dead`."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import click
import pytest

from mesh import bodies, ids
from mesh import exceptions as ex
from mesh.control import Control
from mesh.messages import Replies
from mesh.settings import Settings
from mesh_cli import asking, dead, exit_codes, root

TASK = ids.stamp(ids.prefix(b"owner!", 7), 1)
OTHER = ids.stamp(ids.prefix(b"owner!", 7), 2)
ID, OTHER_ID = ids.to_text(TASK), ids.to_text(OTHER)
NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)


def letter(**changes: Any) -> dict[str, Any]:
    """A dead letter, as it comes from the router."""
    return {
        "id": TASK,
        "custom_id": None,
        "name": "proj.tasks.mail",
        "queue": "celery",
        "priority": 3,
        "cause": "crashed",
        "reason": "4 deliveries died: signal 11 (SIGSEGV)",
        "causes": ["exit code 3", "signal 11 (SIGSEGV)"],
        "attempts": 4,
        "crashes": 4,
        "losses": 0,
        "died_wall_s": NOON.timestamp(),
        "body": bodies.encode_call([2, (3,)], {"x": {4}})[0],
        "body_bytes": 9,
        "options": None,
    } | changes


class Router:
    """Stands for a client: answers as a router that has these dead letters, and remembers what it was asked."""

    def __init__(self, *letters: dict[str, Any], **answer: Any) -> None:
        self.answer = {"count": len(letters), "kept": len(letters), "crowded_out": 0, "letters": list(letters)}
        self.answer |= {"left": [], "unknown": [], **answer}
        self.errors: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def request(self, command: str, arguments: dict[str, Any], destination: Any, timeout_s: float) -> Replies:
        assert destination is None
        self.asked.append((command, arguments))
        return Replies(1, {} if self.errors else {"router": self.answer}, self.errors)


class App(NamedTuple):
    client: Router
    settings: Settings = Settings()


def letters_of(router: Router, *args: Any, **chosen: Any) -> Any:
    return Control(App(router)).dead_letters(*args, **chosen)


# --- app.control ---------------------------------------------------------------------------------


def test_a_dead_letter_is_told_with_its_arguments_as_they_were_passed() -> None:
    # Given two dead letters, one under an id of its caller's
    router = Router(letter(), letter(id=OTHER, custom_id="order-7", options={"headers": {"a": 1}}))

    # When they are listed
    found = letters_of(router).list()

    # Then all of it reads as users write it
    assert found.letters[0] == {
        **{"id": ID, "name": "proj.tasks.mail", "queue": "celery", "priority": 3, "headers": None},
        **{"args": [2, (3,)], "kwargs": {"x": {4}}, "body_bytes": 9},
        **{"cause": "crashed", "reason": "4 deliveries died: signal 11 (SIGSEGV)"},
        **{"causes": ["exit code 3", "signal 11 (SIGSEGV)"], "attempts": 4, "crashes": 4, "losses": 0},
        "time_died": NOON.timestamp(),
    }
    assert (found.letters[1]["id"], found.letters[1]["headers"]) == ("order-7", {"a": 1})
    assert (found.total, found.crowded_out, found.unknown) == (2, 0, [])
    assert router.asked == [("dead_show", {})]


@pytest.mark.parametrize("body", [None, b"\xc1"], ids=["too large to be sent along", "of types not known here"])
def test_arguments_that_can_not_be_shown_are_none(body: bytes | None) -> None:
    (found,) = letters_of(Router(letter(body=body))).list().letters
    assert (found["args"], found["kwargs"], found["body_bytes"]) == (None, None, 9)


@pytest.mark.parametrize(
    ("chosen", "asked"),
    [
        ({}, {}),
        ({"ids": ID}, {"ids": [TASK]}),
        ({"ids": [ID, "order-7"]}, {"ids": [TASK, "order-7"]}),
        ({"ids": ()}, {"ids": []}),
        ({"task": "proj.mail", "cause": "crashed"}, {"name": "proj.mail", "cause": "crashed"}),
        ({"since": NOON}, {"since_wall_s": NOON.timestamp()}),
        ({"until": "2026-08-01T12:00:00"}, {"until_wall_s": NOON.timestamp()}),
    ],
)
def test_what_is_said_is_what_the_router_is_asked(chosen: dict[str, Any], asked: dict[str, Any]) -> None:
    # Given a choice, when it is counted, replayed and purged
    router = Router(letter())
    letters = letters_of(router, **chosen)
    assert router.asked == []
    letters.count(), letters.replay(), letters.purge()

    # Then each asks for exactly that
    assert router.asked == [("dead_list", asked), ("dead_replay", asked), ("dead_purge", asked)]


def test_an_age_is_a_time_so_long_ago() -> None:
    router = Router()
    before = time.time()
    letters_of(router, since=timedelta(hours=2)).count()
    assert before - 7200 <= router.asked[0][1]["since_wall_s"] <= time.time() - 7200


@pytest.mark.parametrize(
    ("option", "value"),
    [("ids", [5]), ("task", b"mail"), ("cause", 5), ("cause", ""), ("task", ""), ("since", 5), ("until", "yesterday")],
)
def test_what_can_not_be_said_is_refused_before_anybody_is_asked(option: str, value: Any) -> None:
    router = Router()
    with pytest.raises(ex.InvalidCall, match=option):
        letters_of(router, **{option: value})
    assert router.asked == []


def test_what_came_of_a_replay_and_a_purge_is_told_by_ids() -> None:
    router = Router(letter(), count=3, left=[TASK], unknown=["order-7", OTHER])
    assert letters_of(router).replay() == (3, [ID], ["order-7", OTHER_ID])
    assert letters_of(router).purge() == (3, ["order-7", OTHER_ID])
    assert letters_of(router).count() == 3


@pytest.mark.parametrize(
    ("errors", "words"),
    [({"router": "dead_list: ids is a list of ids"}, "list of ids"), ({"w1@a": "unknown command"}, "of this release")],
)
def test_a_router_that_does_not_know_what_is_asked_says_so(errors: dict[str, str], words: str) -> None:
    router = Router()
    router.errors = errors
    with pytest.raises(ex.OperationalError, match=words):
        letters_of(router).count()


# --- what is printed -----------------------------------------------------------------------------


def infos(*letters: dict[str, Any]) -> Any:
    return letters_of(Router(*letters)).list().letters


def test_the_list_is_a_table_with_the_cause_and_the_last_that_happened() -> None:
    # Given dead letters of several kinds, the last with a long story
    found = infos(
        letter(),
        letter(custom_id="order-7", name="pay", cause="unknown task", reason="unknown task", causes=["unknown task"]),
        letter(id=OTHER, attempts=12, causes=["x" * 80]),
        letter(id=OTHER, causes=[], cause="may have run", reason="it had begun"),
    )

    # When they are laid out two hours later, then the columns are aligned, and the text stands last
    assert dead.listed(found, NOON.timestamp() + 7260) == [
        "id                                    task             given up       runs  why",
        f"{ID}  proj.tasks.mail  2 h 1 min ago  4     crashed: signal 11 (SIGSEGV)",
        "order-7                               pay              2 h 1 min ago  4     unknown task",
        f"{OTHER_ID}  proj.tasks.mail  2 h 1 min ago  12    crashed: {'x' * 50}…",
        f"{OTHER_ID}  proj.tasks.mail  2 h 1 min ago  4     may have run: it had begun",
    ]


def test_what_is_shown_has_the_history_and_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two dead letters, in a zone of their own
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    found = infos(
        letter(options={"headers": {"a": 1}}),
        letter(
            custom_id="order-7", body=None, body_bytes=3 << 20, attempts=1, cause="undecodable", reason="undecodable"
        ),
    )

    # When they are shown
    lines = click.unstyle("\n".join(dead.shown(found))).splitlines()

    # Then each is a paragraph
    assert lines == [
        ID,
        "    task      proj.tasks.mail",
        "    queue     celery, priority 3",
        "    given up  2026-08-01 12:00:00+00:00, after 4 runs",
        "    cause     crashed: 4 deliveries died: signal 11 (SIGSEGV)",
        "    history   1. exit code 3",
        "              2. signal 11 (SIGSEGV)",
        "    args      [2, (3,)]",
        "    kwargs    {'x': {4}}",
        "    headers   {'a': 1}",
        "",
        "order-7",
        "    task      proj.tasks.mail",
        "    queue     celery, priority 3",
        "    given up  2026-08-01 12:00:00+00:00, after 1 run",
        "    cause     undecodable",
        "    history   1. exit code 3",
        "              2. signal 11 (SIGSEGV)",
        "    args      not shown (3.0 MiB; too large, or of types not known here)",
        "    kwargs    not shown (3.0 MiB; too large, or of types not known here)",
    ]
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("5 min", timedelta(minutes=5)),
        ("2h", timedelta(hours=2)),
        ("1.5d", timedelta(days=1.5)),
        ("4w", timedelta(weeks=4)),
        ("2026-08-01", "2026-08-01"),
        ("2026-08-01T12:00:00+02:00", "2026-08-01T12:00:00+02:00"),
    ],
)
def test_ages_and_times_are_told_apart(said: str, meant: Any) -> None:
    assert dead.age_or_time(said) == meant


@pytest.mark.parametrize(
    ("said", "words"), [("2y", "s, m, h, d or w"), ("yesterday", "neither an age"), ("", "neither")]
)
def test_what_is_neither_is_refused_with_what_to_write(said: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        dead.age_or_time(said)


# --- the command -----------------------------------------------------------------------------------


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class _Stdin(io.StringIO):
    def __init__(self, said: str | None) -> None:
        super().__init__(said or "")
        self.terminal = said is not None

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs `mesh dead` against a router; `says` is what a person at the terminal types, None is no terminal."""

    def run(router: Router, *argv: str, says: str | None = None) -> Ended:
        @contextlib.contextmanager
        def control(state: Any, timeout_s: float) -> Iterator[Control]:
            yield Control(App(router))

        monkeypatch.setattr(asking, "control", control)
        monkeypatch.setattr("sys.stdin", _Stdin(says))
        monkeypatch.delenv("MESH_APP", raising=False)
        return Ended(root.run(["dead", *argv]), *capfd.readouterr())

    return run


Run = Callable[..., Ended]


def test_list_needs_no_choice_and_says_where_there_is_nothing(run: Run) -> None:
    assert run(Router(), "list") == (exit_codes.OK, "no dead letters\n", "")
    ended = run(Router(letter()), "list")
    assert (ended.code, ended.err) == (exit_codes.OK, "")
    assert ended.out.splitlines()[1].startswith(f"{ID}  proj.tasks.mail")


def test_a_list_that_is_not_all_there_is_says_so(run: Run) -> None:
    ended = run(Router(letter(), count=5000, crowded_out=12), "list")
    assert ended.code == exit_codes.OK
    assert "only the latest 1 of 5000" in ended.err
    assert "12 older ones had to go: see dead_letters_max" in ended.err


def test_the_options_say_which_are_meant(run: Run) -> None:
    router = Router(letter())
    run(
        router,
        "show",
        ID,
        "--task",
        "mail",
        "--cause",
        "SIGSEGV",
        "--since",
        "2026-08-01",
        "--until",
        "2026-08-01T12:00Z",
    )
    midnight = datetime(2026, 8, 1, tzinfo=UTC).timestamp()
    assert router.asked == [
        (
            "dead_show",
            {
                **{"ids": [TASK], "name": "mail", "cause": "SIGSEGV"},
                **{"since_wall_s": midnight, "until_wall_s": NOON.timestamp()},
            },
        )
    ]


@pytest.mark.parametrize("action", ["show", "replay", "purge"])
def test_all_but_list_want_to_be_told_which(run: Run, action: str) -> None:
    router = Router(letter())
    ended = run(router, action, "--yes")
    assert (ended.code, router.asked) == (exit_codes.USAGE, [])
    assert f"Say what to {action}: IDs, --task, --cause, --since, --until, or --all." in ended.err


@pytest.mark.parametrize("choice", [[ID], ["--task", "mail"], ["--since", "2h"]])
def test_all_goes_with_no_other_choice(run: Run, choice: list[str]) -> None:
    router = Router(letter())
    ended = run(router, "purge", "--all", "--yes", *choice)
    assert (ended.code, router.asked) == (exit_codes.USAGE, [])


@pytest.mark.parametrize(
    ("action", "done"), [("replay", "1 task will run again"), ("purge", "1 dead letter thrown away")]
)
def test_what_is_named_by_its_id_needs_no_question(run: Run, action: str, done: str) -> None:
    router = Router(letter())
    assert run(router, action, ID) == (exit_codes.OK, f"{done}\n", "")
    assert router.asked == [(f"dead_{action}", {"ids": [TASK]})]


@pytest.mark.parametrize(
    ("action", "question"), [("replay", "Replay 2 dead letters?"), ("purge", "Purge 2 dead letters?")]
)
@pytest.mark.parametrize("choice", [["--all"], ["--task", "mail"]])
def test_more_than_what_is_named_is_asked_about_first(run: Run, action: str, question: str, choice: list[str]) -> None:
    # Given somebody at a terminal, when the answer is yes
    router = Router(letter(), letter(id=OTHER))
    ended = run(router, action, *choice, says="y\n")

    # Then it is done, and only to what was there when it was asked
    assert ended.code == exit_codes.OK
    assert question in ended.err
    (counted, before), (acted, chosen) = router.asked
    assert (counted, acted) == ("dead_list", f"dead_{action}")
    assert before == chosen
    assert before["until_wall_s"] <= time.time()

    # When it is no, or nothing, then nothing is
    for says in ("n\n", "\n", ""):
        router = Router(letter(), letter(id=OTHER))
        assert run(router, action, *choice, says=says).code != exit_codes.OK
        assert [command for command, _ in router.asked] == ["dead_list"]


def test_where_nobody_can_be_asked_it_takes_a_yes(run: Run) -> None:
    router = Router(letter())
    ended = run(router, "purge", "--all")
    assert (ended.code, [command for command, _ in router.asked]) == (exit_codes.USAGE, ["dead_list"])
    assert "this would purge 1 dead letter; say --yes to do so" in ended.err

    router = Router(letter())
    assert run(router, "purge", "--all", "--yes").code == exit_codes.OK
    assert router.asked == [("dead_purge", {})]


def test_nothing_is_asked_about_nothing(run: Run) -> None:
    ended = run(Router(), "purge", "--all")
    assert (ended.code, ended.out) == (exit_codes.OK, "0 dead letters thrown away\n")


@pytest.mark.parametrize("action", ["list", "show", "replay", "purge"])
def test_an_id_that_is_no_dead_letters_is_named_and_a_failure(run: Run, action: str) -> None:
    ended = run(Router(unknown=["order-7"]), action, "order-7")
    assert ended.code == exit_codes.FAILURE
    assert "no dead letter has the id order-7" in ended.err
    assert "no dead letters" not in ended.out


def test_what_can_not_be_replayed_is_named_and_a_failure(run: Run) -> None:
    ended = run(Router(count=0, left=[TASK]), "replay", ID)
    assert (ended.code, ended.out) == (exit_codes.FAILURE, "0 tasks will run again\n")
    assert f"{ID} can't be replayed" in ended.err


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("replay", {"replayed": 1, "left": [OTHER_ID], "unknown": ["order-7"]}),
        ("purge", {"purged": 1, "unknown": ["order-7"]}),
    ],
)
def test_programs_get_json_and_nothing_else(run: Run, action: str, said: dict[str, Any]) -> None:
    ended = run(Router(letter(), left=[OTHER], unknown=["order-7"]), action, ID, "order-7", "--json")
    assert json.loads(ended.out) == said


def test_programs_get_the_list_whole(run: Run) -> None:
    listed = json.loads(run(Router(letter(), crowded_out=3), "list", "--json").out)
    assert (listed["total"], listed["crowded_out"]) == (1, 3)
    assert listed["letters"][0]["args"] == [2, [3]]
    assert json.loads(run(Router(), "list", "--json").out) == {"total": 0, "crowded_out": 0, "letters": []}
