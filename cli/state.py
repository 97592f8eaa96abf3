"""What the options before the command say, and what follows from them: the app, the place, the settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from mesh import locate
from mesh.conf import Conf
from mesh.settings import VARIABLE_PREFIX, Settings

from . import exit_codes
from .errors import Failed

if TYPE_CHECKING:
    from mesh.app import Mesh


_BROKER_VARIABLE: Final = f"{VARIABLE_PREFIX}BROKER_URL"


def current_directory() -> str | None:
    """None where it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


class State(NamedTuple):
    """One per command line. Nothing is imported or connected before it is asked for."""

    app: Mesh | None  #: of a program that called `app.start()`
    target: str | None  #: -A
    broker: str | None  #: -b
    quiet: bool
    started_in: str | None  #: the directory that the command line was written in; None where it is gone
    colour: bool  #: False with -C or NO_COLOR; even without them only on a terminal

    def apply_broker(self) -> None:
        """Makes -b hold in this process and those it starts, before what the app itself says."""
        if self.broker is None:
            return
        locate.locate(self.broker)
        os.environ[_BROKER_VARIABLE] = self.broker
        if self.app is not None:
            self._overrule(self.app.conf)

    def find_app(self) -> Mesh | None:
        """The app of the program or of -A; None where neither is given.

        Raises:
            AppNotFound, TaskModuleNotFound: -A names none, or its module fails.
        """
        if self.app is not None or self.target is None:
            return self.app
        from mesh.loading import find_app

        app = find_app(self.target)
        self._overrule(app.conf)
        return app

    def need_app(self, example: str) -> None:
        """Raises Failed where no app is given."""
        if self.app is None and self.target is None:
            raise Failed(
                f'no app is given: name the module that holds it, as in "{example}", or set MESH_APP', exit_codes.USAGE
            )

    def conf(self) -> Conf:
        """The app's, or that of no app: with what files, the environment and the command line say."""
        app = self.find_app()
        return self.conf_before_the_app() if app is None else app.conf

    def conf_before_the_app(self) -> Conf:
        """What can be known without importing the app of -A."""
        if self.app is not None:
            return self.app.conf
        conf = Conf()
        self._overrule(conf)
        return conf

    def settings(self) -> Settings:
        """Those of `conf`, as they stand.

        Raises:
            ImproperlyConfigured: a file, a variable or the app says what can't be.
        """
        return self.conf().freeze()

    def _overrule(self, conf: Conf) -> None:
        if self.broker is not None:
            conf.override({"broker_url": self.broker})
