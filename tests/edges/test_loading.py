"""What `-A` finds, and how the modules of tasks are loaded."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from mesh import exceptions as ex
from mesh.app import Mesh
from mesh.loading import find_app, load_tasks

ROOT = Path(__file__).parents[2]
APP = "from mesh import Mesh\n{name} = Mesh({title!r})\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes files below the current directory: `{path: source}`. Their modules and the search path are undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)

    def write(files):
        for path, source in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(source)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("proj", "other", "tasks_here", "broken"):
            del sys.modules[name]
    sys.path_importer_cache.clear()


def app_called(name, title):
    return APP.format(name=name, title=title)


@pytest.mark.parametrize(
    ("files", "target", "found"),
    [
        pytest.param({"proj.py": app_called("app", "a")}, "proj", "a", id="`app` in a module"),
        pytest.param({"proj/__init__.py": app_called("mesh", "m")}, "proj", "m", id="`mesh` in a package"),
        pytest.param({"proj/__init__.py": app_called("celery", "c")}, "proj", "c", id="`celery`, as ported"),
        pytest.param(
            {"proj.py": app_called("celery", "c") + app_called("mesh", "m") + app_called("app", "a")},
            "proj",
            "a",
            id="`app` goes before `mesh`",
        ),
        pytest.param(
            {"proj.py": app_called("other", "o") + app_called("mesh", "m")}, "proj", "m", id="`mesh` goes before any"
        ),
        pytest.param({"proj.py": app_called("queue", "q")}, "proj", "q", id="any Mesh"),
        pytest.param(
            {"proj/__init__.py": "", "proj/mesh.py": app_called("app", "s")}, "proj", "s", id="the submodule `mesh`"
        ),
        pytest.param(
            {"proj/__init__.py": "", "proj/celery.py": app_called("x", "s")}, "proj", "s", id="the submodule `celery`"
        ),
        pytest.param(
            {"proj/__init__.py": "", "proj/app.py": app_called("x", "s")}, "proj", "s", id="the submodule `app`"
        ),
        pytest.param(
            {"proj/__init__.py": "from proj import celery\n", "proj/celery.py": app_called("app", "s")},
            "proj",
            "s",
            id="a module under one of the names is no app",
        ),
        pytest.param(
            {"proj/__init__.py": "from mesh import Mesh\nother = Mesh('i')\n", "proj/mesh.py": app_called("app", "s")},
            "proj",
            "i",
            id="the package goes before its submodules",
        ),
        pytest.param({"proj/__init__.py": "", "proj/jobs.py": app_called("x", "j")}, "proj.jobs", "j", id="a.b"),
        pytest.param({"proj/__init__.py": "", "proj/jobs.py": app_called("x", "j")}, "proj.jobs:x", "j", id="a.b:x"),
        pytest.param({"proj.py": app_called("x", "j") + app_called("app", "a")}, "proj:x", "j", id="a:x"),
        pytest.param({"proj.py": app_called("x", "j") + app_called("app", "a")}, "proj.x", "j", id="a.x, an attribute"),
        pytest.param(
            {"proj/__init__.py": "from proj import jobs\n", "proj/jobs.py": app_called("x", "j")},
            "proj:jobs",
            "j",
            id="a:b, a module",
        ),
        pytest.param(
            {"proj.py": "from mesh import Mesh\nclass Box:\n    x = Mesh('b')\n"}, "proj:Box.x", "b", id="a:b.c"
        ),
    ],
)
def test_the_app_is_found(project, files, target, found):
    project(files)

    assert find_app(target).main == found


def test_the_current_directory_goes_before_the_search_path(project, tmp_path):
    # Given two projects of one name, the other one first on the path
    project({"proj.py": app_called("app", "here"), "elsewhere/proj.py": app_called("app", "there")})
    sys.path.insert(0, str(tmp_path / "elsewhere"))

    # Then that of the current directory is found
    assert find_app("proj").main == "here"


@pytest.mark.parametrize(
    ("files", "target", "words"),
    [
        pytest.param({}, "proj", "no module 'proj' in", id="no module"),
        pytest.param({}, "proj.tasks:app", "no module 'proj.tasks'", id="no package"),
        pytest.param({"proj.py": ""}, "proj", "no Mesh under proj.app, proj.mesh, proj.celery", id="no app"),
        pytest.param({"proj/__init__.py": ""}, "proj", "nor in its submodules", id="no app in a package"),
        pytest.param({"proj.py": app_called("queue", "q")}, "proj:quue", "did you mean 'queue'", id="misspelt"),
        pytest.param({"proj.py": app_called("queue", "q")}, "proj.zzz", "has no 'zzz'", id="no attribute"),
        pytest.param({"proj.py": "app = 5\n"}, "proj:app", "it is a int and no Mesh", id="something else"),
        pytest.param({"proj.py": "def app(): pass\n"}, "proj:app", "function and no Mesh", id="a function"),
        pytest.param({"proj.py": ""}, "proj.py", "-A proj", id="a file"),
        pytest.param({"proj/jobs.py": ""}, "./proj/jobs.py", "-A proj.jobs", id="a path"),
        pytest.param({}, "", "give a module", id="nothing"),
        pytest.param({"proj.py": ""}, "proj:", "give a module", id="no attribute after the colon"),
        pytest.param({}, "a-b", "give a module", id="no name"),
    ],
)
def test_where_there_is_no_app_the_error_says_what_was_looked_for(project, files, target, words):
    project(files)

    with pytest.raises(ex.AppNotFound) as caught:
        find_app(target)

    assert words in str(caught.value)
    assert caught.value.target == target


@pytest.mark.parametrize(
    ("files", "module", "cause"),
    [
        pytest.param({"proj.py": "1 / 0\n"}, "proj", ZeroDivisionError, id="it raises"),
        pytest.param({"proj.py": "import zzz_missing\n"}, "proj", ModuleNotFoundError, id="it lacks a dependency"),
        pytest.param({"proj.py": "def f(:\n"}, "proj", SyntaxError, id="it is no Python"),
        pytest.param(
            {"proj/__init__.py": "", "proj/mesh.py": "1 / 0\n"}, "proj.mesh", ZeroDivisionError, id="a submodule raises"
        ),
        pytest.param({"proj.py": "import proj.sub\n"}, "proj", ModuleNotFoundError, id="it lacks a part of itself"),
    ],
)
def test_a_module_that_fails_as_it_is_imported_keeps_its_error(project, files, module, cause):
    project(files)

    with pytest.raises(ex.TaskModuleNotFound) as caught:
        find_app("proj")

    assert caught.value.module == module
    assert type(caught.value.__cause__) is cause
    assert "Traceback" in "".join(traceback.format_exception(caught.value.__cause__))


def test_the_modules_of_include_and_imports_are_loaded_once_each(project):
    # Given an app whose tasks are in modules of their own
    counted = "import sys\nsys.loaded_here = getattr(sys, 'loaded_here', 0) + 1\n"
    task = "from proj.app import app\n@app.task\ndef {name}(): pass\n"
    project(
        {
            "proj/__init__.py": "",
            "proj/app.py": "from mesh import Mesh\napp = Mesh('proj', include=['proj.a', 'proj.b'])\n",
            "proj/a.py": counted + task.format(name="one"),
            "proj/b.py": counted + task.format(name="two"),
            "proj/c.py": counted + task.format(name="three"),
        }
    )
    app = find_app("proj")
    app.conf.imports = ("proj.b", "proj.c")

    # When its tasks are loaded
    load_tasks(app)

    # Then they are registered
    assert sorted(app.tasks) == ["proj.a.one", "proj.b.two", "proj.c.three"]
    assert vars(sys).pop("loaded_here") == 3


def test_an_app_that_runs_as_a_script_has_the_tasks_of_modules_that_import_it_again(project, tmp_path):
    # Given a package whose app is started as a script
    project(
        {
            "proj/__init__.py": "",
            "proj/mesh.py": app_called("app", "proj")
            + "app.conf.include = 'proj.tasks'\n"
            + "@app.task\ndef here(): pass\n"
            + "if __name__ == '__main__':\n"
            + "    from mesh.loading import load_tasks\n    load_tasks(app)\n    print(sorted(app.tasks))\n",
            "proj/tasks.py": "from proj.mesh import app\n@app.task\ndef add(): pass\n",
        }
    )

    # When it loads its tasks
    done = subprocess.run(
        [sys.executable, "-m", "proj.mesh"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    # Then it has them all, also under the names by which others call them
    assert done.stdout.strip() == "['proj.here', 'proj.mesh.here', 'proj.tasks.add']", done.stderr


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        pytest.param("broken", "ZeroDivisionError: division by zero", id="it raises"),
        pytest.param("broken_not_there", "No module named 'broken_not_there'", id="it is not there"),
        pytest.param("broken.sub", "'broken' is not a package", id="its package is none"),
    ],
)
def test_a_task_module_that_does_not_import_is_named_with_its_error(project, module, reason):
    project({"broken.py": "1 / 0\n" if module == "broken" else ""})

    with pytest.raises(ex.TaskModuleNotFound) as caught:
        load_tasks(Mesh("proj", include=[module]))

    assert caught.value.module == module
    assert reason in str(caught.value)
    assert isinstance(caught.value.__cause__, ImportError | ZeroDivisionError)
