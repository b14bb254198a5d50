"""Settings from the command line and its `@file.yml` files, read one by one, each with its origin.

A file is one flat YAML mapping. `fr/options/definitions.py` defines the options.
"""

import argparse
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fr.errors import InputError
from fr.files.untrusted import read_text
from fr.options.commands import as_called, recipe
from fr.options.names import ELSEWHERE
from fr.options.types import is_number
from fr.options.variables import expand_variables

COMMAND_LINE = "command line"
_LARGEST = 1 << 16  # bytes, which PyYAML reads in two seconds; a recipe has one or two thousand
# Tags of YAML's plain scalars. Their text is parsed by the option's type, so 1e-4, a string in YAML 1.1, is a number
# for an option that takes numbers.
_SCALAR_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp", "merge", "value")
)
_NULL_TAG, _LIST_TAG, _MAPPING_TAG = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "seq", "map"))


@dataclass(frozen=True)
class Setting:
    """One option with its values, not yet checked."""

    origin: str  # "command line" or "configs/x.yml:12"
    name: str  # as written: "--lr" or "-m" on the command line, "lr" in a file
    words: list[str]  # the values, variables not yet expanded
    is_list: bool = False  # written as a YAML list
    problem: str = ""  # reason for which it is invalid for any option


def read_settings(argv: Sequence[str]) -> tuple[list[Setting], list[str]]:
    """The settings of a command line in order, with those of each `@file` in its place; and problems of files."""
    settings: list[Setting] = []
    unusable: list[str] = []
    last: Setting | None = None  # the option to which the next plain word belongs
    for word in argv:
        if word.startswith("@"):
            last = None
            try:
                settings += read_config_file(word[1:])
            except InputError as error:
                unusable += error.problems
        elif is_option(word):
            last = command_line_option(word)
            settings.append(last)
        elif last is not None:
            last.words.append(word)
        else:
            settings.append(Setting(COMMAND_LINE, repr(word), [], problem="belongs to no option"))
    return settings, unusable


def read_config_file(path: str) -> list[Setting]:
    """The settings of one YAML file; InputError if it can't be read as a mapping."""
    label = printable(path)
    if not path:
        raise InputError(f"{COMMAND_LINE}: '@' stands alone; write @file.yml, without a space between")
    try:
        text = read_text(recipe(path), _LARGEST, label)
        root = yaml.compose(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        remedy = "; use spaces, not tabs" if "'\\t'" in (error.problem or "") else ""
        raise InputError(f"{label}:{line}: not valid YAML: {error.problem or error.context}{remedy}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{label}:{line}: not valid YAML: the character {chr(error.character)!r}") from None
    # Exceptions that PyYAML doesn't convert: a NUL in the path, "\Uffffffff" in a string, brackets a thousand deep.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{label}: not valid YAML: {' '.join(str(error).split())}") from None
    if root is None:  # empty, or only comments
        return []
    if not isinstance(root, yaml.MappingNode) or root.tag != _MAPPING_TAG:
        line = root.start_mark.line + 1
        raise InputError(f"{label}:{line}: expected `option: value` lines at the top level")
    return list(_mapping_settings(root, label))


class _PlainLoader(yaml.SafeLoader):
    """Safe loader without anchors and aliases, with which a few lines could expand to billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None:
            raise yaml.MarkedYAMLError(problem="anchors and aliases aren't allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def find_option(options: dict[str, argparse.Action], setting: Setting, program: str) -> argparse.Action:
    """The option that a setting names; InputError with the closest ones if there is no such option."""
    if setting.problem:
        raise InputError(setting.problem)
    name = setting.name.lstrip("-")
    pointer = "" if name in options else ELSEWHERE.get(name, "")
    if pointer and (not pointer.startswith("--") or pointer.partition(",")[0].removeprefix("--") in options):
        raise InputError(f"no such option; here it is {pointer}")
    numbers = bool(setting.words) and all(word.isdecimal() for word in setting.words)
    if name in ("devices", "gpu", "gpus") or (name == "device" and numbers):
        visible = ",".join(setting.words) if numbers else "0,1"
        count = visible.count(",") + 1
        launch = f"torchrun --nproc_per_node {count}" if count > 1 else "python"
        command = f"CUDA_VISIBLE_DEVICES={visible} {as_called(f'{launch} {program}')} ..."
        raise InputError(f"choose the GPUs at the launch: {command}")
    dashes = "--" if setting.origin == COMMAND_LINE else ""
    for action in options.values():
        if setting.name in (action.option_strings if dashes else (action.dest,)):
            return action
    longer = [option for option in options if name and option.startswith(name)]
    closest = [*dict.fromkeys(longer + difflib.get_close_matches(name[:100], options, cutoff=0.5))][:2]
    if not closest:
        raise InputError("no such option; --help lists them")
    raise InputError(f"no such option; the closest: {', '.join(dashes + match for match in closest)}")


def parse_setting(parser: argparse.ArgumentParser, action: argparse.Action, setting: Setting) -> Any:
    """The value of one setting, converted by the parser; InputError if it is invalid."""
    words = [expand_variables(word) for word in setting.words]
    if setting.is_list and action.nargs != "*":
        raise InputError("expected one value, not a list")
    several = action.nargs == "*"
    stray = [word for word in words if is_option(word)] if several else words[1:]
    if stray:
        raise InputError(f"unexpected value {stray[0]!r}")
    if not words and action.nargs is None:
        raise InputError("expected a value")
    try:  # word by word: argparse would drop a value `--`, and take -1e-3 for an option
        values = [parser._get_value(action, word) for word in words]
        for value in values:
            parser._check_value(action, value)
    except argparse.ArgumentError as error:
        numbers = re.split(r"[,\s]+", words[0].strip("[], ")) if several and len(words) == 1 else []
        written = " ".join(numbers) if setting.origin == COMMAND_LINE else f"[{', '.join(numbers)}]"
        separated = len(numbers) > 1 and all(map(is_number, numbers))
        remedy = f"; several values are written {written}" if separated else ""
        raise InputError(f"{error.message}{remedy}") from None
    return values if several else values[0] if values else action.const


def yaml_text(value: object) -> str:
    """Format a builtin for a config file, on one line after `key: `, so that it is read back as the same value."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = value.replace("$", "$$")
        return str(yaml.safe_dump(text, default_style='"', width=10**9, allow_unicode=True)).rstrip("\n")
    return repr(value)


def is_option(word: str) -> bool:
    """Test if a word begins an option: one that is a negative number is a value."""
    return word.startswith("-") and word != "-" and not is_number(word)


def printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def command_line_option(word: str) -> Setting:
    """Parse `--name`, `--name=value`, `-n`, `-nvalue` or `-n=value`."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return Setting(COMMAND_LINE, name, [value] if equals else [])
    value = word[2:]
    return Setting(COMMAND_LINE, word[:2], [value.removeprefix("=")] if value else [])


def _mapping_settings(root: yaml.MappingNode, label: str) -> Iterator[Setting]:
    first_line: dict[str, int] = {}
    for key, value in root.value:
        line = key.start_mark.line + 1
        origin = f"{label}:{line}"
        if not isinstance(key, yaml.ScalarNode):
            yield Setting(origin, "? :", [], problem="an option's name is due here, not a list or mapping")
            continue
        name = printable(key.value)
        is_list = isinstance(value, yaml.SequenceNode)
        words = value.value if is_list else [value]
        problem = next(filter(None, map(_scalar_problem, words)), "")
        if is_list and value.tag != _LIST_TAG:
            problem = f"the YAML tag {printable(value.tag)!r} isn't allowed"
        if name in first_line:
            problem = f"given twice in this file, first on line {first_line[name]}"
        first_line.setdefault(name, line)
        yield Setting(origin, name, [] if problem else [word.value for word in words], is_list, problem)


def _scalar_problem(node: yaml.Node) -> str:
    if node.tag == _NULL_TAG:
        return "has no value; write '' for an empty one"
    if not isinstance(node, yaml.ScalarNode):
        return "expected a value or a flat list of values; files hold no nested structure"
    if node.tag not in _SCALAR_TAGS:
        return f"the YAML tag {printable(node.tag)!r} isn't allowed"
    return ""
