"""The form of what commands print: Celery's layout for people, pure JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import click


def as_json(value: Any) -> str:
    """One line of JSON, whatever the value: what JSON has no form for becomes text."""
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    iso = getattr(value, "isoformat", None)
    return iso() if callable(iso) else str(value)


def node_line(node: str, state: str, good: bool) -> str:
    """`->  node: OK`."""
    arrow = click.style("->", bold=True)
    return f"{arrow}  {node}: {click.style(state, fg='green' if good else 'red', bold=True)}"


def body(value: Any) -> str:
    """A node's answer, indented below its line; nothing for a bare OK."""
    return "\n".join(f"    {line}" for line in _body_lines(value))


def _body_lines(value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"* {item}" for item in value] or ["- empty -"]
    if isinstance(value, Mapping):
        return str(value["ok"]).splitlines() if "ok" in value else json.dumps(_plain(value), indent=4).splitlines()
    return str(value).splitlines()


def online(count: int) -> str:
    """`2 nodes online.`"""
    return f"\n{count} {'node' if count == 1 else 'nodes'} online."


def span(seconds: float) -> str:
    """A time in its two largest units: `2 h 3 min`."""
    whole = int(seconds)
    units = [("d", whole // 86400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60)]
    while len(units) > 1 and not units[0][1]:
        del units[0]
    return " ".join(f"{number} {unit}" for unit, number in units[:2])


def size(n_bytes: int) -> str:
    """A number of bytes in its largest unit: `1.5 MiB`."""
    amount, units = float(n_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def table(rows: list[list[str]]) -> list[str]:
    """Columns aligned by their widest cell; all but the first to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def columns(rows: list[list[str]]) -> list[str]:
    """Columns of text aligned by their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
