"""What the words of a command line are, as far as that shows without reading it in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: {option of the group: it takes a value}.
GLOBAL_OPTIONS: Final = {
    "-A": True,
    "--app": True,
    "-b": True,
    "--broker": True,
    "--config": True,
    "--workdir": True,
    "-C": False,
    "--no-color": False,
    "-q": False,
    "--quiet": False,
}

#: {command of a service: modules that it is made of}
SERVICES: Final = {
    "router": ("mesh_cli.router_service", "mesh.router"),
    "worker": ("mesh_cli.node_service", "mesh.node_start", "mesh.slot_maker", "mesh.logged_slots"),
}


def command_in(argv: Sequence[str]) -> str | None:
    """The command that is called; None where none is, or what stands before it can't be told apart."""
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            return word
        if GLOBAL_OPTIONS.get(word):
            next(words, None)
        elif word not in GLOBAL_OPTIONS and not _holds_its_value(word):
            return None
    return None


def _holds_its_value(word: str) -> bool:
    """`-Aproj` or `--app=proj`."""
    name = word.partition("=")[0] if word.startswith("--") else word[:2]
    return GLOBAL_OPTIONS.get(name, False) and name != word


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the command line may be there for the help alone."""
    return not {"-h", "--help"}.isdisjoint(argv)
