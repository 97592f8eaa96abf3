"""What `%n` and the like stand for in the paths of log and pid files, as in Celery."""

from __future__ import annotations

import re

from mesh.exceptions import InvalidCall


def expand(text: str, *, option: str, node: str, index: int = 0) -> str:
    """The path of this node's process: `index` is 0 for the node itself and counts its slots from 1.

    %p the node's whole name, %n the part before @, %h the host, %d its domain, %i the index, %I the index behind a
    dash and nothing for the node itself, %% a percent sign.

    Raises:
        InvalidCall: another letter; the error names `option`.
    """
    name, _, host = node.partition("@")
    parts = {
        "%p": node,
        "%n": name,
        "%h": host,
        "%d": host.partition(".")[2],
        "%i": str(index),
        "%I": f"-{index}" if index else "",
        "%%": "%",
    }

    def part(found: re.Match[str]) -> str:
        if found[0] not in parts:
            raise InvalidCall(option, text, f"a path in which a percent sign begins one of {' '.join(parts)}")
        return parts[found[0]]

    return re.sub("%.?", part, text)
