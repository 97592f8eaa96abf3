"""Which setting a key means, and its value in the one form in which it is kept; also from text."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Union, get_args, get_origin

from mesh import celery_names
from mesh.exceptions import InvalidSetting, SettingNotAvailable, UnknownSetting
from mesh.masking import masked
from mesh.settings import SETTINGS, SettingSpec, check

#: {name: setting}, in the order of the table.
SPECS: Final = {spec.name: spec for spec in SETTINGS}
#: Every key that can be given.
KEYS: Final = (*SPECS, *celery_names.SETTING_ALIASES)

#: As click reads them, so that an option and a setting understand the same.
_WORDS: Final = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}


def spec_of(name: str, where: str = "") -> SettingSpec:
    """The setting of this name.

    Raises:
        SettingNotAvailable: Celery has it, or had it under this name.
        UnknownSetting: nobody has it. `where`, a phrase, is named in the error.
    """
    spec = SPECS.get(name)
    if spec is not None:
        return spec
    reason = reason_without(name)
    if reason is not None:
        raise SettingNotAvailable(name, reason, where)
    raise UnknownSetting(name, celery_names.suggest(name, KEYS), where)


def reason_without(name: str) -> str | None:
    """Why a key of Celery's is no setting here, and what to do; None for one that Celery has not either."""
    reason = celery_names.setting_reason(name)
    if reason is not None:
        return reason
    newer = celery_names.newer_name(name, (*KEYS, *celery_names.SETTINGS))
    if newer is None:
        return None
    return celery_names.setting_reason(newer) or f"write {newer}"


def accepted(name: str, value: Any, where: str = "") -> tuple[str, Any]:
    """A setting and its value as it is kept, from what either may be called in Celery.

    Raises:
        UnknownSetting, SettingNotAvailable, InvalidSetting, UnsupportedURL: a key or value that can't be.
    """
    alias = celery_names.SETTING_ALIASES.get(name)
    if alias is None:
        return name, check(spec_of(name, where), value, where)
    try:
        return alias.name, alias.ours(value)
    except ValueError:
        raise InvalidSetting(name, value, alias.allowed, where) from None


def all_accepted(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """As `accepted`, of several."""
    return dict(accepted(name, value, where) for name, value in values.items())


# --- text ----------------------------------------------------------------------------------------


def accepted_text(name: str, text: str, where: str) -> tuple[str, Any]:
    """As `accepted`, from text: what a variable of the environment or a command line says."""
    text = text.strip()
    if name in celery_names.SETTING_ALIASES:
        return accepted(name, int(text) if text.isdecimal() else text, where)
    spec = spec_of(name, where)
    return name, check(spec, _read(spec, text, where), where)


def or_none(name: str, value: Any) -> Any:
    """None for the word `none`, which stands for it where a form has no None of its own; else the value."""
    spec = SPECS.get(name)
    said_none = isinstance(value, str) and value.strip().lower() == "none"
    return None if said_none and spec is not None and type(None) in _alternatives(spec.kind) else value


def kind_name(spec: SettingSpec) -> str:
    """The type of a setting as people write it: `float | None`, `tuple[str, ...]`."""
    names = ["None" if kind is type(None) else _name_of(kind) for kind in _alternatives(spec.kind)]
    return " | ".join(names)


def _read(spec: SettingSpec, text: str, where: str) -> Any:
    """The text as the first of the setting's types that it can be: None, bool, int, float, a list, text."""
    kinds = _alternatives(spec.kind)
    for kind, read in _READERS.items():
        wanted = next((one for one in kinds if (get_origin(one) or one) is kind), None)
        if wanted is None:
            continue
        try:
            return read(wanted, text)
        except (ValueError, KeyError):
            continue
    raise InvalidSetting(spec.name, masked(spec.name, text), spec.allowed, where)


def _none(kind: Any, text: str) -> None:
    if text.lower() != "none":
        raise ValueError


def _items(kind: Any, text: str) -> tuple[Any, ...]:
    """What stands between commas."""
    element = get_args(kind)[0]
    return tuple(element(part) for part in (part.strip() for part in text.split(",")) if part)


#: {type: what reads it from (its annotation, text), or raises ValueError or KeyError}, in the order of trying.
_READERS: Final[dict[Any, Callable[[Any, str], Any]]] = {
    type(None): _none,
    bool: lambda kind, text: _WORDS[text.lower()],
    int: lambda kind, text: int(text),
    float: lambda kind, text: float(text),
    tuple: _items,
    str: lambda kind, text: text,
}


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _name_of(kind: Any) -> str:
    return str(kind) if get_origin(kind) else str(kind.__name__)
