"""`app.conf`: the settings of an app while they may still change. `setting_layers` says where values come from."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mesh import celery_names, setting_files, setting_objects
from mesh.exceptions import SettingsInUse, SettingsVariableUnset
from mesh.masking import masked
from mesh.setting_keys import KEYS, SPECS, accepted_text, all_accepted, spec_of
from mesh.setting_layers import DEFAULT, Found, Layer, Layers
from mesh.settings import Settings


class Conf:
    """`app.conf`: the settings while they may still change, as attributes and as a mapping.

    1. Checks every value as it is set. 2. Knows where each comes from. 3. Freezes into `Settings`. 4. Tells its app
    when something changed. Files, modules and the environment are read when a value is needed, never at import.
    """

    __slots__ = ("_changed", "_in_use", "_layers")

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        #: What the sources say; replaced as a whole.
        object.__setattr__(self, "_layers", Layers(functools.cache(setting_files.read)))
        object.__setattr__(self, "_changed", changed)
        object.__setattr__(self, "_in_use", False)

    # --- saying ------------------------------------------------------------------------------------

    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Sets several at once: all of them, or none where one is wrong.

        Raises:
            UnknownSetting, SettingNotAvailable, InvalidSetting, UnsupportedURL: a key or value that can't be.
            SettingsInUse: the app's client already works with another value.
        """
        said = all_accepted({**(values or {}), **more})
        self._replace(self._layers._replace(code={**self._layers.code, **said}))

    def override(self, values: Mapping[str, str], source: str = "command line") -> None:
        """Sets several from text, each read as its type, before everything else that is said of them.

        `source` is what `explain` names and what errors point to. Raises as `update`.
        """
        said = dict(accepted_text(name, text, f"of the {source}") for name, text in values.items())
        found = {name: Found(value, source) for name, value in said.items()}
        self._replace(self._layers._replace(command_line={**self._layers.command_line, **found}))

    def config_from_object(
        self, config: Any, silent: bool = False, force: bool = False, namespace: str | None = None, source: str = ""
    ) -> None:
        """Takes settings from a module's name, `module:attribute`, an object or a mapping; instead of an earlier one.

        It is read when a value is first needed, or now with `force`. `silent`: a module that is not there says nothing.
        `namespace`: what the keys begin with, such as 'CELERY' for CELERY_TASK_TIME_LIMIT. Keys of Celery's that mean
        nothing here are named in the log. `source` is what `explain` calls it.

        Raises (now, or when it is read):
            SettingsModuleNotFound: no such module, or it fails as it is imported.
            UnknownSetting, SettingNotAvailable, InvalidSetting, UnsupportedURL: a key or value that can't be.
            SettingsInUse: the app's client already works with another value.
        """
        named = repr(config) if isinstance(config, str) else getattr(config, "__name__", type(config).__name__)
        source = source or f"config_from_object({named})"
        read = functools.cache(
            functools.partial(setting_objects.load, config, source, silent=silent, namespace=namespace)
        )
        if force:
            read()
        self._replace(self._layers._replace(config=read))

    def config_from_envvar(self, variable: str, silent: bool = False, force: bool = False) -> bool:
        """As `config_from_object`, with what an environment variable names. Returns whether it names anything.

        Raises:
            SettingsVariableUnset: it doesn't, and not `silent`.
        """
        target = os.environ.get(variable)
        if target:
            self.config_from_object(target, silent, force, source=f"config_from_envvar({variable!r})")
        elif not silent:
            raise SettingsVariableUnset(variable)
        return bool(target)

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Sets defaults of the app's own, or a function that is asked for them when they are needed.

        Those said later go before those said earlier. Raises as `update`, for a function when it is asked.
        """

        def read() -> Layer:
            return Layer("add_defaults", all_accepted(defaults() if callable(defaults) else defaults))

        kept = functools.cache(read)
        if not callable(defaults):
            kept()
        self._replace(self._layers._replace(defaults=(kept, *self._layers.defaults)))

    @contextlib.contextmanager
    def overridden(self, values: Mapping[str, Any], source: str) -> Iterator[None]:
        """For the time of a block these go before everything else that is said of them. Raises as `update`."""
        before = self._layers.command_line
        found = {name: Found(value, source) for name, value in all_accepted(values).items()}
        self._replace(self._layers._replace(command_line={**before, **found}))
        try:
            yield
        finally:
            after = {name: said for name, said in self._layers.command_line.items() if name not in found}
            kept = {name: before[name] for name in found if name in before}
            self._replace(self._layers._replace(command_line={**after, **kept}))

    def mark_in_use(self, in_use: bool) -> None:
        """Whether a client works with the fixed settings at present. For the app."""
        object.__setattr__(self, "_in_use", in_use)

    def _replace(self, layers: Layers) -> None:
        if self._in_use:
            _refuse_changes(self._layers, layers)
        object.__setattr__(self, "_layers", layers)
        self._changed()

    # --- asking ------------------------------------------------------------------------------------

    def freeze(self) -> Settings:
        """The settings as they stand.

        Raises:
            ImproperlyConfigured: a source that is read now has a key or value that can't be.
        """
        return Settings(**{name: self._layers.find(name).value for name in SPECS})

    def explain(self) -> dict[str, Found]:
        """{setting: its value in force and the source it comes from}, in the order of the table. Raises as `freeze`."""
        return {name: self._layers.find(name) for name in SPECS}

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a setting, or `default` for a key that is no setting."""
        return self[name] if name in KEYS else default

    def keys(self) -> list[str]:
        """The names of all settings."""
        return list(SPECS)

    def items(self) -> list[tuple[str, Any]]:
        """All settings with their values."""
        return list(self.freeze()._asdict().items())

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """{setting: value} of those that somebody has said; secrets and the passwords in URLs are masked."""
        shown = {
            name: found.value for name, found in self.explain().items() if with_defaults or found.source != DEFAULT
        }
        return {name: masked(name, value) for name, value in shown.items()} if censored else shown

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """`table` as text, a line for each: `name: value`."""
        return "\n".join(f"{name}: {value!r}" for name, value in self.table(with_defaults, censored).items())

    def __getitem__(self, name: str) -> Any:
        alias = celery_names.SETTING_ALIASES.get(name)
        if alias is not None:
            return alias.theirs(self[alias.name])
        return self._layers.find(spec_of(name).name).value

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __contains__(self, name: object) -> bool:
        return name in SPECS

    def __iter__(self) -> Iterator[str]:
        return iter(SPECS)

    def __len__(self) -> int:
        return len(SPECS)

    def __repr__(self) -> str:
        """What the code has said. It reads nothing."""
        said = ", ".join(f"{name}={masked(name, value)!r}" for name, value in self._layers.code.items())
        return f"<Conf: {said or 'defaults'}>"


def _refuse_changes(old: Layers, new: Layers) -> None:
    """Raises SettingsInUse where a setting that is fixed while a client works with it would become another."""
    for name, spec in SPECS.items():
        if spec.fixed and new.find(name).value != old.find(name).value:
            raise SettingsInUse(name)
