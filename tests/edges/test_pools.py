"""Pools by their names: mesh's own, Celery's other names for them, those of other packages, and none."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import pools
from mesh.exceptions import ImproperlyConfigured, PoolNotAvailable


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("prefork", "prefork"),
        ("processes", "prefork"),
        ("threads", "threads"),
        ("thread", "threads"),
        ("solo", "solo"),
    ],
)
def test_a_pool_is_found_by_its_name_and_by_celerys_other_name(name: str, found: str) -> None:
    assert pools.find(name).name == found


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("prefrok", "did you mean 'prefork'?"),
        ("thread-pool", "did you mean 'threads'?"),
        ("qqq", "there are prefork, threads, solo, asyncio, gevent, eventlet"),
        ("", "there are prefork"),
    ],
)
def test_a_name_that_no_pool_has_is_refused_with_what_may_be_meant(name: str, hint: str) -> None:
    with pytest.raises(PoolNotAvailable) as caught:
        pools.find(name)
    assert isinstance(caught.value, ImproperlyConfigured)
    assert caught.value.name == name
    assert hint in str(caught.value)


Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Has a package there that offers a pool."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(module: str, text: str, entry: str) -> None:
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{pools.ENTRY_POINTS}]\n{entry}\n")
        importlib.invalidate_caches()

    return make


def test_another_package_can_offer_a_pool(install: Install) -> None:
    install("fibres", "class Fibres:\n    name = 'fibres'\n", "fibres = fibres:Fibres")
    assert pools.find("fibres").name == "fibres"
    assert pools.names()[-1] == "fibres"
    with pytest.raises(PoolNotAvailable, match="did you mean 'fibres'"):
        pools.find("fibre")


def test_another_package_can_not_take_the_name_of_a_pool_of_mesh(install: Install) -> None:
    install("imposter", "class Imposter:\n    name = 'imposter'\n", "prefork = imposter:Imposter")
    assert pools.find("prefork").name == "prefork"
    assert pools.names().count("prefork") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('half of it is missing')", "RuntimeError: half of it is missing"),
        ("x = 1", "AttributeError"),
        ("def Broken():\n    raise OSError('no such device')", "OSError: no such device"),
    ],
    ids=["does not import", "is not there", "can't be made"],
)
def test_a_pool_of_another_package_that_fails_is_refused_with_the_reason(
    install: Install, text: str, reason: str
) -> None:
    module = f"broken_{len(text)}"
    install(module, text, f"{module} = {module}:Broken")
    with pytest.raises(PoolNotAvailable, match="the entry point") as caught:
        pools.find(module)
    assert reason in str(caught.value)
    assert caught.value.__cause__ is not None
