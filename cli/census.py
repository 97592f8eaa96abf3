"""A census of Python code, as tasks for `mesh demo`: `measure` counts one file, `total` reduces the rows of all."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator
from typing import Final, NamedTuple

from mesh.app import Mesh
from mesh.body_types import register_type

app: Final = Mesh("census", set_as_current=False)

TOP: Final = 10
NOT_PARSED: Final = "does not parse"
UNREADABLE: Final = "cannot be read"
#: Where a node of the syntax tree keeps the statements inside it, and the clauses that do.
_FIELDS: Final = ("body", "orelse", "finalbody", "handlers", "cases")
#: Parts of the statement that they belong to, and no level of their own.
_CLAUSES: Final = (ast.ExceptHandler, ast.match_case)


@register_type
class Row(NamedTuple):
    """What is counted of one file."""

    file: str  #: relative to the root of the census
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: int = 0  #: import statements
    nesting: int = 0  #: of blocks: 0 where no statement stands inside another
    fault: str = ""  #: NOT_PARSED (only its lines count), UNREADABLE (nothing does)


@register_type
class Totals(NamedTuple):
    """What the rows come to."""

    files: int
    lines: int
    functions: int
    classes: int
    imports: int
    nesting: int  #: the deepest
    deepest: str  #: the file that has it
    not_parsed: int
    unreadable: int
    top: list[Row]  #: the longest files, longest first


@app.task
def measure(root: str, file: str) -> Row:
    """Counts one file. One that can't be read or parsed is a row that says so, and no error."""
    try:
        with open(os.path.join(root, file), "rb") as opened:
            source = opened.read()
    except OSError:
        return Row(file, fault=UNREADABLE)
    lines = len(source.splitlines())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # all that the parser raises at bad or vast input
        return Row(file, lines, fault=NOT_PARSED)
    return _count(Row(file, lines), tree)


@app.task
def total(rows: list[Row]) -> Totals:
    """Reduces the rows of a census to its totals and its longest files."""
    deepest = max(rows, key=lambda row: (row.nesting, row.lines), default=Row(""))
    return Totals(
        files=len(rows),
        lines=sum(row.lines for row in rows),
        functions=sum(row.functions for row in rows),
        classes=sum(row.classes for row in rows),
        imports=sum(row.imports for row in rows),
        nesting=deepest.nesting,
        deepest=deepest.file,
        not_parsed=sum(row.fault == NOT_PARSED for row in rows),
        unreadable=sum(row.fault == UNREADABLE for row in rows),
        top=sorted(rows, key=lambda row: (-row.lines, row.file))[:TOP],
    )


@app.task
def echo(value: int) -> int:
    """Returns what it gets: what is left is the way there and back."""
    return value


def _count(row: Row, tree: ast.Module) -> Row:
    functions = classes = imports = nesting = 0
    open_nodes: list[tuple[ast.AST, int]] = [(tree, 0)]
    while open_nodes:
        node, depth = open_nodes.pop()
        functions += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        classes += isinstance(node, ast.ClassDef)
        imports += isinstance(node, ast.Import | ast.ImportFrom)
        for inner in _inside(node):
            level = depth + _is_level(node, inner)
            nesting = max(nesting, level)
            open_nodes.append((inner, level))
    return row._replace(functions=functions, classes=classes, imports=imports, nesting=nesting)


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """The statements and clauses directly inside a statement."""
    for field in _FIELDS:
        yield from getattr(node, field, ())


def _is_level(outer: ast.AST, inner: ast.AST) -> bool:
    """Whether the step from `outer` to `inner` goes one block deeper.

    An `elif` is an `if` that stands where its own `if` does.
    """
    if isinstance(outer, ast.Module) or isinstance(inner, _CLAUSES):
        return False
    chained = isinstance(outer, ast.If) and isinstance(inner, ast.If)
    return not (chained and inner.col_offset == outer.col_offset)  # type: ignore[attr-defined]
