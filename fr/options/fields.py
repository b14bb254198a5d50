"""Options as fields of a dataclass: a line gives name, type, default, help, and the options that it depends on."""

import argparse
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Self

Group = argparse._ArgumentGroup

_NEEDS = "needs"


def option(
    default: Any, kind: Any = None, help: str = "", flags: tuple[str, ...] = (), needs: str = "", **how: Any
) -> Any:
    """Declare a field that is an option. kind: its type. flags: further names. how: arguments of `add_argument`.

    needs: names of weights, probabilities or strengths; the option is refused if all of them are 0.
    """
    how = {"type": kind, "help": help, **how}
    return dataclasses.field(default=default, metadata={_NEEDS: tuple(needs.split()), "flags": flags, "how": how})


def adder(group: Group) -> Callable[..., None]:
    """Make a function `add(name, type, default, help)` for a group; it passes other arguments to `add_argument`."""

    def add(name: str, *values: Any, **how: Any) -> None:
        group.add_argument(name, **dict(zip(("type", "default", "help"), values, strict=False)), **how)

    return add


class OptionFields:
    """Base of dataclasses whose fields are options."""

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Self:
        return cls(**{name: getattr(options, name) for name in _fields(cls)})


def add_fields(group: Group, settings: type[OptionFields]) -> None:
    """Add the options that a class declares itself, not those of its bases."""
    for name in inspect.get_annotations(settings):
        field = _fields(settings)[name]
        group.add_argument(f"--{name}", *field.metadata["flags"], **{"default": field.default, **field.metadata["how"]})


def needs_of(*classes: type[OptionFields]) -> dict[str, tuple[str, ...]]:
    """Option → options of which at least one must not be 0 for it to have an effect."""
    fields = {name: field for settings in classes for name, field in _fields(settings).items()}
    return {name: field.metadata[_NEEDS] for name, field in fields.items() if field.metadata[_NEEDS]}


def _fields(settings: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(settings)}
