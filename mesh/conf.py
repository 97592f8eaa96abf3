"""`app.conf`: the settings of an app while they may still change.

Where a value comes from, strongest first: the environment variable named in the table (as with Celery, so that the same
code runs on another mesh; `mesh -b URL` sets it), what the code says, the default. The environment is read when a value
is needed, never at import.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mesh import celery_names
from mesh.exceptions import InvalidSetting, SettingNotAvailable, SettingsInUse, UnknownSetting
from mesh.settings import SETTINGS, Settings, SettingSpec, check

_SPECS: Final = {spec.name: spec for spec in SETTINGS}


class Conf:
    """`app.conf`: the settings while they may still change, as attributes and as a mapping.

    1. Checks every value as it is set. 2. Freezes into `Settings`. 3. Tells its app when something changed.
    """

    __slots__ = ("_changed", "_in_use", "_values")

    def __init__(self, changed: Callable[[], None]) -> None:
        #: {name: checked value}. Only what the code has said.
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "_changed", changed)
        object.__setattr__(self, "_in_use", False)

    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Sets several at once: all of them, or none where one is wrong.

        Raises:
            UnknownSetting, SettingNotAvailable, InvalidSetting, UnsupportedURL: a key or value that can't be.
            SettingsInUse: the app's client already works with another value.
        """
        said = dict(_ours(name, value) for name, value in {**(values or {}), **more}.items())
        checked = {name: self._checked(name, value) for name, value in said.items()}
        self._values.update(checked)
        self._changed()

    def freeze(self) -> Settings:
        """The settings as they stand.

        Raises:
            InvalidSetting, UnsupportedURL: an environment variable has a value that can't be.
        """
        return Settings(**{**self._values, **_from_environment()})

    def mark_in_use(self, in_use: bool) -> None:
        """Whether a client works with the fixed settings at present. For the app."""
        object.__setattr__(self, "_in_use", in_use)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a setting, or `default` for a key that is no setting."""
        return self[name] if name in _SPECS or name in celery_names.SETTING_ALIASES else default

    def keys(self) -> list[str]:
        """The names of all settings."""
        return list(_SPECS)

    def items(self) -> list[tuple[str, Any]]:
        """All settings with their values."""
        return list(self.freeze()._asdict().items())

    def _checked(self, name: str, value: Any) -> Any:
        spec = _spec(name)
        checked = check(spec, value)
        if spec.fixed and self._in_use and checked != getattr(self.freeze(), name):
            raise SettingsInUse(name)
        return checked

    def __getitem__(self, name: str) -> Any:
        alias = celery_names.SETTING_ALIASES.get(name)
        if alias is not None:
            return alias.theirs(self[alias.name])
        return getattr(self.freeze(), _spec(name).name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __contains__(self, name: object) -> bool:
        return name in _SPECS

    def __iter__(self) -> Iterator[str]:
        return iter(_SPECS)

    def __len__(self) -> int:
        return len(_SPECS)

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"<Conf: {said or 'defaults'}>"


def _from_environment() -> dict[str, Any]:
    found = ((spec, os.environ.get(spec.variable)) for spec in SETTINGS if spec.variable)
    return {spec.name: check(spec, value) for spec, value in found if value}


def _ours(name: str, value: Any) -> tuple[str, Any]:
    """A setting and its value, from what it is called in Celery where that differs."""
    alias = celery_names.SETTING_ALIASES.get(name)
    if alias is None:
        return name, value
    try:
        return alias.name, alias.ours(value)
    except ValueError:
        raise InvalidSetting(name, value, alias.allowed) from None


def _spec(name: str) -> SettingSpec:
    spec = _SPECS.get(name)
    if spec is not None:
        return spec
    reason = celery_names.SETTINGS.get(name)
    if reason is not None:
        raise SettingNotAvailable(name, reason)
    raise UnknownSetting(name, celery_names.suggest(name, _SPECS))
