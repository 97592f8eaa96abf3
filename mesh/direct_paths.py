"""The direct paths from a slot to callers on its host: results go straight to whoever waits for them (DESIGN D8)."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from mesh import ids, locate, messages, transport
from mesh.core.work import Ended, results_message

#: Callers whose reply sockets are kept connected.
CALLERS_MAX: Final = 64


class _Direct:
    """The path to one caller: a DEALER that is up once the caller has answered."""

    def __init__(self, link: transport.Link) -> None:
        self.link = link
        self.up = False


class DirectPaths:
    """1. Connects to callers as there is something to tell them. 2. Tells them, where a path is up."""

    def __init__(
        self, context: Any, directory: str, poller: transport.Poller, hello: Callable[[], messages.Hello]
    ) -> None:
        self._context = context
        self._directory = directory
        self._poller = poller
        self._hello = hello
        #: {id prefix: path}, least recently used first.
        self._paths: OrderedDict[bytes, _Direct] = OrderedDict()

    def tell(self, by_caller: dict[bytes, list[Ended]]) -> None:
        """Sends each caller its results. Those that go another way are marked as not delivered."""
        for prefix, ended in by_caller.items():
            if not self._send(prefix, ended):
                for one in ended:
                    one.record[6] = False

    def look(self) -> None:
        """Whether callers that are being connected to have answered."""
        for direct in self._paths.values():
            if not direct.up:
                self._look_for_hello_ok(direct)

    def close(self) -> None:
        """Gives all of them up."""
        for prefix in list(self._paths):
            self._drop(prefix)

    def _send(self, prefix: bytes, ended: list[Ended]) -> bool:
        direct = self._paths.get(prefix)
        if direct is None:
            self._dial(prefix)
            return False
        self._paths.move_to_end(prefix)
        if not direct.up:
            self._look_for_hello_ok(direct)
        if not direct.up:
            return False
        if direct.link.send(*results_message(ended)):
            return True
        self._drop(prefix)
        return False

    def _dial(self, prefix: bytes) -> None:
        path = locate.reply_path(self._directory, ids.read(ids.stamp(prefix, 0)).incarnation)
        if not os.path.exists(path):
            return
        if len(self._paths) >= CALLERS_MAX:
            self._drop(next(iter(self._paths)))
        link = transport.Link(self._context, f"ipc://{path}", reconnect=False)
        link.send(self._hello())
        self._paths[prefix] = _Direct(link)
        self._poller.add(link)

    def _look_for_hello_ok(self, direct: _Direct) -> None:
        for message, _ in direct.link.receive():
            if type(message) is messages.HelloOk:
                direct.up = True
                self._poller.remove(direct.link)

    def _drop(self, prefix: bytes) -> None:
        direct = self._paths.pop(prefix)
        self._poller.remove(direct.link)
        direct.link.close()
