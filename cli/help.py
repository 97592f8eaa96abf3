"""The form of the help: every command's ends in worked examples."""

from __future__ import annotations

from typing import Final

#: For every command.
CONTEXT: Final = {"help_option_names": ["-h", "--help"]}


def examples(*lines: tuple[str, str]) -> str:
    """An epilog of commands, each with what it does."""
    wide = max(len(command) for command, _ in lines)
    rows = [f"  {command:<{wide}}  {what}".rstrip() for command, what in lines]
    return "\n".join(["\b", "Examples:", *rows])
