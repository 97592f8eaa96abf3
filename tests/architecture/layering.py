"""The layers of `mesh`, and who says where they are broken. It reads sources and imports nothing of what it judges."""

import ast
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

#: Top to bottom. A module imports from the rows above its own, and within its row as long as no circle arises.
#: Names are relative to `mesh`; `core.*` also stands for the package `core` itself.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("exceptions", "clock", "states", "version"),
    ("ids",),
    ("masking",),
    (
        "celery_names",
        "settings",
        "setting_keys",
        "setting_layers",
        "setting_files",
        "setting_objects",
        "conf",
        "messages",
    ),
    (
        "arity",
        "bodies",
        "body_types",
        "calling",
        "codec",
        "interfaces",
        "numpy_frames",
        "refusals",
        "registry",
        "remote_errors",
        "request",
        "waiting",
    ),
    ("core.*",),
    (
        "journal",
        "journal_file",
        "journal_salvage",
        "journal_store",
        "security",
        "systemd",
        "logs",
        "log_writer",
        "task_logger",
        "task_output",
        "expansion",
        "launch",
        "pidfile",
        "privileges",
        "oom",
        "locate",
        "discovery.*",
        "pools.*",
        "preloading",
        "same_file",
        "stacks",
    ),
    ("transport",),
    (
        "execution",
        "failure_log",
        "direct_paths",
        "logged_slots",
        "coroutines",
        "interruption",
        "reactor",
        "slot_page",
        "template",
    ),
    ("inheritance", "workforce", "enforcement"),
    ("router", "node", "node_start", "slot", "slot_maker", "client"),
    ("beat", "events"),
    ("canvas", "results", "control", "dead_letters"),
    ("eager", "eager_run"),
    ("task",),
    ("app",),
    ("sim.*",),
    ("testing.*", "loading", "__init__", "__main__"),
)

MAY_IMPORT_ZMQ = {"transport", "security"}
MAY_IMPORT_THE_COMMAND_LINE = {"__main__"}
IMPURE = {"asyncio", "multiprocessing", "os", "random", "socket", "threading", "time", "zmq"}

#: {module, relative to `mesh`: its source}
Sources = Mapping[str, str]


class Import(NamedTuple):
    line: int
    target: str  #: dotted and absolute; `mesh` is the package root itself


def read_sources(package: Path) -> dict[str, str]:
    """Every module of the package in `package`, by its name relative to it; a subpackage goes by its own name."""
    sources = {}
    for path in sorted(package.rglob("*.py")):
        *folders, stem = path.relative_to(package).with_suffix("").parts
        name = ".".join(folders if folders and stem == "__init__" else [*folders, stem])
        sources[name] = path.read_text(encoding="utf-8")
    return sources


def violations(sources: Sources) -> list[str]:
    """All breaches, one sentence each, in the order of the modules."""
    found = dict.fromkeys(breach for name in sources for breach in _breaches(name, sources))
    return [*found] + [f"import circle: {' -> '.join(circle)}" for circle in circles(sources)]


def circles(sources: Sources) -> list[list[str]]:
    """The import circles, each from and back to its first module; one for each module that closes one."""
    graph = {name: sorted({target for _, target in _inside(name, sources)}) for name in sources}
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
        elif name not in done:
            for target in graph[name]:
                visit(target, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


def _breaches(name: str, sources: Sources) -> Iterator[str]:
    own_layer = _layer(name)
    if own_layer is None:
        yield f"mesh/{name.replace('.', '/')} is in no layer: add it to LAYERS in tests/architecture/layering.py"
        return
    in_core = name == "core" or name.startswith("core.")
    for line, target in _imports(name, sources):
        where, top = f"mesh.{name}:{line}", target.partition(".")[0]
        if target == "mesh":
            yield f"{where} imports the package root; import the module that defines the name"
        if top in {"cli", "mesh_cli"} and name not in MAY_IMPORT_THE_COMMAND_LINE:
            yield f"{where} imports {top}: the command line may know mesh, but not mesh the command line"
        if top == "zmq" and name not in MAY_IMPORT_ZMQ:
            yield f"{where} imports zmq; only {' and '.join(sorted(MAY_IMPORT_ZMQ))} may"
        if in_core and top in IMPURE:
            yield f"{where} imports {top}; what decides is pure and gets clocks, chance and ids as arguments"
    for line, inside in _inside(name, sources):
        layer = _layer(inside)
        if layer is not None and layer > own_layer:
            yield f"mesh.{name}:{line} imports mesh.{inside}, which is in a layer below it"


def _layer(name: str) -> int | None:
    for number, row in enumerate(LAYERS):
        if any(fnmatchcase(name, entry) or entry == f"{name}.*" for entry in row):
            return number
    return None


def _inside(name: str, sources: Sources) -> Iterator[tuple[int, str]]:
    """(line, module relative to `mesh`) for each import of a module of the package."""
    for line, target in _imports(name, sources):
        top, _, rest = target.partition(".")
        while top == "mesh" and rest:
            if rest in sources:
                yield line, rest
                break
            rest = rest.rpartition(".")[0]


def _imports(name: str, sources: Sources) -> Iterator[Import]:
    """Every import of a module, wherever it stands: inside a function or for types only it joins two layers too."""
    for node in ast.walk(ast.parse(sources[name])):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
                if alias.name.startswith("mesh.") and alias.asname is None:
                    yield Import(node.lineno, "mesh")
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, name, sources)
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                is_module = origin.startswith("mesh") and submodule.removeprefix("mesh.") in sources
                if is_module:
                    yield Import(node.lineno, submodule)
                if not is_module:
                    yield Import(node.lineno, origin)


def _origin(node: ast.ImportFrom, name: str, sources: Sources) -> str:
    """The absolute name of what `from … import` reads from."""
    if not node.level:
        return node.module or ""
    is_package = name == "__init__" or any(other.startswith(f"{name}.") for other in sources)
    parts = ["mesh"] if name == "__init__" else ["mesh", *name.split(".")]
    climb = node.level - 1 if is_package else node.level
    base = parts[: len(parts) - climb]
    return ".".join([*base, node.module] if node.module else base)
