"""Where settings come from, strongest first. The order is here and nowhere else.

1. The command line. 2. The environment, `MESH_` and the name. 3. What the code says at run time. 4. The module or
object of `config_from_object`. 5. `mesh.toml`. 6. `[tool.mesh]` of pyproject.toml. 7. `add_defaults`. 8. The defaults.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from mesh.setting_keys import SPECS, accepted_text

DEFAULT: Final = "default"
CODE: Final = "code"


class Found(NamedTuple):
    """A value in force and who said so."""

    value: Any
    source: str


class Layer(NamedTuple):
    """What one source says: checked values by name."""

    source: str
    values: Mapping[str, Any]


#: Reads a source at the first call, and keeps what it has read.
Reader = Callable[[], Layer]


class Layers(NamedTuple):
    """What each source says. It never changes: `_replace` makes another."""

    files: Callable[[], list[Layer]]  #: strongest first; read at the first call
    command_line: Mapping[str, Found] = {}
    code: Mapping[str, Any] = {}
    config: Reader | None = None
    defaults: tuple[Reader, ...] = ()  #: of `add_defaults`, the last one said first

    def find(self, name: str) -> Found:
        """The value of a setting.

        Raises:
            ImproperlyConfigured: a source that has to be read for it has something that can't be.
        """
        said = self.command_line.get(name)
        if said is not None:
            return said
        variable = SPECS[name].variable
        text = os.environ.get(variable)
        if text:
            source = f"environment {variable}"
            return Found(accepted_text(name, text, f"of the {source}")[1], source)
        for source, values in self._below_the_environment():
            if name in values:
                return Found(values[name], source)
        return Found(SPECS[name].default, DEFAULT)

    def _below_the_environment(self) -> Iterator[Layer]:
        yield Layer(CODE, self.code)
        if self.config is not None:
            yield self.config()
        yield from self.files()
        for read in self.defaults:
            yield read()
