"""`mesh settings`: what is in force, and who said so."""

from __future__ import annotations

import os
from typing import Any

import click

from mesh import celery_names
from mesh.masking import masked
from mesh.setting_keys import SPECS, kind_name, spec_of
from mesh.setting_layers import DEFAULT, Found
from mesh.settings import VARIABLE_PREFIX

from . import exit_codes, text
from .help import CONTEXT, examples
from .options import json_option
from .state import State

#: How like that of a setting a variable's name must be, from 0 to 1, to be a slip of the pen.
_LIKENESS = 0.85


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh -A proj settings", "what somebody has set, and where"),
        ("mesh settings --all", "all of them, without an app"),
        ("mesh -A proj settings result_expires", "of one"),
        ("mesh --config lab.toml settings --json", "for a program, with the settings of a file"),
    ),
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "show_all", is_flag=True, help="Also those that have their defaults.")
@json_option
@click.pass_obj
def command(state: State, *, names: tuple[str, ...], show_all: bool, json_out: bool) -> int:
    """Show the settings in force, and where each comes from.

    What says a setting, strongest first: the command line, the environment (MESH_ and its name), the app's code,
    config_from_object, mesh.toml, [tool.mesh] of pyproject.toml, add_defaults, the default. Secrets are masked.

    With NAME only those, else those that somebody has set. Without an app, what would hold for any.
    """
    wanted = {_name(name) for name in names}
    found = state.conf().explain()
    shown = {name: one for name, one in found.items() if _is_shown(name, one, wanted, show_all)}
    if json_out:
        click.echo(text.as_json({name: _facts(name, one) for name, one in shown.items()}))
    else:
        for line in _lines(shown, len(found) - len(shown), bool(wanted) or state.quiet):
            click.echo(line)
    for variable, near in _misspelt():
        click.echo(f"Warning: {variable} in the environment is no setting; did you mean {near}?", err=True)
    return exit_codes.OK


def _name(name: str) -> str:
    """The setting that a name means, which may be Celery's. Raises as `spec_of`."""
    alias = celery_names.SETTING_ALIASES.get(name)
    return spec_of(alias.name if alias is not None else name).name


def _is_shown(name: str, found: Found, wanted: set[str], show_all: bool) -> bool:
    return name in wanted if wanted else show_all or found.source != DEFAULT


def _facts(name: str, found: Found) -> dict[str, Any]:
    spec = SPECS[name]
    return {
        "value": masked(name, found.value),
        "source": found.source,
        "default": spec.default,
        "type": kind_name(spec),
        "unit": spec.unit,
    }


def _lines(shown: dict[str, Found], hidden: int, bare: bool) -> list[str]:
    rows = [[name, repr(masked(name, found.value)), found.source] for name, found in shown.items()]
    lines = text.columns([["setting", "value", "from"], *rows]) if rows else []
    if bare or not hidden:
        return lines
    rest = f"{hidden} {'more have' if rows else 'settings have'} their defaults; --all shows them."
    return [*lines, *([""] if rows else []), rest]


def _misspelt() -> list[tuple[str, str]]:
    """(variable, the setting's that was probably meant), of those of the environment that nothing reads."""
    variables = [spec.variable for spec in SPECS.values()]
    found = []
    for variable in sorted(os.environ):
        if variable.startswith(VARIABLE_PREFIX) and variable not in variables and not _is_of_an_option(variable):
            near = celery_names.suggest(variable, variables, _LIKENESS)
            found += [(variable, near)] if near else []
    return found


def _is_of_an_option(variable: str) -> bool:
    """Whether an option of some command is read from it. Imports the command that it would be of."""
    from .root import root

    context = click.Context(root)
    name = variable.removeprefix(VARIABLE_PREFIX).partition("_")[0].lower()
    group = root.get_command(context, name)
    options = [] if group is None else [param.name for param in group.params]
    return any(variable == f"{VARIABLE_PREFIX}{name}_{option}".upper() for option in options)
