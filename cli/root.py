"""The group `mesh`: options that hold for all commands, and the way to each. Only the command called is imported."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from mesh import setting_files
from mesh.version import VERSION

from . import errors, exit_codes
from .errors import Failed
from .help import CONTEXT, examples
from .service import Service
from .state import State, current_directory
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
        errors.coloured = False


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
    app: Mesh | None = ctx.obj
    ctx.color = None if errors.coloured else False  # None is on a terminal only
    started_in = current_directory()
    needs_directory = target is not None or (config is not None and not os.path.isabs(config))
    if needs_directory and started_in is None and workdir is None:
        raise Failed("the current directory is gone. Change to one that exists, or give --workdir.", exit_codes.USAGE)
    if workdir is not None:
        os.chdir(workdir)
    if config is not None:
        # For the processes of this command too, which may work in other directories.
        os.environ[setting_files.VARIABLE] = os.path.abspath(config)
    state = ctx.obj = State(app, target, broker, quiet, started_in, errors.coloured)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    state.apply_broker()


def run(argv: Sequence[str], app: Mesh | None = None) -> int:
    """Runs one command line, without the program's name. `app` stands in for -A. Returns the exit code."""
    done = read(argv, app)
    return done if isinstance(done, int) else errors.run_saying_errors(done.run)


def read(argv: Sequence[str], app: Mesh | None = None) -> int | Service:
    """As `run`, but for the service that the command line asks for, where it does: that is returned."""
    errors.coloured = not os.environ.get("NO_COLOR")

    def work() -> int | Service:
        done: int | Service | None = root.main(args=list(argv), prog_name="mesh", standalone_mode=False, obj=app)
        return exit_codes.OK if done is None else done

    try:
        return errors.run_saying_errors(work)
    except click.ClickException as error:
        return usage(error, argv)
    except click.Abort:
        return exit_codes.INTERRUPTED
