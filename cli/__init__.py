"""The command `mesh`. Installed as `mesh_cli`; one module a command."""

from .root import main

__all__ = ["main"]
