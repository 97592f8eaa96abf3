"""Settings in a module, an object or a mapping: `config_from_object`, as Celery projects keep them.

Such a module serves Celery too, perhaps still. So a key of Celery's that means nothing here is named with its reason
and passed over, where the code itself would be refused; and so is the URL of somebody's broker.
"""

from __future__ import annotations

import importlib
import logging
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from mesh import celery_names
from mesh.exceptions import SettingsModuleNotFound, UnknownSetting, UnsupportedURL
from mesh.setting_keys import KEYS, accepted, reason_without, spec_of
from mesh.setting_layers import Layer

_CODE: Final = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)

logger = logging.getLogger(__name__)

#: What settings begin with: a name of a module that does too was meant as one.
_FAMILIES: Final = tuple({f"{key.partition('_')[0]}_" for key in (*KEYS, *celery_names.SETTINGS) if "_" in key})
#: How like a setting a key must be, from 0 to 1, to be a slip of the pen and no name of the user's own.
_LIKENESS: Final = 0.8


def load(config: Any, source: str, *, silent: bool = False, namespace: str | None = None) -> Layer:
    """What a configuration says. `config` is a module's name, `module:attribute`, an object or a mapping.

    `namespace` is what its keys begin with: 'CELERY' reads CELERY_TASK_TIME_LIMIT. `silent`: a module that is not there
    says nothing.

    Raises:
        SettingsModuleNotFound: nothing of that name, or it fails as it is imported.
        UnknownSetting, SettingNotAvailable, InvalidSetting, UnsupportedURL: a key or value that can't be.
    """
    found = _imported(config, silent) if isinstance(config, str) else config
    reading = _Reading(source, f"of {source}", isinstance(found, Mapping), bool(namespace))
    values: dict[str, Any] = {}
    for key in _keys(found, namespace):
        values.update(_understood(reading, key))
    return Layer(source, values)


class _Key(NamedTuple):
    written: str
    name: str  #: without the namespace, in lower case
    value: Any


class _Reading(NamedTuple):
    source: str
    where: str
    is_mapping: bool  #: which holds settings and nothing else
    has_namespace: bool


# --- what it holds -------------------------------------------------------------------------------


def _keys(found: Any, namespace: str | None) -> Iterator[_Key]:
    """What may be a setting."""
    prefix = f"{namespace.rstrip('_')}_" if namespace else ""
    for written in list(found) if isinstance(found, Mapping) else dir(found):
        name = str(written)
        if name.startswith("_") or not name.startswith(prefix):
            continue
        value = found[written] if isinstance(found, Mapping) else getattr(found, name)
        yield _Key(name, name[len(prefix) :].lower() if prefix else name, value)


def _understood(reading: _Reading, key: _Key) -> dict[str, Any]:
    """The setting that is meant, or nothing."""
    if key.name in KEYS:
        return _known(reading, key)
    if celery_names.newer_name(key.name, KEYS) is None:
        reason = reason_without(key.name)
        if reason is not None:
            _pass_over(reading, key, reason)
            return {}
    _check_spelling(reading, key)
    return {}


def _known(reading: _Reading, key: _Key) -> dict[str, Any]:
    try:
        return dict([accepted(key.name, key.value, reading.where)])
    except UnsupportedURL as error:
        if key.name == "broker_url" and "://" not in error.url:
            raise
        _pass_over(reading, key, f"mesh can't use {error.url!r}, and needs no broker and no backend")
        return {}


def _check_spelling(reading: _Reading, key: _Key) -> None:
    """Raises for a key that was meant as a setting; passes over what was probably not."""
    if reading.is_mapping or celery_names.newer_name(key.name, KEYS) is not None:
        spec_of(key.name, reading.where)
    if not (reading.has_namespace or key.name.startswith(_FAMILIES)) or _is_code(key.value):
        return
    near = celery_names.suggest(key.name, KEYS, _LIKENESS)
    if near is not None:
        raise UnknownSetting(key.written, near, reading.where)
    _pass_over(reading, key, "neither mesh nor Celery has it")


def _is_code(value: Any) -> bool:
    """What a module holds besides settings."""
    return isinstance(value, _CODE)


def _pass_over(reading: _Reading, key: _Key, reason: str) -> None:
    logger.warning(
        "setting %s of %s is passed over: %s",
        key.written,
        reading.source,
        reason,
        extra={"action": "setting_passed_over", "setting": key.written},
    )


# --- where it is ---------------------------------------------------------------------------------


def _imported(target: str, silent: bool) -> Any:
    """What `module`, `module:attribute` or `module.attribute` means; nothing where it is not there and may be."""
    if target.endswith(".py"):
        raise SettingsModuleNotFound(target, f"give a module and not a file: {target.removesuffix('.py')!r}")
    module_name, _, attribute = target.partition(":")
    try:
        found = _module(target, module_name)
        if found is None and not attribute and "." in module_name:
            module_name, _, attribute = module_name.rpartition(".")
            found = _module(target, module_name)
        if found is None:
            raise SettingsModuleNotFound(target, f"there is no module {module_name!r} on the Python path")
        return _attribute(target, found, attribute)
    except SettingsModuleNotFound as error:
        if silent and error.__cause__ is None:
            return {}
        raise


def _module(target: str, name: str) -> Any:
    """The module, or None where it, or a package it would be in, does not exist."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise SettingsModuleNotFound(target, f"its module does not import: {error}") from error
    except (Exception, SystemExit) as error:
        reason = f"its module does not import: {type(error).__name__}: {error}"
        raise SettingsModuleNotFound(target, reason) from error


def _attribute(target: str, module: Any, path: str) -> Any:
    found = module
    for name in path.split(".") if path else ():
        if not hasattr(found, name):
            near = celery_names.suggest(name, [known for known in dir(found) if not known.startswith("_")])
            hint = f"; did you mean {near!r}?" if near else ""
            raise SettingsModuleNotFound(target, f"module {module.__name__!r} has no {path!r}{hint}")
        found = getattr(found, name)
    return found
