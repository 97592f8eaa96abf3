"""The command `mesh`. Installed as `mesh_cli`; one module a command."""

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
        from .root import main as run
    except KeyboardInterrupt:  # Ctrl-C finds most commands here, as imports are most of what they do
        sys.exit(exit_codes.INTERRUPTED)
    run(argv, app)
