"""The group `mesh`: options that hold for all commands, and the way to each. Only the command called is imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from mesh import setting_files
from mesh.version import VERSION

from . import errors, exit_codes
from .help import CONTEXT, examples
from .service import Service
from .state import Origin, State
from .usage import usage

if TYPE_CHECKING:
    from mesh.app import Mesh

#: {command: what it does}. The module of the same name holds it as `command`.
COMMANDS: Final = {
    "call": "Call a task by its name.",
    "control": "Change what the mesh does: revoke calls.",
    "dead": "See what was given up, and run it again or throw it away.",
    "demo": "Show mesh at work, on a mesh of its own that is gone afterwards.",
    "inspect": "Ask the nodes what they do.",
    "journal": "Look into what this host's router keeps on disk, or compact it.",
    "router": "Run this host's router in the foreground.",
    "settings": "Show the settings in force, and where each comes from.",
    "status": "Show the router, the nodes and the queues.",
    "worker": "Run a node: it executes tasks.",
}


class Root(click.Group):
    """1. Imports only the command that is called. 2. Knows what a mistyped one may have been."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __package__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command in the error."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(self.list_commands(ctx))}."
            ctx.fail(f"No such command {name!r}. {hint}")
        return super().resolve_command(ctx, args)


def _no_colour(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.obj.colour = False


@click.command(
    cls=Root,
    context_settings={**CONTEXT, "auto_envvar_prefix": "MESH"},
    invoke_without_command=True,
    epilog=examples(
        ("mesh -A proj worker -l INFO", "run a node with the tasks of proj"),
        ("mesh status", "who is there, and what waits"),
        ("mesh -A proj inspect active", "what runs now"),
        ("mesh call proj.tasks.add -a '[2, 2]' --wait", "call a task and print its value"),
    ),
)
@click.option(
    "-A", "--app", "target", metavar="APP", envvar="MESH_APP", help="Module that holds the app, or module:attribute."
)
@click.option(
    "-b",
    "--broker",
    metavar="URL",
    allow_from_autoenv=False,  # MESH_BROKER_URL is the variable of a setting, and read as such
    help="The mesh: mesh://NAME or mesh:///a/directory [default: mesh://default].",
)
@click.option(
    "--config",
    metavar="FILE",
    envvar=setting_files.VARIABLE,
    help="File of settings, TOML [default: mesh.toml, and [tool.mesh] of pyproject.toml].",
)
@click.option(
    "--workdir", metavar="DIR", type=click.Path(exists=True, file_okay=False), help="Change to this directory first."
)
@click.option(
    "-C",
    "--no-color",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_no_colour,
    help="No colours; so does NO_COLOR in the environment.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print less: no banner, no counts.")
@click.version_option(VERSION, "--version", prog_name="mesh", message="%(prog)s %(version)s")
@click.pass_context
def root(
    ctx: click.Context, *, target: str | None, broker: str | None, config: str | None, workdir: str | None, quiet: bool
) -> None:
    """A task queue without a broker: install it, start nodes, call functions.

    Each option can be set in the environment: MESH_APP, MESH_BROKER_URL, MESH_CONFIG, and MESH_COMMAND_OPTION for those
    of a command, such as MESH_WORKER_CONCURRENCY. So can each setting, as MESH_SETTING: see "mesh settings".
    """
    origin: Origin = ctx.obj
    ctx.color = _colour(origin)
    started_in = _current_directory()
    if workdir is not None:
        os.chdir(workdir)
    if config is not None:
        # For the processes of this command too, which may work in other directories.
        os.environ[setting_files.VARIABLE] = os.path.abspath(config)
    state = ctx.obj = State(origin.app, target, broker, quiet, started_in, origin.colour)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    state.apply_broker()


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def main(argv: Sequence[str], app: Mesh | None = None) -> NoReturn:
    """Runs one command line, without the program's name, and exits. `app` stands in for -A."""
    sys.exit(run(argv, app))


def run(argv: Sequence[str], app: Mesh | None = None) -> int:
    """As `main`, and returns the exit code."""
    done = read(argv, app)
    return done if isinstance(done, int) else errors.exit_code(done.run, colour=done.state.colour)


def read(argv: Sequence[str], app: Mesh | None = None) -> int | Service:
    """Runs one command line but for the service that it asks for; the exit code, where it asks for none."""
    origin = Origin(app)
    services: list[Service] = []

    def work() -> int | None:
        done: Any = root.main(args=list(argv), prog_name="mesh", standalone_mode=False, obj=origin)
        if isinstance(done, Service):
            services.append(done)
            return None
        return int(done or exit_codes.OK)

    try:
        code = errors.exit_code(work, colour=origin.colour)
    except click.ClickException as error:
        return usage(error, argv, colour=origin.colour)
    except click.Abort:
        return exit_codes.INTERRUPTED
    return services[0] if services else code


def _colour(origin: Origin) -> bool | None:
    """As click takes it: None is on a terminal only."""
    return None if origin.colour else False
