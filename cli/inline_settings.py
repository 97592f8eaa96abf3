"""Settings on the command line: `KEY=VALUE`, behind the options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from mesh.app import Mesh

_WORDS: Final = {"true": True, "false": False, "none": None}


def split(words: Sequence[str]) -> dict[str, str]:
    """{setting: text}. A key that begins with a dot is one of the worker's: `.concurrency` is `worker_concurrency`."""
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (equals and key.strip(".")):
            raise click.UsageError(f"{word!r} is no setting: give KEY=VALUE, such as worker_concurrency=4.")
        found[f"worker{key}".replace(".", "_") if key.startswith(".") else key.replace(".", "_")] = text
    return found


def apply(app: Mesh, settings: dict[str, str]) -> None:
    """Sets them.

    Raises:
        UnknownSetting, SettingNotAvailable, InvalidSetting, UnsupportedURL: a key or value that can't be.
    """
    app.conf.update({key: _value(text) for key, text in settings.items()})


def _value(text: str) -> Any:
    """A word for True, False and None, a number, or text."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
