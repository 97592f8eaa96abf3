"""What a node says of itself before it is ready: where one looks first when something is wrong."""

from __future__ import annotations

import os
from typing import Any

from mesh import locate
from mesh.version import VERSION


def banner(name: str, info: dict[str, Any], log: str, with_tasks: bool) -> str:
    """The text. `info` is what `NodeOptions.on_loaded` gets, `log` where the log goes."""
    facts = {
        "app": info["app"],
        "mesh": f"{info['mesh']} in {info['directory']}",
        "router": _router(locate.Place(info["mesh"], info["directory"], False)),
        "key": "none: this host only",
        "concurrency": f"{_slots(info)} ({info['pool']})",
        "time limits": _limits(info["limits"]),
        "log": log,
    }
    lines = [
        f"{name} v{VERSION} (pid {os.getpid()})",
        "",
        "[config]",
        *(f".> {what + ':':<12} {fact}" for what, fact in facts.items()),
        "",
        "[queues]",
        *(f".> {queue}" for queue in info["queues"]),
        "",
    ]
    if with_tasks:
        lines += ["[tasks]", *(f"  . {task}" for task in info["tasks"]), ""]
    return "\n".join(lines)


def _router(place: locate.Place) -> str:
    pid = locate.router_pid(place)
    return f"pid {pid}" if pid is not None else "is being started"


def _slots(info: dict[str, Any]) -> str:
    scale = info.get("autoscale")
    return f"{{min={scale[1]}, max={scale[0]}}}" if scale else str(info["concurrency"])


def _limits(limits: list[float]) -> str:
    return ", ".join(f"{what} {s:g} s" for what, s in zip(("hard", "soft"), limits, strict=True) if s) or "none"
