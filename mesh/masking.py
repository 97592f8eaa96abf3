"""What must not be shown: the values of settings that are secrets, and passwords in URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "********"
#: Celery's list: a name with one of these in it is that of a secret.
_SECRET: Final = re.compile("API|TOKEN|KEY|SECRET|PASS|SIGNATURE|DATABASE", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"(//[^/@\s]*?:)[^/\s]*@")


def masked(name: str, value: Any) -> Any:
    """The value of a setting as it may be shown: a mask for a secret, and for passwords in URLs however deep."""
    if value is None or isinstance(value, bool):
        return value
    if _SECRET.search(name):
        return MASK
    if isinstance(value, str):
        return _PASSWORD.sub(rf"\g<1>{MASK}@", value)
    if isinstance(value, Mapping):
        return {key: masked(str(key), item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(masked("", item) for item in value)
    return value
