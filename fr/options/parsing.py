"""Command line and @files → the options of one run, each with its origin.

`@file.yml` anywhere on the command line reads that file; the later setting wins (`fr/options/config_files.py`).
ConfigArgParse builds the parser and converts values, but doesn't read the files: it would let the command line win over
a file regardless of their order, stop at the first problem, name neither file, line nor the closest option, and keep no
line numbers for the table of options.
"""

import argparse
import ast
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import configargparse

from fr.errors import InputError
from fr.options.commands import SCRIPTS, as_called, command_name
from fr.options.config_files import (
    Setting,
    command_line_option,
    find_option,
    is_option,
    parse_setting,
    printable,
    read_settings,
    yaml_text,
)
from fr.options.recipes import drop_replaced
from fr.options.types import BOOLEANS, Value
from fr.options.variables import UnsetVariables

Checks = Callable[[dict[str, Any], dict[str, str], dict[str, Any]], list[str]]


@dataclass(frozen=True)
class Resolved:
    """Values and origins of the options of one run."""

    values: argparse.Namespace
    origins: dict[str, str]  # option → "default", "command line" or "configs/x.yml:12"
    defaults: dict[str, Any]
    notes: list[str] = field(default_factory=list)  # lines to print about settings of a recipe that were dropped

    def as_dict(self) -> dict[str, Value]:
        """Values as builtins, for a snapshot."""
        return {name: list(v) if isinstance(v, list) else v for name, v in vars(self.values).items()}

    def said(self, names: Iterable[str], why: str) -> list[str]:
        """A problem, with the text `why`, for each of these options that was set."""
        return [f"{self.origins[name]}: --{name}: {why}" for name in names if self.origins[name] != "default"]

    def table(self) -> str:
        """Aligned lines `name = value   (origin)` for the options that aren't at their defaults."""
        changed = {name: value for name, value in self.as_dict().items() if value != self.defaults[name]}
        rows = [(name, yaml_text(value), self.origins[name]) for name, value in changed.items()]
        names, values = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
        return "\n".join(f"{name:{names}} = {value:{values}}   ({origin})" for name, value, origin in rows)

    def write(self, path: str | Path) -> None:
        """Write a config file that gives the same values when it is read with `@path`, with origins as comments."""
        lines = [f"{name}: {yaml_text(v)}  # {self.origins[name]}\n" for name, v in self.as_dict().items()]
        Path(path).write_text("".join(lines), encoding="utf-8")


class _ToolParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """InputError in place of argparse's usage and exit."""
        raise InputError(message)


def tool_parser(program: str, **more: Any) -> argparse.ArgumentParser:
    """Plain argparse parser for the arguments of a tool; --help shows the docstring of its script.

    It raises InputError for arguments that it refuses.
    """
    form = argparse.RawDescriptionHelpFormatter
    return _ToolParser(command_name(program), description=docstring(program), formatter_class=form, **more)


def own_arguments(
    tool: argparse.ArgumentParser, argv: Sequence[str], other: argparse.ArgumentParser
) -> tuple[argparse.Namespace, list[str]]:
    """Split `argv` into the arguments of a tool, in any order, and the words for the program of the parser `other`.

    The tool's --help gets a pointer to the other's. argparse alone would treat the value of an unknown option as a
    positional argument.
    """
    own = tool.format_usage().removeprefix("usage: ").rstrip()
    tool.usage = tool.usage or f"{own} [@file.yml] [--option of {other.prog}] ..."
    tool.epilog = "\n\n".join(filter(None, [tool.epilog, f"All other options: {other.prog} --help"]))
    options = {name: action for action in other._actions for name in action.option_strings}
    of_tool: list[str] = []
    rest: list[str] = []
    flag, room = False, 0.0  # room: number of following words that are values of the last option of `other`
    for word in argv:
        if is_option(word):
            setting = command_line_option(word)
            action = None if setting.name in tool._option_string_actions else options.get(setting.name)
            passed = action is not None
            flag = action is not None and action.nargs == "?"
            room = 0 if action is None else math.inf if action.nargs == "*" else 1 - len(setting.words)
        elif word.startswith("@"):
            passed, room = True, 0
        else:
            passed = room > 0 and (not flag or word.lower() in BOOLEANS)
            room -= 1
        (rest if passed else of_tool).append(word)
    arguments, unknown = tool.parse_known_intermixed_args(of_tool)
    return arguments, [*unknown, *rest]  # in this order, no unknown word becomes the value of another option


def docstring(script: str) -> str:
    """Docstring of a script, read without importing it."""
    return as_called(ast.get_docstring(ast.parse((SCRIPTS / script).read_bytes())) or "")


def new_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Parser for `resolve`, without options yet."""
    parser: argparse.ArgumentParser = configargparse.ArgumentParser(
        prog=command_name(program),
        usage=f"{command_name(program)} [@file.yml] [--option value] ...",
        description=description,
        epilog="@file.yml anywhere reads `option: value` lines from that file; the later setting wins. "
        "$NAME in a value is an environment variable, $$ a dollar sign.",
        allow_abbrev=False,
        exit_on_error=False,
        add_config_file_help=False,
        add_env_var_help=False,
    )
    return parser


def resolve(
    parser: argparse.ArgumentParser, argv: Sequence[str], cross_checks: Checks, first: Sequence[str] = ()
) -> Resolved:
    """Parse each setting separately, so that all problems are reported together, and merge them in order.

    InputError holds every problem found. `--help` prints, beginning with the options `first`, and exits.
    """
    options = {action.dest: action for action in parser._actions if action.dest != "help"}
    if {"-h", "--help"} & set(argv):
        _show_help(parser, options, first)
    settings, problems = read_settings(argv)
    all_read = not problems
    last: dict[str, Setting] = {}  # the setting of each option that counts
    for setting in settings:
        with suppress(InputError):  # it is raised again below
            last[find_option(options, setting, parser.prog).dest] = setting
    notes = drop_replaced(last, settings)
    values: dict[str, Value] = {}
    origins: dict[str, str] = {}
    unset: set[str] = set()  # environment variables: one problem each, however many settings name it
    for setting in settings:
        try:
            action = find_option(options, setting, parser.prog)
            if last.get(action.dest) is setting:
                origins[action.dest] = setting.origin
                values[action.dest] = parse_setting(parser, action, setting)
        except InputError as error:
            if isinstance(error, UnsetVariables):
                if unset.issuperset(error.names):
                    continue
                unset.update(error.names)
            where = f"{setting.origin}: {printable(setting.name)}"
            problems += [f"{where}: {problem}" for problem in error.problems]
    for name, action in options.items():
        if name not in origins:
            origins[name], values[name] = "default", action.default
    defaults = {name: action.default for name, action in options.items()}
    if all_read:  # otherwise a missing option may be in the file that couldn't be read
        problems += [f"--{name} is required" for name, value in values.items() if value is None]
        problems += cross_checks(values, origins, defaults)
    if problems:
        raise InputError(*problems)
    ordered = {name: values[name] for name in options}
    return Resolved(argparse.Namespace(**ordered), {name: origins[name] for name in options}, defaults, notes)


def _show_help(parser: argparse.ArgumentParser, options: dict[str, argparse.Action], first: Sequence[str]) -> None:
    """Print the options with their defaults, `first` at the start and the others by group, and exit."""
    for action in options.values():
        default = "required" if action.default is None else f"default: {yaml_text(action.default)}"
        action.help = f"{action.help} ({default})"
    if first:
        start = parser.add_argument_group("to begin with")
        start._group_actions = [options[name] for name in first]
        for group in parser._action_groups[:-1]:
            group._group_actions = [action for action in group._group_actions if action.dest not in first]
        parser._action_groups = [start, *parser._action_groups[:-1]]
    parser.parse_args(["--help"])
