"""Whether an app that has been imported may be forked: threads and CUDA do not survive it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from types import FrameType, ModuleType

#: A process that has one of these open has a CUDA context.
_CUDA_DEVICES = "/dev/nvidia"


class Watch:
    """Who has started which threads, while an app was imported."""

    def __init__(self) -> None:
        #: {thread: the module that has started it}
        self._started: dict[threading.Thread, str] = {}

    def saw(self, thread: threading.Thread, frame: FrameType | None) -> None:
        """A thread is started, from this frame."""
        self._started[thread] = _module_of(frame)

    def obstacle(self) -> str:
        """Why this process must not be forked, as a sentence that names the module; empty where it may."""
        living = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        if living:
            thread = living[0]
            return (
                f"module {self._started.get(thread, 'unknown')!r} starts a thread ({thread.name}) when it is imported"
            )
        if _has_cuda():
            return f"module {_cuda_module()!r} starts CUDA when it is imported"
        return ""


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Notes who starts threads."""
    watch, start = Watch(), threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        watch.saw(thread, sys._getframe(1))
        start(thread)

    threading.Thread.start = noted  # type: ignore[method-assign, assignment]
    try:
        yield watch
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]


def _module_of(frame: FrameType | None) -> str:
    """The module that is being imported, or that calls; not the library that starts the thread for it."""
    called_by = "unknown"
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if called_by == "unknown" and name not in ("threading", "concurrent.futures.thread"):
            called_by = name
        if frame.f_code.co_name == "<module>":
            return name
        frame = frame.f_back
    return called_by


def _has_cuda() -> bool:
    torch: ModuleType | None = sys.modules.get("torch")
    if torch is not None and getattr(torch, "cuda", None) is not None and torch.cuda.is_initialized():
        return True
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return False
    return any(_target(fd).startswith(_CUDA_DEVICES) for fd in descriptors)


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def _cuda_module() -> str:
    """The library that is likely to have done it."""
    return next(
        (name for name in ("torch", "cupy", "tensorflow", "jax", "numba.cuda") if name in sys.modules), "unknown"
    )
