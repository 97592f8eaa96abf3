"""Whether an app that was imported may be forked, and which module is to blame where it may not."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from mesh import preloading

#: An event that ends every thread that these modules start.
PRELUDE = """
import threading
from concurrent.futures import ThreadPoolExecutor
from tests.edges.test_preloading import ENDS
"""
ENDS = threading.Event()


@pytest.fixture(autouse=True)
def _end_threads() -> Iterator[None]:
    ENDS.clear()
    before = set(threading.enumerate())
    yield
    ENDS.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., preloading.Watch]]:
    """Imports modules, the last of them, under watch."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def load(**modules: str) -> preloading.Watch:
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(PRELUDE + text)
            names.append(name)
        importlib.invalidate_caches()
        with preloading.watched() as watch:
            importlib.import_module(names[-1])
        return watch

    yield load
    for name in names:
        sys.modules.pop(name, None)


def test_a_module_without_threads_is_no_obstacle(imported: Callable[..., preloading.Watch]) -> None:
    assert imported(quiet="x = 1").obstacle() == ""


def test_threads_that_have_ended_are_no_obstacle(imported: Callable[..., preloading.Watch]) -> None:
    text = "thread = threading.Thread(target=int); thread.start(); thread.join()"
    assert imported(brief=text).obstacle() == ""


@pytest.mark.parametrize(
    ("desc", "modules", "blamed", "thread"),
    [
        (
            "the module itself",
            {"starts": "threading.Thread(target=ENDS.wait, name='pinger').start()"},
            "starts",
            "pinger",
        ),
        (
            "a module that it imports",
            {"deep": "threading.Thread(target=ENDS.wait, name='pinger').start()", "outer": "import deep"},
            "deep",
            "pinger",
        ),
        (
            "a class that it makes an object of",
            {
                "library": "class Client:\n    def __init__(self):\n"
                "        threading.Thread(target=ENDS.wait, name='io').start()",
                "uses": "import library\nclient = library.Client()",
            },
            "uses",
            "io",
        ),
        (
            "a pool of threads",
            {"pools": "pool = ThreadPoolExecutor(1, 'work')\npool.submit(ENDS.wait)"},
            "pools",
            "work_0",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_the_module_that_starts_a_thread_is_named(
    imported: Callable[..., preloading.Watch], desc: str, modules: dict[str, str], blamed: str, thread: str
) -> None:
    assert imported(**modules).obstacle() == f"module {blamed!r} starts a thread ({thread}) when it is imported"


def test_a_thread_that_nobody_saw_start_is_an_obstacle_all_the_same(
    imported: Callable[..., preloading.Watch],
) -> None:
    thread = threading.Thread(target=ENDS.wait, name="from before")
    thread.start()
    assert imported(quiet="x = 1").obstacle() == "module 'unknown' starts a thread (from before) when it is imported"


def test_after_the_watch_threads_start_as_ever() -> None:
    before = threading.Thread.start
    with preloading.watched():
        assert threading.Thread.start is not before
    with pytest.raises(ZeroDivisionError), preloading.watched():
        raise ZeroDivisionError
    assert threading.Thread.start is before


def fake_torch(initialized: bool) -> ModuleType:
    torch = ModuleType("torch")
    vars(torch)["cuda"] = SimpleNamespace(is_initialized=lambda: initialized)
    return torch


@pytest.mark.parametrize(
    ("torch", "obstacle"),
    [
        (fake_torch(True), "module 'torch' starts CUDA when it is imported"),
        (fake_torch(False), ""),
        (ModuleType("torch"), ""),
    ],
    ids=["with CUDA", "without CUDA", "half imported"],
)
def test_a_library_that_has_started_cuda_is_named(
    monkeypatch: pytest.MonkeyPatch, torch: ModuleType, obstacle: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)
    with preloading.watched() as watch:
        pass
    assert watch.obstacle() == obstacle


def test_an_open_device_of_cuda_is_an_obstacle_whoever_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "nvidia0"
    monkeypatch.setattr(preloading, "_CUDA_DEVICES", str(tmp_path / "nvidia"))
    with preloading.watched() as watch:
        pass
    with device.open("w"):
        assert watch.obstacle() == "module 'unknown' starts CUDA when it is imported"
        monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
        assert watch.obstacle() == "module 'cupy' starts CUDA when it is imported"
    assert watch.obstacle() == ""
