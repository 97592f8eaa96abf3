"""Settings in files of the current directory, `mesh.toml` and `[tool.mesh]` of `pyproject.toml`; or in the one that is
named."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from mesh.exceptions import SettingsFileUnusable
from mesh.setting_keys import all_accepted, or_none
from mesh.setting_layers import Layer

#: Names the one file to read; `mesh --config FILE` sets it.
VARIABLE: Final = "MESH_CONFIG"
_OWN: Final = "mesh.toml"
_SHARED: Final = "pyproject.toml"
#: What a pyproject.toml with a table for mesh has in it. Those without, which most projects have, need no parser.
_HAS_OURS: Final = re.compile(rb"""^\s*\[?\s*["']?tool["']?\s*(\]|\.\s*["']?mesh\b)""", re.MULTILINE)


def read() -> list[Layer]:
    """What the files say, strongest first. A file that nobody has named may be missing.

    Raises:
        SettingsFileUnusable: a file that is no TOML, or was named and is not there.
        UnknownSetting, SettingNotAvailable, InvalidSetting, UnsupportedURL: a key or value that can't be.
    """
    named = os.environ.get(VARIABLE)
    paths = [named] if named else [path for path in (_OWN, _SHARED) if os.path.isfile(path)]
    return [_layer(path) for path in paths]


def _layer(path: str) -> Layer:
    full = os.path.abspath(path)
    shared = os.path.basename(path) == _SHARED
    values = _table(full, shared)
    where = f"in [tool.mesh] of {full}" if shared else f"in {full}"
    said = {name: or_none(name, value) for name, value in values.items()}
    return Layer(f"[tool.mesh] of {path}" if shared else path, all_accepted(said, where))


def _table(path: str, shared: bool) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise SettingsFileUnusable(path, error.strerror or str(error)) from None
    if not shared:
        return _parsed(path, data)
    whole = _parsed(path, data) if _HAS_OURS.search(data) else {}
    tool = whole.get("tool", {})
    table = tool.get("mesh", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise SettingsFileUnusable(path, "tool.mesh is no table: write [tool.mesh] and below it NAME = VALUE")
    return table


def _parsed(path: str, data: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except ValueError as error:  # of the decoder or of the parser
        raise SettingsFileUnusable(path, f"it is no TOML: {error}") from None
