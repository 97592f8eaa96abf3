"""Settings on the command line: `KEY=VALUE`, behind the options."""

from __future__ import annotations

from collections.abc import Sequence

import click


def split(words: Sequence[str]) -> dict[str, str]:
    """{setting: text}. A key that begins with a dot is one of the worker's: `.concurrency` is `worker_concurrency`."""
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (equals and key.strip(".")):
            raise click.UsageError(f"{word!r} is no setting: give KEY=VALUE, such as worker_concurrency=4.")
        found[f"worker{key}".replace(".", "_") if key.startswith(".") else key.replace(".", "_")] = text
    return found
