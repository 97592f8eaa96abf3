"""The command `mesh`. Installed as `mesh_cli`; one module for the options of each command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from . import exit_codes

if TYPE_CHECKING:
    from mesh.app import Mesh


def main(argv: Sequence[str] | None = None, app: Mesh | None = None) -> NoReturn:
    """Runs one command line, without the program's name, and exits. `app` stands in for -A."""
    try:
        sys.exit(_run(sys.argv[1:] if argv is None else argv, app))
    except KeyboardInterrupt:  # Ctrl-C finds most commands here, as imports are most of what they do
        sys.exit(exit_codes.INTERRUPTED)


def _run(argv: Sequence[str], app: Mesh | None) -> int:
    from . import streams, words

    streams.complete()
    command = words.command_in(argv)
    if app is None and command in words.SERVICES and not words.wants_help(argv):
        from . import apart

        return apart.run(argv, words.SERVICES[command])
    from . import root

    return root.run(argv, app)
