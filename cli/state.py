"""What the options before the command say, and what follows from them: the app, the place, the settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from mesh import locate
from mesh.settings import Settings

from . import exit_codes
from .errors import Failed

if TYPE_CHECKING:
    from mesh.app import Mesh


class Origin:
    """What a command line starts from, and what it has said so far of colours; also there when it can't be read."""

    def __init__(self, app: Mesh | None) -> None:
        self.app = app
        self.colour = not os.environ.get("NO_COLOR")


class State(NamedTuple):
    """One per command line. Nothing is imported or connected before it is asked for."""

    app: Mesh | None  #: of a program that called `app.start()`
    target: str | None  #: -A
    broker: str | None  #: -b
    quiet: bool
    colour: bool  #: False with -C or NO_COLOR; even without them only on a terminal

    def apply_broker(self) -> None:
        """Makes -b hold in this process and those it starts, before what the app itself says."""
        if self.broker is None:
            return
        locate.locate(self.broker)
        os.environ["MESH_BROKER_URL"] = self.broker
        if self.app is not None:
            self.app.conf.broker_url = self.broker

    def find_app(self) -> Mesh | None:
        """The app of the program or of -A; None where neither is given.

        Raises:
            AppNotFound, TaskModuleNotFound: -A names none, or its module fails.
        """
        if self.app is not None or self.target is None:
            return self.app
        from mesh.loading import find_app

        return find_app(self.target)

    def need_app(self, example: str) -> None:
        """Raises Failed where no app is given."""
        if self.app is None and self.target is None:
            raise Failed(
                f'no app is given: name the module that holds it, as in "{example}", or set MESH_APP', exit_codes.USAGE
            )

    def settings(self) -> Settings:
        """The app's, or the defaults."""
        app = self.find_app()
        return Settings(broker_url=self.broker) if app is None else app.settings
